"""Every fault of Microsoft Graph and its blobs against a whole export over real sockets: nothing is
lost, doubled or changed.

Each row exports a tenant with legacy invoices, and new commerce of periods that the v1 API has and
of newer ones, while the fault is there, and once more into the same archive when it is gone. What
the archive has is held, value by value, against the rows that the sandbox drew
(`support/graph/graphoracle.py`, which shares no code with what wrote it). No secret may be in
anything that is written, and nobody may have come to the honeypot. The table is printed at the end
of the tests.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import trustme
from support.graph.graphoracle import Differences, archived_rows, compare
from support.samples import first_of_each

from bulkfetch.archive.layout import FAILURES
from bulkfetch.errors import BulkfetchError
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import Fault, Faults, GraphOptions, RunningSandbox, SandboxOptions, serve
from bulkfetch.sandbox.faults import CHANGES
from bulkfetch.sandbox.graph.options import QUIRKS
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

TOKEN, GRAPH_TOKEN = "canary-token-0123456789abcdef", "canary-graph-0123456789abcdef"
NEW = "G000700111"
"""The invoice whose line items Graph has; of the older one it has the usage alone."""
SMALL: dict[str, Any] = {"page_size": 50, "max_attempts": 4, "part_rows": 50}
QUICK: dict[str, Any] = {"first_byte_timeout_s": 0.5, "read_timeout_s": 0.4}
"""For faults that keep a client waiting."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what goes wrong, and what must come of it.

    `failed` has the reasons of the transfers that fail while the fault is there.
    """

    number: int
    name: str
    faults: tuple[Fault, ...] = ()
    failed: frozenset[str] = frozenset()
    exit_code: int = 0
    graph: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    unbilled: bool = False

    @property
    def id(self) -> str:
        return f"{self.number}-{self.name}".replace(" ", "-")


def fault(kind: str, endpoint: str = "blob", **more: Any) -> Fault:
    return Fault(kind, endpoint, **{"path": "/usage/*", **more})


def once(number: int, kind: str, endpoint: str = "blob", name: str = "", **more: Any) -> Case:
    """The fault meets one request to each path, and is gone when it is tried again."""
    rule = fault(kind, endpoint, **{"nth": (1,), **more})
    return Case(number, name or f"{kind} at {endpoint}, once", (rule,))


def always(number: int, kind: str, reason: str, endpoint: str = "blob", **more: Any) -> Case:
    """The fault does not go away: its transfers fail, and the others are complete."""
    rule = fault(kind, endpoint, **more)
    return Case(number, f"{kind} at {endpoint}, always", (rule,), frozenset({reason}), 1)


def legal(number: int, name: str, *faults: Fault, **graph: Any) -> Case:
    """Odd, but nothing is wrong with it."""
    return Case(number, f"{name} (legal)", faults, graph=graph)


LEGAL_FORMS = (
    *("blob_members", "blob_encoded", "blob_unzipped", "blob_crlf", "blob_blank_lines"),
    *("blob_last_line", "no_ranges"),
)
DAMAGES = ("blob_cut", "blob_trailing", "blob_checksum", "blob_cut_line", "blob_empty")
CASES = [
    # How operations and manifests are spelled.
    legal(1, "nothing goes wrong"),
    Case(1, "unbilled too (legal)", unbilled=True, graph={"blobs": 2}),
    legal(2, "a manifest by its link", location="link"),
    legal(2, "a manifest by a text", location="text"),
    legal(2, "other words", statuses=("NotStarted", "processing", "COMPLETED", "Failed")),
    legal(2, "an operation takes its time", operation_s=0.5, retry_after="1"),
    legal(2, "no Retry-After", operation_s=0.5, retry_after=""),
    *[legal(3, f"blobs {order}", blobs=4, order=order) for order in ("descending", "shuffled")],
    legal(3, "more blobs than rows", blobs=150),
    # How rows are spelled.
    *[legal(4, f"rows with {quirk}", rows=(quirk,)) for quirk in QUIRKS],
    legal(4, "rows with everything", rows=tuple(QUIRKS), blobs=3),
    # How blobs are stored.
    *[legal(5, kind, fault(kind, path="*")) for kind in LEGAL_FORMS],
    *[once(6, kind) for kind in DAMAGES],
    *[always(6, kind, "malformed_body") for kind in (*DAMAGES, "blob_not_json", "blob_two_rows")],
    # The transport.
    *[
        once(7, kind, endpoint)
        for endpoint in ("export", "operation", "blob")
        for kind in ("close", "reset", "close_body", "reset_body", "bad_status_line")
        if (kind, endpoint) not in (("close_body", "export"), ("reset_body", "export"))
    ],
    *[
        Case(
            8,
            f"{kind} at {endpoint}",
            (fault(kind, endpoint, nth=(1,), seconds=20.0),),
            settings=QUICK,
        )
        for endpoint in ("export", "operation", "blob")
        for kind in ("stall", "stall_body")
        if (kind, endpoint) != ("stall_body", "export")
    ],
    once(8, "drip", bytes_per_s=1e5),
    Case(
        9,
        "a blob comes in three goes",
        (fault("reset_body", share=0.3, nth=(1, 2)),),
    ),
    # Refusals.
    *[
        once(10, "status", endpoint, f"{status} at {endpoint}, once", status=status, **more)
        for endpoint in ("export", "operation", "manifest", "blob")
        for status, more in ((429, {"retry_after": "0"}), (500, {}), (503, {"retry_after": "1"}))
        if endpoint != "manifest"
    ],
    Case(
        10,
        "503 at a manifest, once",
        (fault("status", "manifest", nth=(1,)),),
        graph={"location": "link"},
    ),
    Case(11, "two operations at once", graph={"max_operations": 2, "operation_s": 0.3}),
    always(12, "status", "http_status", "blob", status=400),
    always(12, "status", "http_status", "export", status=400),
    # SAS.
    once(13, "sas_lapses"),
    once(13, "sas_lapses", name="sas_lapses in three places", nth=(1, 3, 5), share=0.2),
    *[
        Case(
            13,
            f"sas_lapses, {call} renews",
            (fault("sas_lapses", nth=(1,)),),
            graph={"fresh_sas": call, "blobs": 2},
        )
        for call in ("operation", "manifest", "export")
    ],
    Case(14, "a SAS of two seconds", graph={"sas_s": 2.0, "blobs": 4}),
    always(14, "status", "http_status", "blob", status=403),
    # Generations.
    *[
        once(
            15,
            "renewed_in_body",
            name=f"data renewed in mid-body: {change}",
            change=change,
            times=1,
        )
        for change in CHANGES
    ],
    *[
        once(16, "new_generation", name=f"data renewed at a blob: {change}", change=change, times=1)
        for change in CHANGES
    ],
    once(16, "new_generation", "operation", change="rows", times=1),
    once(17, "blob_gone"),
    Case(
        17,
        "412 where a blob would continue, once",
        (fault("reset_body", nth=(1,)), fault("blob_changed", nth=(2,))),
    ),
    always(17, "blob_gone", "http_status"),
    # Operations that fail.
    once(18, "operation_forgotten", "operation"),
    once(18, "operation_failed", "operation", code="7000", times=1),
    always(18, "operation_failed", "export", "operation", code="7000", message="Hm."),
    # Manifests that lie.
    *[once(19, kind, "operation") for kind in ("blob_count", "lost_blob", "no_sas")],
    once(25, "other_export", "operation"),
    always(25, "other_export", "contradiction", "operation"),
    *[
        always(19, kind, "malformed_body", "operation")
        for kind in (
            *("blob_count", "lost_blob", "doubled_blob", "blob_path", "other_format"),
            *("no_etag", "no_sas"),
        )
    ],
    *[always(20, kind, "foreign_page", "operation") for kind in ("html", "not_json")],
    *[
        always(20, kind, "malformed_body", "operation")
        for kind in ("empty_body", "null", "array", "deep_json")
    ],
    once(20, "cut_json", "operation"),
    once(20, "html", "operation"),
    # Strangers.
    always(21, "foreign_addresses", "foreign_link", "export"),
    always(21, "foreign_addresses", "foreign_link", "operation"),
    *[
        always(22, "redirect", "foreign_link", endpoint, location="honeypot")
        for endpoint in ("export", "operation", "blob")
    ],
    Case(23, "set_cookie", (Fault("set_cookie"),)),
]


def settings_for(sandbox: RunningSandbox, **given: Any) -> Settings:
    tokens = {"token": Secret(TOKEN), "graph_token": Secret(GRAPH_TOKEN)}
    addresses = {"base_url": sandbox.base_url, "graph_url": sandbox.graph.url}
    return Settings(**{**addresses, **tokens, **SMALL, **given})


def options_for(case: Case) -> SandboxOptions:
    graph = GraphOptions(token=GRAPH_TOKEN, **case.graph)
    return SandboxOptions(
        invoices=4,
        line_items=130,
        amendments=0,
        newest="2024-05",
        unbilled_line_items=20,
        token=TOKEN,
        graph=graph,
        faults=Faults(case.faults),
    )


async def run_once(
    lake: Path, settings: Settings, *, unbilled: bool, recheck: bool = False
) -> tuple[frozenset[str], int, str]:
    """Export; return the reasons of what failed, the exit code, and everything that was shown."""
    try:
        report = await export_async(lake, settings, unbilled=unbilled, recheck=recheck)
    except BulkfetchError as error:
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        return frozenset({error.reason}), 1, shown
    shown = "\n".join(report.lines()) + repr(report.to_dict())
    return frozenset(each.reason for each in report.failures), report.exit_code, shown


def exported_names(sandbox: RunningSandbox, *, unbilled: bool) -> list[str]:
    names = sandbox.graph.exporting.names()
    return [name for name in names if unbilled or "/billed/" in name]


def differences_of(lake: Path, sandbox: RunningSandbox, name: str) -> Differences:
    """Compare what an archive has with the generation of the data that it is closest to."""
    archived = archived_rows(lake, name)
    history = sandbox.graph.exporting.exports.history(name)
    found = [compare(drawn, archived) for drawn in history]
    return min(found, key=lambda each: sum(each.counts))


def now_different(lake: Path, sandbox: RunningSandbox, name: str) -> Differences:
    """Compare what an archive has with the data as they are now."""
    return compare(sandbox.graph.exporting.rows(name), archived_rows(lake, name))


def everything_written(lake: Path) -> str:
    paths = sorted(path for path in lake.rglob("*") if path.is_file())
    return "\n".join(path.read_bytes().decode(errors="replace") for path in paths)


def secrets_of(sandbox: RunningSandbox) -> list[str]:
    signatures = sandbox.graph.exporting.sas.signatures
    return [TOKEN, GRAPH_TOKEN, *signatures, *(quote(each, safe="") for each in signatures)]


def assert_no_secret(sandbox: RunningSandbox, *texts: str) -> None:
    for secret in secrets_of(sandbox):
        for text in texts:
            assert secret not in text


def assert_nobody_strayed(sandbox: RunningSandbox) -> None:
    """Hold that each token went to its own origin, and no request to a stranger."""
    assert not sandbox.graph.honeypot_stats.requests
    assert not sandbox.graph.blob_stats.authorized
    assert not sandbox.stats.by_status[401]


@pytest.mark.parametrize(
    "case",
    first_of_each(CASES, lambda case: (case.number, bool(case.failed)), lambda case: case.id),
)
async def test_a_fault_of_graph_loses_doubles_and_changes_nothing(
    case: Case,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault_table: list[tuple[str, ...]],
) -> None:
    with caplog.at_level(logging.DEBUG), anyio.fail_after(90):
        async with serve(options_for(case)) as sandbox:
            settings = settings_for(sandbox, **case.settings)
            failed, exit_code, shown = await run_once(tmp_path, settings, unbilled=case.unbilled)
            times = sum(sandbox.faults.met.values())
            names = exported_names(sandbox, unbilled=case.unbilled)
            early = [name for name in names if archived_rows(tmp_path, name)]
            kept = [differences_of(tmp_path, sandbox, name) for name in early]
            sandbox.faults.stop()
            settings = settings_for(sandbox)
            ended = await run_once(tmp_path, settings, unbilled=case.unbilled, recheck=True)
            found = {name: now_different(tmp_path, sandbox, name) for name in names}

    assert bool(times) is bool(case.faults), "the fault was not met"
    assert (failed, exit_code) == (case.failed, case.exit_code), shown
    assert [each.counts for each in kept] == [(0, 0, 0)] * len(early)
    assert ended[:2] == (frozenset(), 0), ended[2]
    assert {name: each.counts for name, each in found.items()} == dict.fromkeys(names, (0, 0, 0))
    assert sum(each.rows for each in found.values()) >= 3 * 130
    assert verify(tmp_path).sound
    assert not (tmp_path / FAILURES).exists()
    assert_no_secret(sandbox, shown, ended[2], caplog.text, everything_written(tmp_path))
    assert_nobody_strayed(sandbox)
    outcome = ", ".join(sorted(case.failed)) or "complete"
    fault_table.append((str(case.number), case.name, str(times), outcome, "0", "0"))


# 5000, which means several things.

NEW_COMMERCE = ("one_time/billing_line_items", "one_time/usage_line_items")
EACH_EXPORT = fault("operation_failed", "operation", path="*")


@dataclass(frozen=True, slots=True)
class Nothing:
    """What comes of a run in which Graph has nothing: the exit code, and words of the report."""

    exit_code: int
    words: str


async def has_nothing(
    lake: Path, options: SandboxOptions, nothing: Nothing, *, unbilled: bool = False
) -> None:
    """Export while Graph has nothing, and again when it has all."""
    async with serve(options) as sandbox:
        settings = settings_for(sandbox)
        names = exported_names(sandbox, unbilled=unbilled)
        failed, exit_code, shown = await run_once(lake, settings, unbilled=unbilled)
        early = [name for name in names if archived_rows(lake, name)]
        assert verify(lake).sound
        sandbox.faults.stop()
        ended = await run_once(lake, settings, unbilled=unbilled, recheck=True)
        found = {name: now_different(lake, sandbox, name) for name in names}

    assert (failed, exit_code, early) == (frozenset(), nothing.exit_code, []), shown
    assert nothing.words in shown
    assert ended[:2] == (frozenset(), 0), ended[2]
    assert {name: each.counts for name, each in found.items()} == dict.fromkeys(names, (0, 0, 0))
    assert verify(lake).sound
    assert_no_secret(sandbox, shown, ended[2], everything_written(lake))


async def test_a_young_invoice_that_graph_does_not_have_is_awaited(
    tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    case = Case(24, "5000 of a young invoice", (EACH_EXPORT,))
    today = datetime.now(UTC)
    newest = f"{today:%Y-%m}-{min(today.day, 28):02d}"
    options = replace(options_for(case), invoices=1, details=NEW_COMMERCE, newest=newest)
    await has_nothing(tmp_path, options, Nothing(0, "Microsoft Graph does not have it yet"))
    fault_table.append(("24", case.name, "2", "complete", "0", "0"))


async def test_an_older_invoice_that_graph_does_not_have_disagrees(
    tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    case = Case(24, "5000 of an older invoice", (EACH_EXPORT,))
    await has_nothing(tmp_path, options_for(case), Nothing(4, "Microsoft Graph had no graph/"))
    fault_table.append(("24", case.name, "3", "complete", "0", "0"))


async def test_unbilled_line_items_that_graph_does_not_have_are_none(
    tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    case = Case(
        24,
        "5000 of what is unbilled",
        (fault("operation_failed", "operation", path="*/unbilled/*"),),
    )
    async with serve(options_for(case)) as sandbox:
        settings = settings_for(sandbox)
        first = await run_once(tmp_path, settings, unbilled=True)
        names = [name for name in exported_names(sandbox, unbilled=True) if "/unbilled/" in name]
        assert not [name for name in names if archived_rows(tmp_path, name)]
        sandbox.faults.stop()
        second = await run_once(tmp_path, settings, unbilled=True)
        found = {name: now_different(tmp_path, sandbox, name).counts for name in names}

    assert (first[:2], second[:2]) == ((frozenset(), 0), (frozenset(), 0)), first[2] + second[2]
    assert found == dict.fromkeys(names, (0, 0, 0))
    assert len(names) == 8
    fault_table.append(("24", case.name, "8", "complete", "0", "0"))


@pytest.mark.parametrize("unbilled", [False, True])
async def test_what_is_archived_stays_where_graph_has_nothing_any_more(
    unbilled: bool, tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    rule = fault("operation_failed", "operation", path="*", nth=(2,))
    case = Case(24, f"5000 of what is archived{' unbilled' * unbilled}", (rule,))
    async with serve(options_for(case)) as sandbox:
        settings = settings_for(sandbox)
        names = exported_names(sandbox, unbilled=unbilled)
        runs = [
            await run_once(tmp_path, settings, unbilled=unbilled, recheck=True) for _ in range(2)
        ]
        found = {name: now_different(tmp_path, sandbox, name).counts for name in names}
        times = sandbox.faults.met["operation_failed"]

    assert times == len(names)
    assert [each[:2] for each in runs] == [(frozenset(), 0)] * 2, runs[1][2]
    assert found == dict.fromkeys(names, (0, 0, 0))
    assert verify(tmp_path).sound
    fault_table.append(("24", case.name, str(times), "complete", "0", "0"))


# Signing in: two audiences, and a permission.


@pytest.fixture
def signing_in(tmp_path: Path) -> Callable[[RunningSandbox], Settings]:
    """Settings of an app that signs in by TLS, by its secret."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    certificate.write_to_path(str(tmp_path / "server.pem"))

    def settings(sandbox: RunningSandbox) -> Settings:
        return settings_for(
            sandbox,
            token=None,
            graph_token=None,
            authority=sandbox.authority,
            tenant_id=sandbox.tenant_id,
            client_id="sandbox-client",
            client_secret=Secret("sandbox-secret"),
            ca_file=tmp_path / "ca.pem",
        )

    return settings


def with_tls(case: Case, folder: Path) -> SandboxOptions:
    return replace(options_for(case), certificate=str(folder / "server.pem"))


SIGN_INS = [
    Case(25, "an app signs in to both"),
    Case(25, "tokens are forgotten", (fault("forget_tokens", "operation", times=1),)),
    Case(25, "tokens are forgotten by v1", (Fault("forget_tokens", "line_items", times=1),)),
    Case(25, "Graph refuses each token once", (fault("status", "operation", status=401, times=1),)),
    Case(
        25,
        "the token endpoint fails twice",
        (Fault("status", "token", status=503, body="html", times=2),),
    ),
    Case(
        26,
        "a manifest of another tenant",
        (fault("other_tenant", "operation"),),
        frozenset({"transfer"}),
        1,
    ),
    Case(27, "no permission", (), frozenset({"graph_access"}), 1, {"permission": ""}),
    Case(
        27,
        "403 at the first request",
        (fault("status", "export", path="*", status=403),),
        frozenset({"graph_access"}),
        1,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", SIGN_INS, ids=lambda case: case.id)
async def test_signing_in_to_graph_fails_for_graph_alone(
    case: Case,
    signing_in: Callable[[RunningSandbox], Settings],
    tmp_path: Path,
    fault_table: list[tuple[str, ...]],
) -> None:
    lake = tmp_path / "lake"
    with anyio.fail_after(90):
        async with serve(with_tls(case, tmp_path)) as sandbox:
            failed, exit_code, shown = await run_once(lake, signing_in(sandbox), unbilled=False)
            names = exported_names(sandbox, unbilled=False)
            asked = sandbox.graph.stats.by_kind["export"]
            ended = await run_once(lake, signing_in(sandbox), unbilled=False)
            others = sorted(path.name for path in (lake / "line_items").iterdir())

    assert (failed, exit_code) == (case.failed, case.exit_code), shown
    assert {"provider=azure", "provider=office", "provider=one_time"} <= set(others)
    if not case.failed:
        found = [differences_of(lake, sandbox, name).counts for name in names]
        assert found == [(0, 0, 0)] * len(names)
        assert ended[:2] == (frozenset(), 0)
    if case.number == 27:
        assert asked <= (0 if not case.faults else len(names))
        assert "PartnerBilling.Read.All" in shown
    assert not sandbox.graph.blob_stats.authorized
    assert not sandbox.graph.honeypot_stats.requests
    outcome = ", ".join(sorted(case.failed)) or "complete"
    fault_table.append((str(case.number), case.name, "1", outcome, "0", "0"))
