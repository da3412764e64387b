"""What is wrong with a call for Spark is told before Spark is asked for anything."""

from __future__ import annotations

from typing import Any

import pytest

from bulkfetch.engine.source import _addresses_of, line_items, register
from bulkfetch.errors import SettingsError

OFFICE = ("office", "billing_line_items")
GIVEN: dict[str, Any] = {"token": "t", "base_url": "http://127.0.0.1:9/v1"}


class Conf(dict[str, str]):
    """What a session says of its addresses."""

    def getConf(self) -> Conf:  # noqa: N802  Spark's name
        return self


class Session:
    def __init__(self, **conf: str) -> None:
        self.sparkContext = Conf({f"spark.driver.{name}": value for name, value in conf.items()})


@pytest.mark.parametrize(
    ("bind", "listen"), [("10.1.1.1", "10.1.1.1"), ("0.0.0.0", None), ("::", None), ("", None)]
)
def test_the_driver_listens_on_its_own_address_and_never_on_all(
    bind: str, listen: str | None
) -> None:
    assert _addresses_of(Session(host="driver.svc", bindAddress=bind)) == ("driver.svc", listen)
    assert _addresses_of(Session(host="127.0.0.1")) == ("127.0.0.1", None)


class NoSpark:
    """A session of Spark Connect: it has no context."""

    @property
    def sparkContext(self) -> Any:  # noqa: N802  Spark's name
        raise NotImplementedError("[JVM_ATTRIBUTE_NOT_SUPPORTED]")


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({**GIVEN, "tasks": 0}, "tasks: must be at least 1, not 0"),
        (GIVEN, "another process .* give share=True, and the number as tasks="),
        ({**GIVEN, "tasks": 4}, "another process .* give share=True"),
        ({**GIVEN, "share": True}, "the number as tasks="),
        ({**GIVEN, "providers": ["azure"]}, "the line items of one provider and type"),
        ({**GIVEN, "page_sise": 3}, "did you mean page_size"),
        ({**GIVEN, "since": "June"}, "since: must be a day"),
        ({"token": None, "sign_in": "token"}, "token"),
    ],
)
def test_a_frame_that_cannot_be_is_refused(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        line_items(NoSpark(), *OFFICE, **keywords)


def test_where_there_is_no_pyspark_it_says_so() -> None:
    with pytest.raises(SettingsError, match="Spark needs pyspark, which clusters bring along"):
        register(NoSpark(), **GIVEN)
