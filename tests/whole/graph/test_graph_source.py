"""Microsoft Graph's exports as a page source, over real sockets: every row, whatever goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.payloads import FOLDER

from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.sources import BEGINNING, Bookmark, PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.jsontext import dumps, loads
from bulkfetch.decoding.pages import JsonDecoder, JsonPage
from bulkfetch.errors import (
    BulkfetchError,
    ContradictionError,
    ExpiredBookmarkError,
    ExportError,
    NothingExportedError,
    PendingExportError,
    RenewedExportError,
    StorageError,
    TransferError,
)
from bulkfetch.graph import lines, source, spool
from bulkfetch.graph.exports import Exports, open_exports
from bulkfetch.graph.operations import KeptOperations, Operation
from bulkfetch.graph.source import ExportSources
from bulkfetch.sandbox import Fault, Faults, GraphOptions, RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.session import Clock

USAGE = "usage/billed/G000700185"


CODES = ("EUR", "USD")
HURRY = 100
"""How many times as fast the clock of a run goes."""


async def hurry(seconds: float) -> None:
    await anyio.sleep(seconds / HURRY)


@dataclass(slots=True)
class Reading:
    """What was read of one export, or why it could not be."""

    rows: list[str] = field(default_factory=list)
    starts: list[Bookmark] = field(default_factory=list)
    data: list[ExportedData] = field(default_factory=list)
    lasts: list[bool] = field(default_factory=list)


@dataclass(slots=True)
class There:
    """A sandbox, and the exports that are opened with it."""

    sandbox: RunningSandbox
    exports: Exports
    stats: RunStats

    async def read(
        self, name: str = USAGE, start: Bookmark = BEGINNING, until: int | None = None
    ) -> Reading:
        reading = Reading()
        walk = Walk(
            transfer_of(name), JsonDecoder(), start, until=until, on_export=reading.data.append
        )
        errors: list[BulkfetchError] = []
        async with anyio.create_task_group() as tasks:
            exported = ExportSources(self.exports).source(tasks)
            try:
                async with aclosing(exported.pages(walk)) as pages:
                    async for placed in pages:
                        note(reading, placed, start.line)
            except BulkfetchError as error:
                errors.append(error)
            tasks.cancel_scope.cancel()
        if errors:
            raise errors[0]
        return reading

    def drawn(self, name: str = USAGE) -> list[str]:
        return [dumps(loads(row)) for row in self.sandbox.graph.exporting.rows(name)]

    @property
    def asked(self) -> dict[str, int]:
        graph, blobs = self.sandbox.graph.stats.by_kind, self.sandbox.graph.blob_stats.by_kind
        return {**graph, **blobs}


def note(reading: Reading, placed: PlacedPage[JsonPage], first_line: int) -> None:
    assert placed.start.line == first_line + len(reading.rows)
    assert not any(reading.lasts)
    reading.rows += map(dumps, placed.page.items)
    reading.starts.append(Bookmark.from_dict(json.loads(json.dumps(placed.start.to_dict()))))
    reading.lasts.append(placed.is_last)


def transfer_of(name: str) -> Transfer:
    line_item_type, billed, subject = name.split("/", 2)
    if billed == "billed":
        return Transfer(subject, "graph", line_item_type)
    period, currency = subject.split("/")
    return Transfer("unbilled", "graph", line_item_type, (period, currency))


@asynccontextmanager
async def opened(
    *rules: Fault,
    scratch: Path | None = None,
    kept: KeptOperations | None = None,
    line_items: int = 120,
    today: datetime | None = None,
    sleep: Callable[[float], Awaitable[None]] = hurry,
    settings: dict[str, Any] | None = None,
    **graph: Any,
) -> AsyncIterator[There]:
    options = SandboxOptions(
        newest="2024-05",
        invoices=6,
        line_items=line_items,
        faults=Faults(rules),
        graph=GraphOptions(**{"blobs": 3, "order": "shuffled", **graph}),
    )
    stats = RunStats()
    async with serve(options) as sandbox:
        given = Settings(
            base_url=sandbox.base_url,
            token=Secret("v1-canary"),
            graph_token=Secret(sandbox.graph.token),
            graph_url=sandbox.graph.url,
            **(settings or {}),
        )
        async with open_exports(
            given,
            stats,
            kept=kept,
            scratch=scratch,
            clock=Clock(now=lambda: HURRY * anyio.current_time(), sleep=sleep),
            today=lambda: today or datetime.now(UTC),
        ) as exports:
            yield There(sandbox, exports, stats)
        assert sandbox.graph.honeypot_stats.requests == 0
        assert sandbox.graph.blob_stats.authorized == 0


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def on_blob(kind: str, **given: Any) -> Fault:
    return Fault(kind, endpoint="blob", **{"path": "/usage/*", **given})


def on(kind: str, endpoint: str, **given: Any) -> Fault:
    return Fault(kind, endpoint=endpoint, **given)


@pytest.mark.parametrize("location", ["inline", "link", "text"])
@pytest.mark.parametrize("name", ["usage", "reconciliation"])
@pytest.mark.parametrize("subject", ["billed/G000700185", "unbilled/current/EUR"])
async def test_each_export_gives_its_rows_in_order(
    location: str, name: str, subject: str, tmp_path: Path
) -> None:
    async with opened(location=location, scratch=tmp_path) as there:
        reading = await there.read(f"{name}/{subject}")
        assert reading.rows == there.drawn(f"{name}/{subject}")
    (data,) = reading.data
    assert data.lines == len(reading.rows)
    assert [blob.name for blob in data.blobs] == sorted(blob.name for blob in data.blobs)
    assert reading.lasts[-1]
    assert ExportedData.from_dict(json.loads(json.dumps(data.to_dict()))) == data
    assert not left_in(tmp_path)


MENDED = {
    "members": [on_blob("blob_members")],
    "said to be gzip": [on_blob("blob_encoded")],
    "unzipped on the way": [on_blob("blob_unzipped")],
    "no last line end": [on_blob("blob_last_line")],
    "CRLF": [on_blob("blob_crlf")],
    "blank lines": [on_blob("blob_blank_lines")],
    "connections break in each file": [on_blob("reset_body", share=0.5, attempts=2)],
    "connections close in each file": [on_blob("close_body", share=0.3, nth=(1, 2))],
    "no ranges": [on_blob("reset_body", share=0.5, nth=(1,)), on_blob("no_ranges")],
    "damaged once": [on_blob("blob_checksum", nth=(1,))],
    "cut once": [on_blob("blob_cut", share=0.5, nth=(1,))],
    "cut line once": [on_blob("blob_cut_line", nth=(1,))],
    "empty once": [on_blob("blob_empty", nth=(1,))],
    "the SAS lapses in the body": [on_blob("sas_lapses", share=0.4, times=1)],
    "the SAS lapses in each body": [on_blob("sas_lapses", share=0.4, nth=(1,))],
    "a file is gone for a moment": [on_blob("blob_gone", times=1)],
    "another ETag for a moment": [
        on_blob("reset_body", share=0.5, nth=(1,)),
        on_blob("blob_changed", nth=(2,)),
    ],
    "storage is busy": [on_blob("status", status=503, body="empty", attempts=2)],
    "Graph fails": [on("status", "any", status=502, body="html", attempts=1)],
    "Graph is busy": [
        on(
            "status", "export", status=429, body="web_api", headers=(("Retry-After", "1"),), times=2
        ),
        on("status", "operation", status=429, body="web_api", times=2),
    ],
    "no answers": [on("close", "any", attempts=1)],
    "not ready": [on("operation_running", "operation", nth=(1, 2, 3))],
    "forgotten once": [on("operation_forgotten", "operation", times=1)],
    "failed twice": [on("operation_failed", "operation", code="7000", message="Hm", times=2)],
    "not JSON once": [on("not_json", "operation", times=1)],
    **{
        f"{kind} once": [on(kind, "operation", times=1)]
        for kind in ("blob_count", "lost_blob", "doubled_blob", "blob_path", "no_etag", "no_sas")
    },
}


@pytest.mark.parametrize("name", MENDED)
async def test_what_can_be_mended_costs_no_row(name: str, tmp_path: Path) -> None:
    async with opened(*MENDED[name], scratch=tmp_path) as there:
        reading = await there.read()
        assert reading.rows == there.drawn()
        assert sum(there.sandbox.graph.stats.faults.values()) + sum(
            there.sandbox.graph.blob_stats.faults.values()
        )
    assert not left_in(tmp_path)


REFUSED: dict[str, tuple[list[Fault], type[Exception], str]] = {
    "cut": ([on_blob("blob_cut", share=0.5)], TransferError, "the gzip file is cut"),
    "damaged": ([on_blob("blob_checksum")], TransferError, "damaged"),
    "more behind the end": ([on_blob("blob_trailing")], TransferError, "behind its end"),
    "cut line": ([on_blob("blob_cut_line")], TransferError, "the last line is cut"),
    "not JSON": ([on_blob("blob_not_json")], TransferError, "not JSON"),
    "two rows in a line": ([on_blob("blob_two_rows")], TransferError, "not JSON"),
    "empty": ([on_blob("blob_empty")], TransferError, "it is empty"),
    "gone": ([on_blob("blob_gone")], TransferError, "404 .code BlobNotFound"),
    "always changed": (
        [on_blob("reset_body", share=0.5, nth=(1, 3, 5, 7)), on_blob("blob_changed")],
        TransferError,
        "412 .code ConditionNotMet",
    ),
    "the SAS never holds": ([on_blob("sas_lapses", share=0.0)], TransferError, "403 .code Auth"),
    "storage redirects": (
        [on_blob("redirect", location="https://evil.example/a")],
        TransferError,
        "redirects elsewhere",
    ),
    "one blob too few": ([on("lost_blob", "operation")], TransferError, "has 3 blobs, and lists 2"),
    "one blob too many": ([on("blob_count", "operation")], TransferError, "lists 3"),
    "a blob twice": ([on("doubled_blob", "operation")], TransferError, "comes twice"),
    "a name that leads elsewhere": ([on("blob_path", "operation")], TransferError, "no file of"),
    "another format": ([on("other_format", "operation")], TransferError, "'parquet'"),
    "no version": ([on("no_etag", "operation")], TransferError, "no `eTag`"),
    "another host": ([on("foreign_addresses", "any")], TransferError, "not followed"),
    "files at another host": (
        [on("foreign_addresses", "operation")],
        TransferError,
        "not a directory of Azure Storage",
    ),
    "no permission": (
        [on("status", "export", status=403, body="web_api")],
        TransferError,
        "answered 403",
    ),
    "nothing there": (
        [on("operation_failed", "operation", message="No data available")],
        NothingExportedError,
        "code 5000: No data available.*client-request-id .*, request-id ",
    ),
    "always failing": (
        [on("operation_failed", "operation", code="7000", message="Hm")],
        ExportError,
        "code 7000: Hm.*client-request-id",
    ),
    "always forgotten": (
        [on("operation_forgotten", "operation")],
        ExportError,
        "does not know it afterwards",
    ),
    "never ready": ([on("operation_running", "operation")], PendingExportError, "has not finished"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_mended_is_a_failure_that_says_why(name: str, tmp_path: Path) -> None:
    rules, kind, words = REFUSED[name]
    waits = {"operation_deadline_s": 20.0} if name == "never ready" else {}
    with pytest.raises(kind, match=words) as failed:
        async with opened(*rules, scratch=tmp_path, settings=waits) as there:
            await there.read()
    assert transfer_of(USAGE).invoice_id in str(failed.value)
    assert not left_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "posts"), [("nothing there", 1), ("always failing", 3), ("always forgotten", 2)]
)
async def test_an_export_is_asked_for_again_as_often_as_that_may_help(
    name: str, posts: int
) -> None:
    async with opened(*REFUSED[name][0]) as there:
        with pytest.raises(ExportError):
            await there.read()
        assert len(there.sandbox.graph.exporting.operations.begun) == posts


@pytest.mark.parametrize("change", ["rows", "split", "beside", "in_place"])
@pytest.mark.parametrize("moment", ["renewed_in_body", "gone and asked"])
async def test_data_that_are_made_anew_meanwhile_are_never_mixed(change: str, moment: str) -> None:
    rules = {
        "renewed_in_body": [on_blob("renewed_in_body", share=0.5, change=change, times=1)],
        "gone and asked": [
            on("new_generation", "operation", change=change, nth=(2,)),
            on_blob("sas_lapses", share=0.4, times=1),
        ],
    }[moment]
    async with opened(*rules) as there:
        before = there.drawn()
        try:
            reading = await there.read()
        except RenewedExportError:
            reading = await there.read()
        else:
            # the old files stay beside the new ones, and nothing asked whether there are new ones
            assert change == "beside"
            assert reading.rows == before
            return
        assert reading.rows == there.drawn()


@pytest.mark.slow
async def test_rows_are_decoded_while_later_files_are_on_their_way() -> None:
    async with opened() as there:
        last = (await there.exports.manifest(transfer_of(USAGE))).names[-1]
    async with opened(on_blob("delay", path=f"*{last}", seconds=2.0)) as there:
        walk = Walk(transfer_of(USAGE), JsonDecoder())
        async with anyio.create_task_group() as tasks:
            pages = ExportSources(there.exports).source(tasks).pages(walk)
            async with aclosing(pages):
                came = [there.stats.bytes_received async for _ in pages]
        assert came[0] < came[-1] == there.stats.bytes_received


async def test_only_what_is_missing_of_a_file_comes_again() -> None:
    async with opened(on_blob("reset_body", share=0.5, nth=(1,)), line_items=3000) as there:
        reading = await there.read()
        size = sum(blob.size_bytes for blob in reading.data[0].blobs)
        assert reading.rows == there.drawn()
        assert there.stats.bytes_received < 1.2 * size


async def test_files_that_break_off_again_and_again_are_waited_for_as_after_one_failure() -> None:
    """Ten answers break off, and each brought bytes: the server works, so no wait grows."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await hurry(seconds)

    rule = on_blob("reset_body", share=0.5, times=10)
    async with opened(rule, line_items=3000, blobs=2, sleep=sleep) as there:
        reading = await there.read()
        assert reading.rows == there.drawn()
        assert there.sandbox.graph.blob_stats.faults["reset_body"] == 10
        assert there.stats.held_until == 0.0
    assert max(slept) < 2.0


async def test_what_is_in_flight_is_within_the_limits_of_all_servers_that_are_asked() -> None:
    async with opened(line_items=300, blobs=9) as there:
        most: list[tuple[int, int]] = []
        async with anyio.create_task_group() as tasks:

            async def look() -> None:
                while True:
                    most.append((there.stats.in_flight, there.stats.limit))
                    await anyio.sleep(0.001)

            tasks.start_soon(look)
            await there.read()
            tasks.cancel_scope.cancel()
    assert max(in_flight for in_flight, _ in most) > 0
    assert all(in_flight <= limit for in_flight, limit in most)


@pytest.mark.parametrize("fresh_sas", ["operation", "manifest", "export"])
@pytest.mark.parametrize("location", ["inline", "link"])
async def test_a_fresh_sas_comes_from_whatever_gives_one(fresh_sas: str, location: str) -> None:
    rule = on_blob("sas_lapses", share=0.4, times=1)
    async with opened(rule, fresh_sas=fresh_sas, location=location) as there:
        assert (await there.read()).rows == there.drawn()


@pytest.mark.parametrize("most_bytes", [100_000, 300_000])
async def test_pages_of_all_walks_wait_within_one_budget(
    most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "PAGE_BYTES", 10_000)
    monkeypatch.setattr(source, "_PAGE_COST", 20_000)
    names = [f"usage/unbilled/{when}/{code}" for when in ("current", "last") for code in CODES]
    async with opened(line_items=300, settings={"max_waiting_bytes": most_bytes}) as there:
        budget = there.exports.budget

        async def read(name: str) -> None:
            assert (await there.read(name)).rows == there.drawn(name)

        async with anyio.create_task_group() as tasks:
            for name in (USAGE, *names):
                tasks.start_soon(read, name)
        assert 20_000 < budget.peak <= most_bytes + 20_000
        assert (budget.used, budget.claims) == (0, 0)


async def test_a_walk_that_is_left_or_fails_gives_its_memory_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "PAGE_BYTES", 10_000)
    async with opened(on_blob("blob_not_json", path="*/billed/*"), line_items=300) as there:
        unbilled = "usage/unbilled/current/EUR"
        assert len((await there.read(unbilled, until=30)).rows) >= 30
        assert (there.exports.budget.used, there.exports.budget.claims) == (0, 0)
        with pytest.raises(TransferError, match="not JSON"):
            await there.read()
        assert (there.exports.budget.used, there.exports.budget.claims) == (0, 0)


async def test_files_that_are_gone_although_their_export_leads_to_them_are_exported_anew() -> None:
    """As where an operation goes on naming the files of data that were made anew."""
    async with opened(on_blob("blob_gone", nth=(1, 2)), blobs=1) as there:
        assert (await there.read()).rows == there.drawn()
        assert len(there.sandbox.graph.exporting.operations.begun) == 2


@pytest.mark.parametrize("name", [USAGE, "usage/unbilled/current/EUR"])
async def test_files_of_another_export_are_asked_for_again_and_then_refused(name: str) -> None:
    async with opened(on("other_export", "operation", times=1)) as there:
        assert (await there.read(name)).rows == there.drawn(name)
        assert len(there.sandbox.graph.exporting.operations.begun) == 2
    async with opened(on("other_export", "any")) as there:
        with pytest.raises(ContradictionError, match=r"=G999999999, and .* was asked for"):
            await there.read(name)
        assert len(there.sandbox.graph.exporting.operations.begun) == 2


@pytest.mark.slow
async def test_a_walk_continues_at_any_of_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PAGE_BYTES", 20_000)
    async with opened(line_items=300) as there:
        whole = await there.read()
        assert len(whole.starts) > 6
        for start in whole.starts:
            again = await there.read(start=start)
            assert again.rows == whole.rows[start.line :] if start.line else whole.rows
            assert again.data == whole.data


async def test_a_walk_does_not_continue_in_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PAGE_BYTES", 20_000)
    async with opened() as there:
        whole = await there.read()
        there.sandbox.graph.exporting.renew(USAGE)
        with pytest.raises(ExpiredBookmarkError):
            await there.read(start=whole.starts[-1])


async def test_the_data_are_the_same_until_they_are_made_anew() -> None:
    async with opened() as there:
        (first,) = (await there.read()).data
        (again,) = (await there.read()).data
        there.sandbox.graph.exporting.renew(USAGE, "split")
        (split,) = (await there.read()).data
    assert again == first
    assert first.is_same_data(again)
    assert not first.is_same_data(split)


async def test_an_export_without_rows_is_empty_or_nothing() -> None:
    for empty, files in (("no_rows", 3), ("no_blobs", 0)):
        async with opened(line_items=0, empty=empty) as there:
            reading = await there.read()
        assert reading.rows == []
        assert len(reading.data[0].blobs) == files
    async with opened(line_items=0, empty="5000") as there:
        with pytest.raises(NothingExportedError) as refused:
            await there.read()
    assert refused.value.code == "5000"


@dataclass(slots=True)
class Kept:
    """Keeps operations as JSON, as an archive does."""

    facts: dict[Transfer, str] = field(default_factory=dict)

    def find(self, transfer: Transfer) -> Operation | None:
        text = self.facts.get(transfer)
        return None if text is None else Operation.from_dict(json.loads(text))

    def keep(self, transfer: Transfer, operation: Operation) -> None:
        self.facts[transfer] = json.dumps(operation.to_dict())

    def drop(self, transfer: Transfer) -> None:
        self.facts.pop(transfer, None)


async def test_an_operation_that_outlives_its_run_is_continued() -> None:
    kept = Kept()
    rule = on("operation_running", "operation", times=15)
    async with opened(rule, kept=kept, settings={"operation_deadline_s": 10.0}) as there:
        with pytest.raises(PendingExportError):
            await there.read()
        (text,) = kept.facts.values()
        assert set(json.loads(text)) == {"operation", "asked", "asked_at"}
        for _ in range(15):
            with suppress(PendingExportError):
                assert (await there.read()).rows == there.drawn()
                break
        assert len(there.sandbox.graph.exporting.operations.begun) == 1
    assert kept.facts == {}


@pytest.mark.parametrize("why", ["old", "failed", "forgotten", "other", "elsewhere", "from later"])
async def test_an_operation_of_an_earlier_run_that_helps_no_more_is_made_anew(why: str) -> None:
    kept, rules = Kept(), []
    if why == "failed":
        rules = [on("operation_failed", "operation", times=1)]
    async with opened(*rules, kept=kept) as there:
        operation = await there.exports.operations.submit(transfer_of(USAGE))
        facts = operation.to_dict()
        if why == "old":
            facts["asked_at"] = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
        if why == "from later":
            facts["asked_at"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        if why == "forgotten":
            facts["operation"] = facts["operation"][:-4] + "0000"
        if why == "other":
            facts["asked"] = {**facts["asked"], "invoiceId": "G1"}
        if why == "elsewhere":
            facts["operation"] = "https://evil.example/v1.0/a"
        kept.facts[transfer_of(USAGE)] = json.dumps(facts)
        assert (await there.read()).rows == there.drawn()
        assert len(there.sandbox.graph.exporting.operations.begun) == 2


async def test_a_full_disk_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    real = spool.Spooling._open
    monkeypatch.setattr(spool.Spooling, "_open", lambda self: Full(real(self)))
    async with opened() as there:
        with pytest.raises(StorageError, match=r"cannot be kept.* the disk is full"):
            await there.read()


async def test_neither_sas_nor_token_is_shown_or_sent_where_it_does_not_belong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    for rules in (
        [on_blob("sas_lapses", share=0.4, nth=(1,))],
        [on_blob("sas_lapses", share=0.0)],
        [on_blob("blob_gone")],
        [on_blob("status", status=400, body="text")],
        [on("foreign_addresses", "any")],
    ):
        async with opened(*rules) as there:
            try:
                shown.append(repr(await there.read()))
            except TransferError as error:
                shown += [str(error), repr(error), repr(error.__cause__)]
            exporting = there.sandbox.graph.exporting
            secrets = [*exporting.sas.signatures, *exporting.sas.tokens, there.sandbox.graph.token]
            manifest = await there.exports.manifest(transfer_of(USAGE)) if len(shown) == 1 else None
            shown.append(repr(manifest) + str(manifest))
            everything = "".join((*shown, caplog.text))
            assert not [secret for secret in secrets if secret in everything]
            assert not [secret for secret in secrets if secret.replace("=", "%3D") in everything]


async def test_exports_are_asked_for_ahead_of_their_turn_and_side_by_side() -> None:
    names = [
        f"{kind}/unbilled/{when}/{code}"
        for kind in ("usage", "reconciliation")
        for when in ("current", "last")
        for code in ("EUR", "USD")
    ]
    async with opened(operation_s=0.5) as there, anyio.create_task_group() as tasks:
        there.exports.begin(map(transfer_of, names), tasks)
        for name in names:
            assert (await there.read(name)).rows == there.drawn(name)
        operations = there.sandbox.graph.exporting.operations
        assert (len(operations.begun), operations.most_open) == (8, 8)


@pytest.mark.parametrize("name", ["reconciliation-full", "usage-full"])
def test_the_made_up_rows_are_read_as_they_are(name: str) -> None:
    text = (FOLDER / "graph" / "made-up" / f"{name}.jsonl").read_bytes()
    page = JsonDecoder().decode_lines(text)
    assert [json.loads(dumps(item)) for item in page.items] == [
        json.loads(line) for line in text.split(b"\n") if line
    ]
