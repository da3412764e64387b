from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import MalformedBodyError
from bulkfetch.wire.masking import Mask

SECRET = "opaque/Canary+7f3k.Q9z=X2mB8~"
VISIBLE = st.characters(min_codepoint=33, max_codepoint=126)


def escaped(secret: str) -> str:
    return "".join(f"\\u{ord(each):04X}" if not each.isalnum() else each for each in secret)


SPELLINGS = [
    SECRET,
    SECRET.replace("/", "\\/"),
    escaped(SECRET),
    "".join(f"\\u{ord(each):04x}" if each in "+/" else each for each in SECRET),
    "".join(f"%{ord(each):02X}" if each in "+/=" else each for each in SECRET),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_hidden_however_json_and_urls_spell_it(spelling: str) -> None:
    mask = Mask([SECRET])
    assert mask.hide(f"Bearer {spelling}, {spelling}") == "Bearer ***, ***"
    body = f'{{"a":"x{spelling}y","n":1.10}}'.encode()
    assert mask.hide_in_body(body) == b'{"a":"x***y","n":1.10}'


@given(st.text(VISIBLE, min_size=12, max_size=60), st.sampled_from([True, False]))
def test_json_that_has_any_secret_stays_json_without_it(secret: str, ascii_only: bool) -> None:
    body = json.dumps({"a": [secret, f"x{secret}"]}, ensure_ascii=ascii_only).encode()
    mask = Mask([secret])
    if secret.isdigit():
        return
    clean = mask.hide_in_body(body)
    assert json.loads(clean) == {"a": ["***", "x***"]}


@given(st.binary(max_size=200))
def test_a_body_without_the_secret_stays_the_same_object(body: bytes) -> None:
    if body[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return
    assert Mask([SECRET]).hide_in_body(body) is body


def test_only_the_very_secret_is_hidden() -> None:
    body = b'{"a":"eyJhbGciOiJub25lIn0.e30.x","b":"Bearer other-secret-of-others","sig":"sig=abc"}'
    assert Mask([SECRET]).hide_in_body(body) is body


def test_short_words_and_numbers_are_data_though_they_be_secrets() -> None:
    mask = Mask(["office", "123456789012", "abc"])
    body = b'{"a":"office","b":123456789012}'
    assert mask.hide_in_body(body) is body
    assert mask.hide("office says abc") == "*** says abc"


def test_all_secrets_learned_are_hidden() -> None:
    mask = Mask()
    mask.learn("first-token-of-the-run")
    mask.learn("second-token-of-the-run")
    assert mask.hide_in_body(b"first-token-of-the-run second-token-of-the-run") == b"*** ***"


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be"])
def test_a_secret_in_utf_16_is_hidden_too(charset: str) -> None:
    mark = codecs.BOM_UTF16_LE if charset.endswith("le") else codecs.BOM_UTF16_BE
    mask = Mask([SECRET])
    assert mask.hide_in_body(mark + f'{{"a":"{SECRET}"}}'.encode(charset)) == b'{"a":"***"}'
    other = mark + '{"a":"b"}'.encode(charset)
    assert mask.hide_in_body(other) is other
    with pytest.raises(MalformedBodyError):
        mask.hide_in_body(codecs.BOM_UTF16_LE + b"{")
