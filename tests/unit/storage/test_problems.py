"""What an error of an object store means: a page of a portal is not the store's answer."""

from __future__ import annotations

import pytest

from bulkfetch.storage.problems import problem_of

ERROR = (
    "Generic S3 error: Error performing PUT http://127.0.0.1:1/b/x in 2ms - Server returned "
    "non-2xx status code: {status}: {body}\n\nDebug source:\nGeneric {{}}"
)
PAGE = "<!DOCTYPE html>\n<html><head><title>Hotel &amp; Bar</title></head>"


@pytest.mark.parametrize(
    ("status", "is_final"), [("403 Forbidden", True), ("502 Bad Gateway", False)]
)
def test_a_page_is_named_and_is_not_about_permissions(status: str, is_final: bool) -> None:
    problem = problem_of(OSError(ERROR.format(status=status, body=PAGE)))
    assert str(problem) == (
        f'the store answers {status[:3]}: an HTML page of a proxy or portal titled "Hotel & Bar"'
    )
    assert "in a browser" in problem.advice("write")
    assert problem.is_final is is_final


def test_the_xml_of_a_store_is_its_own() -> None:
    body = "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>No</Message></Error>"
    problem = problem_of(OSError(ERROR.format(status="403 Forbidden", body=body)))
    assert str(problem) == "the store answers 403 AccessDenied No"
    assert "need permission to write" in problem.advice("write")


def test_a_success_that_no_store_gives_is_named() -> None:
    said = "Generic S3 error: no ETag\n\nDebug source:\nGeneric { source: MissingEtag }"
    assert "is a proxy or portal between?" in str(problem_of(OSError(said)))
