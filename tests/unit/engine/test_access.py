from __future__ import annotations

import pickle

import pytest

from bulkfetch.engine.access import (
    own_access,
    shared_access,
    without_credentials,
    without_secrets,
)
from bulkfetch.engine.handle import Handle
from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import GROUPS, Settings, settings_of
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials

SETTINGS = Settings(
    token=Secret("hush"), storage_key=Secret("keep"), storage_sas=Secret("keep"), max_in_flight=16
)


@pytest.mark.parametrize(("tasks", "share"), [(1, 16), (3, 5), (16, 1), (40, 1)])
def test_tasks_have_equal_shares_and_one_request_at_least(tasks: int, share: int) -> None:
    assert own_access(SETTINGS, tasks=tasks).settings.max_in_flight == share


def test_a_rate_is_shared_as_well() -> None:
    rated = Settings(token=Secret("hush"), max_requests_per_second=10)

    assert own_access(rated, tasks=4).settings.max_requests_per_second == 2.5
    assert own_access(SETTINGS, tasks=4).settings.max_requests_per_second is None


def test_an_access_is_sent_with_what_is_needed_to_ask_and_shows_nothing() -> None:
    access = pickle.loads(pickle.dumps(own_access(SETTINGS, tasks=2)))

    assert access == own_access(SETTINGS, tasks=2)
    assert access.settings.token == Secret("hush")
    assert (access.settings.storage_key, access.settings.storage_sas) == (None, None)
    assert "hush" not in repr(access)


def test_who_asks_by_a_coordinator_has_no_credentials() -> None:
    handle = Handle("127.0.0.1", 1, fingerprint="f", nonce=Secret("word"))
    full = Settings(
        token=Secret("hush"),
        graph_token=Secret("hush"),
        token_command=Secret("echo hush"),
        client_id="hush",
        client_secret=Secret("hush"),
        refresh_token=Secret("hush"),
        storage_sas=Secret("hush"),
        catalog_options=Secret("credential=hush"),
        sign_in="secret",
        base_url="https://example.org/v1",
        page_size=7,
    )

    access = shared_access(full, handle)

    assert b"hush" not in pickle.dumps(access)
    assert b"word" in pickle.dumps(access)
    assert "word" not in repr(access)
    assert (access.settings.base_url, access.settings.page_size) == (full.base_url, 7)
    with pytest.raises(SettingsError):
        check_credentials(access.settings)


def test_settings_without_credentials_are_the_defaults_of_signing_in() -> None:
    names = [each.name for each in settings_of("sign_in")]
    nobody, plain = without_credentials(SETTINGS), Settings()

    assert [getattr(nobody, name) for name in names] == [getattr(plain, name) for name in names]


@pytest.mark.parametrize("group", ["sign_in", "storage"])
def test_secrets_are_left_to_whom_they_are_for(group: str) -> None:
    """Those of a catalogue, which only whoever syncs tables needs, go nowhere."""
    secret = {
        each.name: Secret(f"{each.name}=hush")
        for each in settings_of(*GROUPS)
        if "Secret" in str(Settings.__dataclass_fields__[each.name].type)
    }
    kept = {each.name for each in settings_of(group)} & secret.keys()

    left = without_secrets(Settings(**secret), group)  # type: ignore[arg-type]  # all are secrets

    assert {name for name in secret if getattr(left, name) is not None} == kept
    assert "catalog_options" in secret
    assert kept
