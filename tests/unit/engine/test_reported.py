from __future__ import annotations

import orjson
import pytest

from bulkfetch import errors
from bulkfetch.engine.reported import describe_error, error_from
from bulkfetch.errors import (
    BulkfetchError,
    GraphAccessError,
    HttpStatusError,
    NoGraphError,
    ProxyError,
    RequestFacts,
    TransferError,
    UploadLostError,
)

FACTS = RequestFacts("GET", "/invoices", "r1", "c1", 3, "a1")
SPECIAL: dict[type[BulkfetchError], BulkfetchError] = {
    HttpStatusError: HttpStatusError(
        "no", status=429, code="x", data=("a", "b"), retry_after_s=1.5, facts=FACTS
    ),
    ProxyError: ProxyError("down", advice="start it", status=502),
    UploadLostError: UploadLostError("gone", final=True),
    GraphAccessError: GraphAccessError("it is for another API", "give another"),
    NoGraphError: NoGraphError("refused", "ask an administrator"),
}
KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, BulkfetchError)
]


def sent(error: BulkfetchError) -> BulkfetchError:
    return error_from(orjson.loads(orjson.dumps(describe_error(error))))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_it_was(kind: type[BulkfetchError]) -> None:
    error = SPECIAL.get(kind) or kind("what happened, and what to do")

    arrived = sent(error)

    assert type(arrived) is kind
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_the_request_behind_an_error_arrives_with_it() -> None:
    error = TransferError("page 3 does not come")
    error.__cause__ = SPECIAL[HttpStatusError]

    cause = sent(error).__cause__

    assert isinstance(cause, HttpStatusError)
    assert (cause.status, cause.facts) == (429, FACTS)


def test_an_error_that_this_version_does_not_know_is_still_one() -> None:
    facts = {**describe_error(TransferError("new")), "kind": "ErrorOfTomorrow"}

    assert str(error_from(facts)) == "new"
