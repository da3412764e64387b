"""No secret is where Spark shows what it does: what is searched for them has a control in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from support.replay import TOKEN, MadeUp, Served, invoice, serving
from support.spark import onspark
from support.spark.sparks import CONTROL, LONG, Spark

pytestmark = [pytest.mark.slow, LONG]

OFFICE = ("office", "billing_line_items")
KNOWN = "D08000KNOWN"
"""The id of an invoice, which is no secret."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server in this process: the arguments of a sandbox would show the token."""
    tenant = MadeUp([invoice(KNOWN, OFFICE)], {(KNOWN, *OFFICE): ['{"quantity":1}'] * 3})
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(tenant)) as started,
    ):
        yield started


@pytest.mark.parametrize("share", [False, True], ids=["coordinator", "share"])
def test_spark_shows_no_secret(share: bool, spark: Spark, served: Served, tmp_path: Path) -> None:
    spark.run(onspark.register, base_url=served.base_url, token=TOKEN, share=share)
    nonces = spark.run(onspark.nonces)
    options = {"provider": OFFICE[0], "lineItemType": OFFICE[1], "invoice": KNOWN}

    shown = spark.run(onspark.shown, options, str(tmp_path / "checkpoint"))
    shown["log"] = spark.log.read_text(errors="replace")

    assert share or nonces
    for where, text in shown.items():
        for secret in (TOKEN, *nonces):
            assert secret not in text, where
    for where in ("event log", "UI", "checkpoint", "log"):
        assert KNOWN in shown[where], where
    for where in ("event log", "UI", "configuration", "processes"):
        assert CONTROL in shown[where], where
    assert "bulkfetch" in shown["plan"]
    assert "SPARK_LOCAL_IP" in shown["environments"]
