from __future__ import annotations

import codecs
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.signin.printed import decode_output, read_printed

TOKEN = "eyJ0.eyJh-_.sig~"
PRINTED = [
    TOKEN,
    f'"{TOKEN}"',
    f"'{TOKEN}'",
    f'["{TOKEN}"]',
    f'{{"accessToken": "{TOKEN}", "expiresOn": "never"}}',
    f'{{"access_token": "{TOKEN}", "token_type": "Bearer", "refresh_token": "other"}}',
    f'{{"AccessToken": "{TOKEN}"}}',
    f'{{"token": "{TOKEN}"}}',
    f'{{"Token": "{TOKEN}", "ExpiresOn": "2030-01-01T10:00:00+00:00", "Type": "Bearer"}}',
    f'[{{"Token": "{TOKEN}"}}]',
    f'{{"accessToken": "", "access_token": null, "token": "{TOKEN}"}}',
    f'{{"result": {{"accessToken": "{TOKEN}"}}, "status": 0}}',
    f'{{"data": {{"data": {{"token": "{TOKEN}"}}}}, "request_id": "x"}}',
    f'{{\n  "accessToken": "{TOKEN}"\n}}',
    f'{{"accessToken": " {TOKEN}\\n"}}',
]
ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16 LE": lambda text: text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: text.encode("utf-16-be"),
    "UTF-16 LE with a mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16 BE with a mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32 with a mark": lambda text: text.encode("utf-32"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", " \r\n\r\n"])
@pytest.mark.parametrize("printed", PRINTED)
def test_a_token_is_found_however_it_is_printed(printed: str, end: str, encoding: str) -> None:
    text = decode_output(ENCODINGS[encoding](printed + end))
    assert read_printed(text).token == TOKEN


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", "nothing"),
        ("null", "a missing value"),
        ("None", "a missing value"),
        ('"null"', "a missing value"),
        (f"Bearer {TOKEN}", "the word Bearer"),
        (f'{{"accessToken": "Bearer {TOKEN}"}}', "the word Bearer"),
        (f"WARNING: old\n{TOKEN}", "2 lines"),
        (f"Token     : {TOKEN}\nExpiresOn : soon", "2 lines"),
        (f"{TOKEN} x", "no token: it has blanks"),
        (f"\x1b[32m{TOKEN}\x1b[0m", "not visible ASCII"),
        (f"{TOKEN}é", "not visible ASCII"),
        (f'{{"accessToken": "{TOKEN}"', "not JSON"),
        (f'"{TOKEN}', "not JSON"),
        (f"'{TOKEN}", "a quote at its beginning"),
        ("[" * 100_000, "not JSON"),
        (f'"\\"{TOKEN}\\""', "signs that no token has"),
        (f"access_token={TOKEN}", "signs that no token has"),
        (f"`{TOKEN}`", "signs that no token has"),
        ("{}", "JSON without an accessToken"),
        ("[]", "JSON without an accessToken"),
        (f'{{"id_token": "{TOKEN}"}}', "JSON without an accessToken"),
        ('{"accessToken": null}', "JSON without an accessToken"),
        ('{"accessToken": 5}', "not text"),
        ('{"Token": {"Length": 1834}}', "SecureString"),
        (f'[{{"token": "{TOKEN}"}}, {{"token": "{TOKEN}2"}}]', "several tokens"),
    ],
)
def test_what_is_no_token_is_said_in_words_that_do_not_show_it(printed: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read_printed(decode_output(printed.encode()))
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary())
def test_no_output_is_more_than_a_token_or_a_message(output: bytes) -> None:
    try:
        issued = read_printed(decode_output(output))
    except ValueError:
        return
    assert issued.token.isascii()
    assert issued.token.isprintable()
    assert " " not in issued.token


@pytest.mark.parametrize(
    "name",
    [
        *("expires_on", "expiresOn", "ExpiresOn"),
        *("expires_at", "expiresAt", "expirationTimestamp", "expiry", "expires"),
    ],
)
def test_the_end_of_a_token_is_read_in_each_spelling(name: str) -> None:
    ends_at = time.time() + 600
    utc = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ends_at))
    local = time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(ends_at))
    of_dotnet = f"/Date({int(ends_at * 1000)})/"
    moments = (
        *(ends_at, str(int(ends_at)), int(ends_at * 1000)),
        *(f"{utc}+00:00", f"{utc}.1234567Z", local, of_dotnet),
        {"value": of_dotnet, "DateTime": "Saturday"},
        {"DateTime": "/Date(0)/", "UtcDateTime": of_dotnet, "Offset": {"Hours": 1}},
        {"DateTime": of_dotnet, "OffsetMinutes": 0},
    )
    for moment in moments:
        issued = read_printed(json.dumps({"Token": "t", name: moment}))
        assert issued.lifetime_s == pytest.approx(600, abs=10), moment


@pytest.mark.parametrize("others", [{"expiresOn": None}, {"expiresOn": "never"}, {}])
def test_the_first_key_that_says_an_end_counts(others: dict[str, object]) -> None:
    facts = {"token": "t", **others, "expiresOnTimestamp": (time.time() + 600) * 1000}
    assert read_printed(json.dumps(facts)).lifetime_s == pytest.approx(600, abs=10)


@pytest.mark.parametrize(
    "moment", ["never", None, "", {}, {"DateTime": {}}, "0001-01-01T00:00:00", 1e300]
)
def test_an_end_that_says_nothing_is_none(moment: object) -> None:
    assert read_printed(json.dumps({"token": "t", "expiresOn": moment})).lifetime_s == math.inf
