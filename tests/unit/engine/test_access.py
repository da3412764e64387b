from __future__ import annotations

import pickle

import pytest

from bulkfetch.engine.access import access_for
from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

SETTINGS = Settings(
    token=Secret("hush"), storage_key=Secret("keep"), storage_sas=Secret("keep"), max_in_flight=16
)


@pytest.mark.parametrize(("tasks", "share"), [(1, 16), (3, 5), (16, 1), (40, 1)])
def test_tasks_have_equal_shares_and_one_request_at_least(tasks: int, share: int) -> None:
    assert access_for(SETTINGS, tasks=tasks).settings.max_in_flight == share


def test_a_rate_is_shared_as_well() -> None:
    rated = Settings(token=Secret("hush"), max_requests_per_second=10)

    assert access_for(rated, tasks=4).settings.max_requests_per_second == 2.5
    assert access_for(SETTINGS, tasks=4).settings.max_requests_per_second is None


def test_an_access_is_sent_with_what_is_needed_to_ask_and_shows_nothing() -> None:
    access = pickle.loads(pickle.dumps(access_for(SETTINGS, tasks=2)))

    assert access == access_for(SETTINGS, tasks=2)
    assert access.settings.token == Secret("hush")
    assert (access.settings.storage_key, access.settings.storage_sas) == (None, None)
    assert "hush" not in repr(access)


def test_there_is_a_task_at_least() -> None:
    with pytest.raises(SettingsError, match="tasks: must be at least 1, not 0"):
        access_for(SETTINGS, tasks=0)
