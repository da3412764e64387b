"""What a token says of itself, and words without secrets."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace

import pytest

from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.tokens import claims_of, lifetime_s, without_secrets
from bulkfetch.signin.ways import has_user


@pytest.mark.parametrize("token", ["", "opaque", "a.b.c", "a.W10.c", "eyJ.e30", "a.%%%.c"])
def test_an_opaque_token_says_nothing_of_itself(token: str) -> None:
    assert claims_of(token) == {}


def test_no_secret_of_the_settings_is_left_in_what_somebody_said() -> None:
    settings = Settings(
        client_secret=Secret("s3cr3t"),
        refresh_token=Secret("r3fresh"),
        token_command=Secret("vault --key=abcdefgh12"),
    )
    said = "first s3cr3t r3fresh abcdefgh12 other\nsecond line s3cr3t"
    assert without_secrets(said, settings, "other") == "first *** *** *** ***"
    assert without_secrets("", settings) == "no reason given"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (3599, 3599),
        ("3600", 3600),
        (None, math.inf),
        ("soon", math.inf),
        (-1, math.inf),
        (0, math.inf),
        (1e12, math.inf),
    ],
)
def test_the_life_of_a_token_is_read_in_seconds_or_not_known(told: object, seconds: float) -> None:
    assert lifetime_s(told) == seconds


@pytest.mark.parametrize(
    ("claims", "is_users"),
    [({"scp": "user_impersonation"}, True), ({"roles": ["x"], "idtyp": "app"}, False), ({}, False)],
)
def test_a_token_in_hand_says_whether_a_user_is_behind_it(
    claims: dict[str, object], is_users: bool
) -> None:
    token = f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"
    assert has_user(Settings(token=Secret(token))) is is_users


def test_a_refresh_token_is_a_users_and_a_secret_an_apps() -> None:
    app = Settings(tenant_id="t", client_id="c", client_secret=Secret("s"), login_file=None)
    assert not has_user(app)
    assert has_user(replace(app, refresh_token=Secret("r")))
    assert not has_user(Settings(token=Secret("opaque")))
