from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.payloads import AZURE_USAGE, LINE_ITEMS, OFFICE_BILLING, UTF_16, Payload, body_of

from bulkfetch.billing.details import schema_of
from bulkfetch.billing.schemas import ONE_TIME
from bulkfetch.decoding.envelope import Envelope, Link, envelope_of
from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.decoding.pages import JsonDecoder, PageDecoder, page_of, peek
from bulkfetch.errors import MalformedBodyError

ONE_TIME_FIRST = "docs/v1-2021-03/lineitems-onetime-first-page"
OFFICE_SAMPLE = "docs/v1-2021-03/lineitems-office-billing"


def envelope(name: str) -> Envelope:
    return envelope_of(page_of(utf8_of(body_of(name)))[0])


def said(page: dict[str, Any]) -> Envelope:
    """Return what a page says, having checked that it says so whichever way it is read."""
    text = json.dumps(page | {"items": []}).encode()
    exact = envelope_of(page_of(text)[0])
    assert peek(text) == exact
    assert PageDecoder("I", ONE_TIME).decode(text).envelope == exact
    return exact


def test_a_page_in_the_middle_has_a_next_link_with_size_and_offset() -> None:
    first = envelope(OFFICE_BILLING[0].name)
    assert first.total_count == 100
    assert first.self_link is not None
    assert (first.self_link.size, first.self_link.offset) == (100, 0)
    assert first.next_link is not None
    assert (first.next_link.size, first.next_link.offset) == (100, 100)
    assert first.continuation_token is None


def test_the_last_page_has_no_next_link() -> None:
    assert envelope(OFFICE_BILLING[1].name).next_link is None


def test_a_walk_of_real_pages_is_linked_by_its_offsets() -> None:
    links = [envelope(payload.name).next_link for payload in AZURE_USAGE]
    assert [link.offset if link else None for link in links] == [100, 200, 300, 400, 500, 600, 700]


def test_a_page_asked_without_size_says_which_size_it_took() -> None:
    link = envelope(UTF_16.name).next_link
    assert link is not None
    assert (link.size, link.offset) == (200, 200)


def test_the_token_of_the_next_link_wins_over_that_of_the_page() -> None:
    headers = [{"key": "ms-continuationtoken", "value": "of the link"}]
    page = {
        "continuationToken": "of the page",
        "links": {"next": {"uri": "/x", "headers": headers}},
    }
    assert said(page).continuation_token == "of the link"
    assert (
        said(page | {"links": {"next": {"uri": "/x", "headers": []}}}).continuation_token
        == "of the page"
    )
    assert said(page | {"links": {}}).continuation_token == "of the page"


def test_the_samples_of_continuation_have_their_token() -> None:
    token = envelope(ONE_TIME_FIRST).continuation_token
    assert token is not None
    assert token.startswith("d19617b8-fbe5-4684-a5d8-0230972fb0cf,")


def test_the_sample_with_an_empty_offset_has_none() -> None:
    link = envelope(OFFICE_SAMPLE).next_link
    assert link is None or link.offset is None


@pytest.mark.parametrize(
    ("uri", "size", "offset"),
    [
        ("/invoices/1/lineitems?size=2&offset=4", 2, 4),
        ("/invoices/1/lineitems?Size=2&OFFSET=4", 2, 4),
        ("/invoices/1?provider=onetime&size=2?seekOperation=Next&offset=4", 2, 4),
        ("/invoices/1?size=2&offset=", 2, None),
        ("/invoices/1?size=-2&offset=+4", None, None),
        ("/invoices/1?size=2.0&offset=4x", None, None),
        ("/invoices/1?size=٢&offset=²", None, None),
        ("/invoices/1?size=" + "9" * 5_000, None, None),
        ("/invoices/1?size=2#offset=4", 2, None),
        ("/invoices/1", None, None),
        ("", None, None),
        ("?", None, None),
        ("https://[bad?size=2", 2, None),
    ],
)
def test_size_and_offset_are_read_from_the_link(
    uri: str, size: int | None, offset: int | None
) -> None:
    """The last of these once raised ValueError, as did the number of 5,000 digits."""
    assert (Link(uri).size, Link(uri).offset) == (size, offset)


@given(st.text(max_size=40))
def test_no_link_is_too_odd_to_look_at(uri: str) -> None:
    for number in (Link(f"?size={uri}").size, Link(uri).offset):
        assert number is None or number >= 0


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        *(
            (0, 0),
            (2, 2),
            (10**18, 10**18),
            (2**63 - 1, 2**63 - 1),
            (2**64 - 1, 2**64 - 1),
            (-5, None),
            (2.0, None),
        ),
        *(("2", None), (None, None), (True, None), ([], None), ({}, None)),
    ],
)
def test_a_total_is_a_whole_number_or_absent(total: object, expected: int | None) -> None:
    assert said({"totalCount": total}).total_count == expected


@pytest.mark.parametrize(
    "page",
    [
        *(
            {},
            {"links": None},
            {"links": {}},
            {"links": {"next": None}},
            {"links": {"next": {}}},
        ),
        *(
            {"links": {"next": {"uri": None}}},
            {"continuationToken": ""},
            {"continuationToken": " "},
        ),
        *(
            {"continuationToken": 5},
            {"continuationToken": None},
            {"attributes": {"x": 5}},
            {"next": {"uri": "/x"}},
        ),
    ],
)
def test_what_is_not_said_is_absent(page: dict[str, Any]) -> None:
    assert said(page) == Envelope()


@pytest.mark.parametrize(
    "link", ["/x", 5, True, ["/x"], {"href": "/x"}, {"uri": 5}, {"uri": None, "method": "GET"}]
)
def test_a_next_link_that_cannot_be_read_is_not_taken_for_the_end(link: object) -> None:
    with pytest.raises(MalformedBodyError, match="next"):
        said({"links": {"next": link}})


@pytest.mark.parametrize("name", ["links", "Links"])
@pytest.mark.parametrize("links", [[], [{"next": {"uri": "/x"}}], "", "/x", 0, 5, False, True])
def test_links_that_cannot_be_read_are_not_taken_for_the_end_on_any_way(
    name: str, links: object
) -> None:
    text = json.dumps({"items": [{"customerName": "a"}], name: links}).encode()
    for read in (
        lambda: peek(text),
        lambda: envelope_of(page_of(text)[0]),
        lambda: JsonDecoder().decode(text),
        lambda: PageDecoder("I", schema_of("office", "billing_line_items")).decode(text),
    ):
        with pytest.raises(MalformedBodyError, match="its links are not an object"):
            read()


@pytest.mark.parametrize(
    "headers", [None, [], [None], ["x"], [{}], [{"key": None}], {"key": "MS-ContinuationToken"}]
)
def test_odd_headers_of_a_link_carry_no_token(headers: object) -> None:
    page = said({"links": {"next": {"uri": "/x", "headers": headers}}})
    assert page == Envelope(next_link=Link("/x"))


def test_a_blank_token_is_no_token() -> None:
    headers = [{"key": "MS-ContinuationToken", "value": " "}]
    assert said({"links": {"next": {"uri": "/x", "headers": headers}}}) == Envelope(
        next_link=Link("/x")
    )


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_peeking_at_a_real_page_finds_what_decoding_it_does(payload: Payload) -> None:
    assert peek(payload.body) == envelope(payload.name)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"items":{}}', b'{"items":[]}x', b"<html>"]
)
def test_peeking_at_what_is_no_page_is_an_error(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        peek(body)


def test_the_words_of_an_envelope_are_read_in_any_case() -> None:
    envelope = envelope_of(
        {"Links": {"Next": {"Uri": "/invoices?size=2&offset=2"}}, "TotalCount": 2}
    )
    assert envelope.next_link == Link("/invoices?size=2&offset=2")
    assert envelope.total_count == 2


@pytest.mark.parametrize(
    "decode",
    [JsonDecoder().decode, PageDecoder("I", schema_of("office", "billing_line_items")).decode],
)
def test_a_next_link_in_another_case_is_seen_on_both_ways(decode: Any) -> None:
    body = b'{"items":[{"customerName":"a"}],"Links":{"NEXT":{"uri":"/x?size=1&offset=1"}}}'
    assert decode(body).envelope.next_link == Link("/x?size=1&offset=1")
    assert peek(body).next_link == Link("/x?size=1&offset=1")


@pytest.mark.parametrize(
    "links",
    [
        '{"next":{"uri":"/x"},"next":null}',
        '{"next":null,"next":{"uri":"/x"}}',
        '{"Next":{"uri":"/x"},"next":null}',
        '{"next":{"uri":"/x","uri":null}}',
        '{"next":{"uri":null,"Uri":"/x"}}',
        '{"next":{"uri":"/x","headers":[{"key":"MS-ContinuationToken","value":"a","value":"b"}]}}',
        '{"self":{"uri":"a"},"self":{"uri":"b"}}',
    ],
)
def test_links_that_say_something_twice_are_malformed_on_any_way(links: str) -> None:
    text = f'{{"items":[{{"customerName":"a"}}],"links":{links}}}'.encode()
    for read in (
        peek,
        page_of,
        JsonDecoder().decode,
        PageDecoder("I", schema_of("office", "billing_line_items")).decode,
    ):
        with pytest.raises(MalformedBodyError, match="its links repeat a key"):
            read(text)


@pytest.mark.parametrize(
    "twice",
    ['"links":{},"Links":{"next":{"uri":"/x"}}', '"totalCount":1,"TotalCount":2', '"items":[]'],
)
def test_a_page_that_says_something_twice_is_malformed_on_any_way(twice: str) -> None:
    text = f'{{"items":[{{"customerName":"a"}}],{twice}}}'.encode()
    for read in (
        peek,
        page_of,
        JsonDecoder().decode,
        PageDecoder("I", schema_of("office", "billing_line_items")).decode,
    ):
        with pytest.raises(MalformedBodyError, match=r"it has two .* keys"):
            read(text)


def test_a_number_is_no_text_on_either_way() -> None:
    assert said({"continuationToken": 1.5}) == Envelope()
    with pytest.raises(MalformedBodyError, match="next link has no uri"):
        said({"links": {"next": {"uri": 1.5}}})
    with pytest.raises(MalformedBodyError, match="next link has no uri"):
        peek(b'{"items":[],"links":{"next":{"uri":1.5}}}')


def test_a_key_with_a_null_in_it_is_read_on_both_ways() -> None:
    assert said({"links": {"\0": {"a": 1}, "next": {"uri": "/x", "a\0b": 1}}}) == Envelope(
        next_link=Link("/x")
    )
