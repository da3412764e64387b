"""What a token says of itself, and words without secrets."""

from __future__ import annotations

import math

import pytest

from bulkfetch.config import Secret, Settings
from bulkfetch.tokens import claims_of, lifetime_s, without_secrets


@pytest.mark.parametrize("token", ["", "opaque", "a.b.c", "a.W10.c", "eyJ.e30", "a.%%%.c"])
def test_an_opaque_token_says_nothing_of_itself(token: str) -> None:
    assert claims_of(token) == {}


def test_no_secret_of_the_settings_is_left_in_what_somebody_said() -> None:
    settings = Settings(
        client_secret=Secret("s3cr3t"), refresh_token=Secret("r3fresh"), token_command=Secret("vault --key=abcdefgh12")
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
