"""What a setting is called that cannot be read: as it was given."""

from __future__ import annotations

import pytest

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings, setting_names
from bulkfetch.settings.sources import read_settings
from bulkfetch.words import speaking_of_flags


@pytest.mark.parametrize("name", setting_names())
def test_a_bad_value_is_called_as_it_was_given(name: str) -> None:
    """By the keyword in Python, by the flag on the command line."""
    with pytest.raises(SettingsError) as in_python:
        read_settings(**{name: object()})  # type: ignore[arg-type]  # what is wrong with it
    with speaking_of_flags(), pytest.raises(SettingsError) as on_command_line:
        read_settings(**{name: object()})  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as beside:
        read_settings(Settings(), **{name: object()})  # type: ignore[arg-type]
    assert str(in_python.value).startswith(f"{name}=: ")
    assert str(beside.value) == str(in_python.value)
    assert str(on_command_line.value).startswith(f"--{name.replace('_', '-')}: ")
