from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import (
    BulkfetchError,
    ContradictionError,
    ForeignLinkError,
    HttpStatusError,
    NoProgressError,
    ServerUnavailableError,
    TransferError,
)
from bulkfetch.wire.masking import Mask
from bulkfetch.wire.messages import Answer
from bulkfetch.wire.refusals import advice, advice_on, refusal
from bulkfetch.words import printable

TOKEN = "eyJ0eXAiOiJKV1Qi.eyJhdWQiOiJodHRwczov.c2lnbmF0dXJl"


def refused(body: object = b"", status: int = 400, **headers: Any) -> HttpStatusError:
    wire = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = refusal(
        Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, wire)
    )
    assert isinstance(error, HttpStatusError)
    return error


# --- What the API says.


def test_a_fault_of_the_service_is_told_in_its_words() -> None:
    body = {
        "code": 3000,
        "description": "One or more properties.",
        "data": ["offset", 5],
        "source": "PartnerFD",
    }
    error = refused(body)
    assert (error.status, error.code, error.description) == (400, "3000", "One or more properties.")
    assert (error.data, error.source) == (("offset", "5"), "PartnerFD")
    assert str(error) == (
        "the server answered 400 (code 3000): One or more properties. "
        "(data: offset, 5; source: PartnerFD)"
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"statusCode": 404, "message": "Resource not found"}, ": Resource not found"),
        ({"message": "The request is invalid."}, ": The request is invalid."),
        (
            {"error": "invalid_grant", "error_description": "AADSTS1: No."},
            " (code invalid_grant): AADSTS1: No.",
        ),
        ({"error": {"code": "Forbidden", "message": "No right."}}, " (code Forbidden): No right."),
        ({"code": 900126}, " (code 900126): the service does not know a name in the path"),
        ({"code": 1000, "description": ""}, " (code 1000): not found"),
        ({"code": 77}, " (code 77)"),
        ({"data": "alone", "source": None}, " (data: alone)"),
        ({"data": [None, "", "x"] + ["y"] * 50}, " (data: x, y, y)"),
        ({"Message": "No resource was found."}, ": No resource was found."),
        ({"code": 400}, " (code 400): access denied"),
        ({"code": 5, "data": [{"field": "size"}]}, ' (code 5) (data: {"field":"size"})'),
        ({"errors": [1]}, ': "{"errors":[1]}"'),
        ("Rate limit is exceeded.", ': "Rate limit is exceeded."'),
        (b'{"code":5,"data":' + b"[" * 1000 + b"]" * 1000 + b"}", " (code 5)"),
        (b"", ""),
        (b"[]", ""),
        (b"null", ""),
        (
            b"<html><head><title>Sign in\r\n</title>",
            ': an HTML page of a proxy or portal titled "Sign in"',
        ),
        (b"  <!DOCTYPE html>" + b"x" * 9000, ": an HTML page of a proxy or portal"),
        (
            b'<?xml version="1.0"?>\n<!DOCTYPE html><title>502 &ndash; Bad</title>',
            ': an HTML page of a proxy or portal titled "502 – Bad"',
        ),
        (
            b"<!DOCTYPE html><title>Blocked</title>" + b"x" * 1_000_000,
            ': an HTML page of a proxy or portal titled "Blocked"',
        ),
        (b"<Error><Code>AuthorizationFailure</Code></Error>", ': XML: "AuthorizationFailure"'),
        (b"upstream connect error", ': "upstream connect error"'),
        (b"\xff\xfe", ""),
    ],
)
def test_every_shape_of_an_error_body_is_read(body: object, words: str) -> None:
    assert str(refused(body, 404)) == f"the server answered 404{words}"


def test_other_text_is_cut() -> None:
    assert len(str(refused(b"x" * 5000))) < 150


def test_a_redirect_is_no_answer() -> None:
    assert isinstance(
        refusal(Answer(302, {"location": "https://elsewhere.test"}, b"")), ForeignLinkError
    )


def test_the_wait_that_was_asked_for_is_a_fact() -> None:
    assert refused(b"", 429, retry_after="57").retry_after_s == 57.0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"code":1,"description":"' + b"x" * 70_000 + b'"}', id="large"),
        pytest.param(gzip.compress(b"{}")[:-1], id="damaged"),
    ],
)
def test_a_body_that_is_large_or_damaged_is_left_alone(body: bytes) -> None:
    coding: dict[str, Any] = {"content_encoding": "gzip"} if body[0] == 0x1F else {}
    assert refused(body, **coding).description is None


# --- What must not show.


@pytest.mark.parametrize(
    "said",
    [
        f"the token {TOKEN} is not valid",
        f"Authorization: Bearer {TOKEN}",
        "Bearer abcdefgh12345678.x",
        '{"access_token": "abcdefgh12345678"}',
        "https://store.test/x?sv=1&sig=abcdefgh12345678%3D&se=2",
        "client_secret=abcdefgh12345678",
    ],
)
def test_credentials_are_not_shown(said: str) -> None:
    for body in ({"code": 1, "description": said}, said.encode()):
        error = refused(body)
        shown = f"{error} {error!r} {error.args} {vars(error)}"
        assert "***" in shown or error.description is None
        assert "abcdefgh12345678" not in shown
        assert TOKEN not in shown


def test_the_token_that_was_sent_is_not_shown_whatever_it_looks_like() -> None:
    error = refusal(
        Answer(403, {}, b'{"description":"plain-token has no right"}'),
        hide=Mask(["plain-token"]).hide,
    )
    assert "*** has no right" in str(error)


def test_the_token_that_was_sent_does_not_show_however_it_is_written() -> None:
    body = rb'{"code":1,"description":"plain\u002dtoken has no right"}'
    assert "*** has no right" in str(
        refusal(Answer(403, {}, body), hide=Mask(["plain-token"]).hide)
    )


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "frame", ["no token is like {}", '{{"description": "no token is like {}"}}']
)
def test_the_token_that_was_sent_is_not_shown_in_utf_16(frame: str, charset: str) -> None:
    answer = Answer(400, {}, frame.format("opaque/Canary+7f3k").encode(charset))
    error = refusal(answer, hide=Mask(["opaque/Canary+7f3k"]).hide)
    assert "no token is like ***" in str(error)


@pytest.mark.parametrize("frame", ["{}", "<html><title>{}</title>"])
def test_no_part_of_a_credential_is_left_by_a_cut(frame: str) -> None:
    head, payload = "eyJ0eXAiOiJKV1Qi" * 4, "eyJhdWQiOiJodHRwczov" * 60
    shown = str(refused(frame.format(f"no right for {head}.{payload}.c2ln").encode()))
    assert "no right for ***" in shown
    assert "eyJ" not in shown


@pytest.mark.parametrize(
    "body", [b"eyJ" * 21_000, b'"' + b"eyJ" * 21_000 + b'"', b"<html>" + b"<title" * 10_000]
)
def test_a_body_that_is_made_to_be_searched_for_long_is_looked_at_in_part(body: bytes) -> None:
    began = time.process_time()
    refused(body)
    assert time.process_time() - began < 0.25


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.integers(400, 599))
def test_no_body_is_too_odd(body: bytes, status: int) -> None:
    error = refusal(Answer(status, {}, body))
    assert str(error).isprintable()


@given(st.text(max_size=200))
def test_what_is_printable_stays_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


# --- What to do.


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "support"),
        (401, "Partner Center's tenant"),
        (403, "Billing admin role"),
        (404, "bulkfetch invoices list"),
        (408, "again later"),
        (410, "does not exist any more"),
        (418, "support"),
        (429, "max_in_flight="),
        (500, "again later"),
        (503, "again later"),
    ],
)
def test_each_status_has_its_advice(status: int, words: str) -> None:
    assert words in advice("http_status", status)


def test_an_error_has_the_advice_on_the_request_behind_it() -> None:
    error = TransferError("transfer D1 …")
    assert "same command" in advice_on(error)
    error.__cause__ = NoProgressError("nothing came")
    assert "first_byte_timeout_s=" in advice_on(error)
    error.__cause__ = HttpStatusError("", status=403)
    assert "Billing admin" in advice_on(error)
    assert "may have changed" in advice_on(ContradictionError("pages differ"))


def test_an_error_that_says_what_to_do_gets_no_advice() -> None:
    assert advice_on(ServerUnavailableError("run the same command again later")) == ""


def test_every_kind_of_request_error_has_advice() -> None:
    def kinds(kind: type[BulkfetchError]) -> list[type[BulkfetchError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in kinds(child))]

    from bulkfetch.errors import RequestError

    for kind in kinds(RequestError)[1:]:
        assert advice(kind.reason, 500 if kind is HttpStatusError else None), kind
