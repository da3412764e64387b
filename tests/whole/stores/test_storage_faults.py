"""Faults between bulkfetch and the object store: nothing is lost, nothing doubled, nothing left
unfinished.

A few of them are tried each time; all, in four minutes, with BULKFETCH_TEST_STORAGE=all in the
environment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from random import Random
from typing import Any

import anyio.to_thread
import pytest
from support.archived import plain
from support.replay import Served
from support.stores.objectservers import S3Server
from support.stores.storeproxy import (
    CutAnswer,
    DropAnswer,
    Fault,
    FaultyProxy,
    ResetBefore,
    ResetInRequest,
    Seen,
    Stall,
    Status,
    azure_error,
    s3_error,
    throttle,
)
from whole.durability.lakes import Lake
from whole.durability.trial import CUT

import bulkfetch
from bulkfetch.errors import BulkfetchError, StorageError
from bulkfetch.storage.leases import LeasePolicy

pytestmark = pytest.mark.slow

QUICK = LeasePolicy(lasts_s=2.0, renewed_s=0.4)
"""So that a lock that could not be let go does not hold up the next run of this process."""

FAULTS: dict[str, tuple[Fault, float]] = {
    "reset": (ResetBefore(), 0.3),
    "reset in the request": (ResetInRequest(), 0.3),
    "stored, then reset": (DropAnswer(), 0.3),
    "stored, then closed": (DropAnswer(closed=True), 0.3),
    "answer cut": (CutAnswer(), 0.3),
    "stall": (Stall(1.6), 0.05),
    "503": (s3_error(503, "SlowDown"), 0.3),
    "429": (Status(429), 0.2),
    "500": (azure_error(500, "InternalError"), 0.2),
    "408": (Status(408), 0.2),
    "400 of S3": (s3_error(400, "RequestTimeout"), 0.05),
}


ALL = os.environ.get("BULKFETCH_TEST_STORAGE") == "all"
SHORT = ("stored, then reset", "503")


def once(fault: Fault, share: float, seed: int = 1) -> Callable[[Seen], Fault | None]:
    """Let a share of all requests meet a fault, each when it is first made, by what it asks for."""
    met: set[str] = set()

    def decide(seen: Seen) -> Fault | None:
        query = {name: value for name, value in seen.query.items() if name != "uploadId"}
        asked = f"{seen.method} {seen.path} {sorted(query.items())}"
        is_first = asked not in met
        met.add(asked)
        is_chosen = Random(f"{seed} {asked.partition('lake-')[2][32:]}").random() < share
        return fault if is_first and is_chosen and may_meet(seen, fault) else None

    return decide


def may_meet(seen: Seen, fault: Fault) -> bool:
    """Return whether such a request can fail so: S3 answers 400 only if a body came too slowly."""
    return not (isinstance(fault, Status) and fault.code == 400) or seen.method == "PUT"


def faulted(proxy: FaultyProxy) -> int:
    return sum(logged.fault is not None for logged in proxy.log)


@pytest.mark.parametrize(
    ("name", "piece_bytes"),
    [
        *((name, 3_000) for name in (FAULTS if ALL else SHORT)),
        *((name, 8 << 20) for name in SHORT[: 2 * ALL]),
    ],
)
async def test_a_fault_on_the_way_to_the_store_costs_time_and_nothing_else(
    name: str, piece_bytes: int, lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    fault, share = FAULTS[name]
    with FaultyProxy(lake.server.port, once(fault, share, seed=piece_bytes)) as proxy:
        flags = lake.flags(proxy.port) | {"storage_timeout_s": 1.0}
        report = await lake.run_into(invoices, piece_bytes, **flags)

    assert report.complete
    assert lake.differences(clean) == []
    assert faulted(proxy) >= 3


@pytest.mark.parametrize("seed", [1, 2] if ALL else [1])
async def test_faults_of_all_kinds_in_any_order_cost_nothing_either(
    seed: int, lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    mixed = [fault for fault, _ in FAULTS.values() if not isinstance(fault, Stall)]

    def decide(seen: Seen) -> Fault | None:
        random = Random(f"{seed} {seen.number}")
        fault = random.choice(mixed) if random.random() < 0.2 else None
        return fault if fault and may_meet(seen, fault) else None

    with FaultyProxy(lake.server.port, decide) as proxy:
        await lake.run_into(invoices, **lake.flags(proxy.port))
        again = await lake.run_into(invoices, **lake.flags(proxy.port))

    assert len(again.skipped) == 4
    assert lake.differences(clean) == []


async def test_a_store_that_throttles_slows_the_run(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    answer = (
        s3_error(503, "SlowDown")
        if isinstance(lake.server, S3Server)
        else azure_error(503, "ServerBusy")
    )
    with FaultyProxy(lake.server.port, throttle(40, 10, answer)) as proxy:
        await lake.run_into(invoices, **lake.flags(proxy.port))

    assert lake.differences(clean) == []
    assert faulted(proxy) > 5


def dead_from(number: int, until: Callable[[], bool]) -> Callable[[Seen], Fault | None]:
    return lambda seen: ResetBefore() if seen.number >= number and not until() else None


async def test_a_store_that_is_away_for_a_while_is_waited_for(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    died: list[float] = []

    def is_back() -> bool:
        died.append(time.monotonic())
        return died[-1] - died[0] > 1.5

    with FaultyProxy(lake.server.port, dead_from(60, is_back)) as proxy:
        await lake.run_into(invoices, **lake.flags(proxy.port))

    assert lake.differences(clean) == []


@pytest.mark.parametrize("number", [30, 60, 90] if ALL else [60])
async def test_a_store_that_stays_away_ends_the_run_and_the_next_goes_on(
    number: int, lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    started = time.monotonic()
    with FaultyProxy(lake.server.port, dead_from(number, lambda: False)) as proxy:
        flags = lake.flags(proxy.port) | {"storage_patience_s": 1.0}
        with pytest.raises(StorageError) as caught:
            await lake.run_into(invoices, policy=QUICK, **flags)

    assert time.monotonic() - started < 20
    assert lake.container in str(caught.value)
    await lake.run_into(invoices, policy=QUICK)
    assert lake.differences(clean) == []


REFUSALS = {
    "forbidden": (s3_error(403, "AccessDenied"), "the credentials need permission to"),
    "expired": (s3_error(400, "ExpiredToken"), "the credentials have expired"),
    "over quota": (azure_error(409, "AccountIsDisabled"), "409 AccountIsDisabled"),
    "clock": (s3_error(403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
}


@pytest.mark.parametrize("name", REFUSALS if ALL else ["forbidden"])
async def test_a_store_that_refuses_ends_the_run_at_once_and_says_why(
    name: str, lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    refusal, words = REFUSALS[name]

    def decide(seen: Seen) -> Fault | None:
        return refusal if "line_items" in seen.path and seen.method == "PUT" else None

    started = time.monotonic()
    with FaultyProxy(lake.server.port, decide) as proxy:
        with pytest.raises(BulkfetchError, match=words) as caught:
            await lake.run_into(invoices, policy=QUICK, **lake.flags(proxy.port))
        refused = faulted(proxy)

    assert time.monotonic() - started < 15
    assert refused < 40
    secret = lake.flags()["storage_key"]
    kept = b"".join(lake.read(each) for each in lake.names()).decode(errors="replace")
    assert secret not in f"{caught.value!r} {kept}"
    await lake.run_into(invoices, policy=QUICK)
    assert lake.differences(clean) == []


async def test_verification_and_repair_bear_faults_too(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    await lake.run_into(invoices)
    part = next(name for name in lake.names() if plain(name).endswith("A-00001.parquet"))
    lake.write(part, b"PAR1")
    mixed = [fault for fault, _ in FAULTS.values() if not isinstance(fault, Stall)]

    def decide(seen: Seen) -> Fault | None:
        random = Random(f"3 {seen.number}")
        fault = random.choice(mixed) if random.random() < 0.2 else None
        return fault if fault and may_meet(seen, fault) else None

    with FaultyProxy(lake.server.port, decide) as proxy:
        settings = invoices.settings(**{**CUT, **lake.flags(proxy.port)})
        found = await anyio.to_thread.run_sync(
            lambda: bulkfetch.verify(lake.address, deep=True, settings=settings)
        )
        report: Any = await bulkfetch.repair_async(lake.address, settings)

    assert [finding.name for finding in found.findings] == [part]
    assert report.sound, json.dumps(report.to_dict())
    assert lake.differences(clean) == []
