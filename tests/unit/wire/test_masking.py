from __future__ import annotations

import codecs
import json
from urllib.parse import quote

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


def spelt_as(character: str, how: str) -> str:
    """Escape one character, if `how` has to do with it; each way written by hand."""
    code = ord(character)
    return {
        "plain": character,
        "json": f"\\u{code:04x}",
        "json, upper case": f"\\u{code:04X}",
        "json in json": f"\\\\u{code:04x}",
        "url": f"%{code:02x}",
        "url, upper case": f"%{code:02X}",
        "url in url": f"%25{code:02X}",
        "xml": f"&#{code};",
        "xml, hexadecimal": f"&#x{code:X};",
        "xml in xml": f"&amp;#{code};",
    }[how]


IN_JSON = ["plain", "json", "json, upper case"]
IN_ANY = [*IN_JSON, "json in json", "url", "url, upper case", "url in url"]
IN_TEXT = [*IN_ANY, "xml", "xml, hexadecimal", "xml in xml"]
SAFE = st.characters(codec="ascii", categories=("L", "N"), include_characters="-._~+/=")


@given(st.text(SAFE, min_size=12, max_size=40), st.data())
def test_a_secret_is_hidden_whichever_of_its_characters_are_escaped(
    secret: str, data: st.DataObject
) -> None:
    if secret.isdigit():
        return
    hows = data.draw(st.sampled_from([IN_JSON, IN_ANY, IN_TEXT]))
    spelt = "".join(spelt_as(each, data.draw(st.sampled_from(hows))) for each in secret)
    mask = Mask(["another-secret", secret])
    assert mask.hide(f"it says {spelt} and more") == "it says *** and more"
    if hows is not IN_TEXT:
        assert mask.hide_in_body(f'["{spelt}", 1]'.encode()) == b'["***", 1]'


@pytest.mark.parametrize("how", IN_TEXT)
def test_a_secret_is_hidden_if_all_of_its_characters_are_escaped(how: str) -> None:
    mask = Mask([SECRET])
    spelt = "".join(spelt_as(each, how) for each in SECRET)
    assert mask.hide(f"it says {spelt} and more") == "it says *** and more"


def test_characters_beyond_ascii_are_hidden_in_each_spelling() -> None:
    secret = "pässwörd-\U0001f511-of-nobody"
    mask = Mask([secret])
    spellings = [json.dumps(secret)[1:-1], quote(secret), secret]
    for spelling in spellings:
        assert mask.hide(f"{spelling}!") == "***!"
        assert mask.hide_in_body(f'"{spelling}"'.encode()) == b'"***"'


HONEST = (
    b'{"name":"O\\u0027Neil \\u00e9 \\u0041 & Co","path":"\\/a",'
    b'"next":"x%3Dy%41","half":"opaque\\u002f"}'
)


def test_a_page_with_escapes_of_its_own_stays_the_same_object() -> None:
    assert Mask([SECRET]).hide_in_body(HONEST) is HONEST


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
