from __future__ import annotations

import codecs
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import LONE_SURROGATES, NUMBERS, ODD_NUMBERS, json_texts
from support.reference import read, tagged

from bulkfetch.decoding.jsontext import (
    MAX_DEPTH,
    Number,
    Pairs,
    dumps,
    is_unicode,
    loads,
    quote,
    utf8_of,
)
from bulkfetch.errors import MalformedBodyError


@given(json_texts)
def test_what_is_read_and_written_again_says_the_same(text: str) -> None:
    written = dumps(loads(text.encode()))
    assert tagged(read(written)) == tagged(read(text))
    assert written.encode()
    assert dumps(loads(written.encode())) == written


@given(json_texts)
def test_reading_agrees_with_an_independent_reader(text: str) -> None:
    value = loads(text.encode())
    assert tagged(read(dumps(value))) == tagged(read(text))
    assert isinstance(value, Pairs) == text.startswith("{")


@pytest.mark.parametrize("number", [*NUMBERS, *ODD_NUMBERS])
def test_a_number_keeps_its_spelling(number: str) -> None:
    value = loads(number.encode())
    assert isinstance(value, Number)
    assert value == dumps(value) == number


def test_a_number_of_any_length_is_read() -> None:
    number = "9" * 100_000
    assert dumps(loads(number.encode())) == number


def test_text_that_looks_like_a_number_stays_text() -> None:
    assert dumps(loads(b'["1",1]')) == '["1",1]'


def test_repeated_keys_stay_in_their_order() -> None:
    value = loads(b'{"a":1,"b":2,"a":null,"A":3}')
    assert value == Pairs([("a", Number("1")), ("b", Number("2")), ("a", None), ("A", Number("3"))])
    assert dumps(value) == '{"a":1,"b":2,"a":null,"A":3}'


def test_an_object_is_not_taken_for_a_list_of_pairs() -> None:
    assert dumps(loads(b'[["a",1]]')) == '[["a",1]]'
    assert dumps(loads(b"{}")) == "{}"


def test_the_last_of_repeated_keys_is_got() -> None:
    value = Pairs([("a", True), ("a", None), ("b", False)])
    assert (value.get("a"), value.get("b"), value.get("c")) == (None, False, None)


@pytest.mark.parametrize("text", LONE_SURROGATES)
def test_a_lone_surrogate_is_written_as_an_escape(text: str) -> None:
    value = loads(text.encode())
    assert isinstance(value, str)
    assert not is_unicode(value)
    assert quote(value).isascii()
    assert read(quote(value)) == read(text)


def test_a_pair_of_surrogates_is_one_character() -> None:
    value = loads(rb'"\ud83d\ude00"')
    assert value == "😀"
    assert quote("😀") == '"😀"'


def test_only_what_must_be_escaped_is_escaped() -> None:
    assert quote('a/é\u2028"\\\n\x00\x1f\x7f') == '"a/é\u2028\\"\\\\\\n\\u0000\\u001f\x7f"'


def test_marks_decide_the_encoding() -> None:
    text = '{"a":"Grüße 😀"}'
    assert utf8_of(text.encode()) == text.encode()
    assert utf8_of(codecs.BOM_UTF8 + text.encode()) == text.encode()
    assert utf8_of(codecs.BOM_UTF16_LE + text.encode("utf-16-le")) == text.encode()
    assert utf8_of(codecs.BOM_UTF16_BE + text.encode("utf-16-be")) == text.encode()
    assert utf8_of(b"") == b""


@pytest.mark.parametrize(
    "body",
    [
        codecs.BOM_UTF16_LE + '{"a":1}'.encode("utf-16-le")[:-1],
        codecs.BOM_UTF16_BE + '{"a":1}'.encode("utf-16-be")[:-1],
        codecs.BOM_UTF16_LE + b"\x00\xd8\x20\x00",
        codecs.BOM_UTF16_LE + "😀".encode("utf-16-le")[:2],
    ],
)
def test_a_cut_or_ill_formed_utf_16_text_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBodyError, match="not valid UTF-16"):
        utf8_of(body)


def test_the_message_names_the_byte() -> None:
    with pytest.raises(MalformedBodyError, match="not JSON at byte 10 of 12"):
        loads('{"é":"é"x}'.encode())
    with pytest.raises(MalformedBodyError, match="not UTF-8 at byte 2"):
        loads(b'["\xff"]')


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "{",
            "[",
            '"',
            '"a',
            "[1,]",
            '{"a":1,}',
            "{1:2}",
            "{'a':1}",
            "[1 2]",
            '{"a" 1}',
            '{"a":}',
            "tru",
        ),
        *(
            "NaN",
            "[NaN]",
            "Infinity",
            "-Infinity",
            "nan",
            "+1",
            ".5",
            "1.",
            "01",
            "-",
            "1e",
            "1e+",
            "0x1",
            "1_0",
        ),
        *(
            "{}{}",
            "{} {}",
            "[]\n[]",
            "1 2",
            "// c\n1",
            "\ufeff{}",
            "\xa01",
            '"\t"',
            '"\x00"',
            "\x00",
            r'"\x"',
            r'"\u12"',
        ),
        *("１", "[1]\x00", r'"\u+123"', r'"\ud8"', "True", "None", "<html></html>"),
    ],
)
def test_what_is_no_json_is_malformed(text: str) -> None:
    with pytest.raises(MalformedBodyError):
        loads(text.encode())


@pytest.mark.parametrize(
    "text", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf5\x80\x80\x80"']
)
def test_what_is_no_utf_8_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedBodyError, match="not UTF-8"):
        loads(text)


@given(st.binary(max_size=20))
def test_bytes_are_json_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedBodyError):
        assert dumps(loads(utf8_of(body)))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_is_read_down_to_the_limit_and_refused_below_it(opening: str, closing: str) -> None:
    def nested(depth: int) -> str:
        times = depth // len(closing)
        return opening * times + "1" + closing * times

    at_limit = nested(MAX_DEPTH)
    assert dumps(loads(at_limit.encode())) == at_limit
    for depth in (MAX_DEPTH + 2, 1_000, 3_000, 100_000):
        with pytest.raises(MalformedBodyError, match="deep"):
            loads(nested(depth).encode())


def test_brackets_side_by_side_are_not_deep() -> None:
    text = "[" + ",".join(["[]", "{}"] * 1_000) + "]"
    assert dumps(loads(text.encode())) == text


def test_cut_nesting_is_malformed_however_deep() -> None:
    for depth in (1, 300, 100_000):
        with pytest.raises(MalformedBodyError):
            loads(b"[" * depth)
