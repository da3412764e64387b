"""Every fault of the wire against a whole export over real sockets: nothing is lost, doubled or
changed.

Each row runs an export against a sandbox with the fault, then one without it into the same archive,
and holds the end against an export that never met a fault. The table is printed at the end of the
tests.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme
from support.samples import first_of_each
from support.servers.wire import unused_port

from bulkfetch.archive.layout import FAILURES, LOCK
from bulkfetch.errors import BulkfetchError
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import Fault, Faults, RunningSandbox, SandboxOptions, serve
from bulkfetch.sandbox.process import spawn
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

CANARY = "canary-token-0123456789abcdef"
TENANT = SandboxOptions(
    invoices=3,
    line_items=130,
    details=("office/billing_line_items", "azure/usage_line_items", "one_time/billing_line_items"),
    amendments=0,
    unreconciled=0,
    token=CANARY,
)
ONE_PAGE = "*/lineitems/office/*"
CHAIN = "/invoices/*/lineitems"
SMALL: dict[str, Any] = {"page_size": 50, "max_attempts": 4, "max_page_bytes": 4 << 20}
SILENT = ("stall", "stall_body", "drip")
QUICK: dict[str, Any] = {"first_byte_timeout_s": 0.5, "read_timeout_s": 0.4}
"""For faults that keep a client waiting. The others meet the timeouts of every run, so that a busy
machine is not taken for a fault."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row: the number of the fault in our list of faults, what is injected, and what must come
    of it.

    `outcome` is "complete", or the reason that the failed transfers or the run itself give.
    """

    number: int
    name: str
    faults: tuple[Fault, ...]
    outcome: str = "complete"
    options: SandboxOptions = TENANT
    settings: dict[str, Any] | None = None
    at_least: int = 1

    @property
    def settings_of_run(self) -> dict[str, Any]:
        is_silent = any(each.kind in SILENT for each in self.faults)
        return {**(QUICK if is_silent else {}), **(self.settings or {})}

    @property
    def id(self) -> str:
        return f"{self.number}-{self.name}".replace(" ", "-")


def once(number: int, kind: str, name: str = "", **more: Any) -> Case:
    """The fault meets the first attempt of every page of one kind, and is gone when it is tried
    again."""
    return Case(number, name or f"{kind}, once", (fault(kind, attempts=1, **more),))


def always(number: int, kind: str, outcome: str, name: str = "", **more: Any) -> Case:
    """The fault does not go away: its transfers fail, and the others are complete."""
    return Case(number, name or f"{kind}, always", (fault(kind, **more),), outcome)


def fault(kind: str, **more: Any) -> Fault:
    return Fault(kind, **{"endpoint": "line_items", "path": ONE_PAGE, **more})


def status(number: int, code: int, outcome: str = "complete", **more: Any) -> Case:
    rule = fault(
        "status", status=code, **({"attempts": 1} if outcome == "complete" else {}), **more
    )
    shown = more.get("retry_after")
    words = f"{code} {more.get('body', '')}".strip() + (
        f", Retry-After {shown!r}" if shown is not None else ""
    )
    return Case(number, words, (rule,), outcome)


def waits() -> list[Case]:
    odd = (
        "0",
        "-5",
        "inf",
        "nan",
        "1e3",
        "1_000",
        "٥".encode().decode("latin-1"),
        "12, 13",
        "",
        "soon",
    )
    return [status(23, 429, retry_after=value, times=3) for value in odd]


CASES = [
    # The transport.
    once(3, "close"),
    once(3, "reset"),
    always(3, "close", "connection_lost"),
    once(4, "close_idle", "an idle connection is closed", endpoint="any", path="*"),
    once(5, "reset_body", share=0.0),
    once(5, "reset_body", "reset_body at 90 %", share=0.9),
    once(6, "close_body", share=0.5),
    once(6, "long_length"),
    once(6, "short_length"),
    always(6, "short_length", "malformed_body"),
    once(7, "no_last_chunk"),
    once(7, "bad_chunk"),
    once(8, "no_length_cut"),
    always(8, "no_length", "malformed_body"),
    once(9, "gzip_cut", share=0.99),
    always(9, "gzip_cut", "malformed_body"),
    once(10, "gzip_checksum"),
    once(10, "gzip_trailing"),
    once(10, "not_gzip"),
    once(10, "gzip_twice"),
    always(10, "unknown_coding", "malformed_body"),
    always(11, "gzip_bomb", "malformed_body", mib=100),
    always(11, "gzip_empty_members", "malformed_body"),
    Case(12, "gzip of several members (legal)", (fault("gzip_members"),)),
    once(13, "stall", seconds=30.0),
    always(13, "stall", "no_progress", seconds=30.0, nth=[1, 2, 3, 4, 5, 6]),
    Case(
        13,
        "stall above 60 rows: smaller pages",
        (fault("stall", min_size=61, seconds=30.0),),
        settings={"page_size": 120},
    ),
    once(14, "drip"),
    once(15, "stall_body", seconds=30.0),
    once(16, "half_close"),
    once(17, "large_header"),
    once(17, "many_headers"),
    once(17, "two_lengths"),
    once(17, "bad_status_line"),
    once(17, "extra_bytes"),
    Case(17, "early_hints (legal)", (fault("early_hints"),)),
    Case(
        18,
        "500 with one place",
        (fault("status", status=500, attempts=2),),
        settings={"max_in_flight": 1},
    ),
    Case(20, "slow server", (fault("delay", endpoint="any", path="*", seconds=0.3),)),
    # What HTTP means.
    status(21, 429, retry_after="1"),
    Case(
        22,
        "429 storm of a second",
        (fault("status", status=429, retry_after="1", path="*", until_s=1.0, from_s=0.05),),
    ),
    *waits(),
    Case(
        23,
        "429, Retry-After of 27 hours",
        (fault("status", status=429, retry_after="97200"),),
        "server_unavailable",
    ),
    Case(23, "503, Retry-After 1", (fault("status", status=503, retry_after="1", attempts=1),)),
    Case(
        24,
        "429, clock a day off",
        (fault("status", status=429, retry_after="1", date_shift_s=86_400, attempts=1),),
    ),
    *[status(25, code) for code in (408, 500, 502, 503, 504)],
    status(25, 503, body="html"),
    status(25, 500, "http_status", body="empty"),
    Case(
        26,
        "outage of two seconds",
        (fault("close", endpoint="any", path="*", from_s=0.05, until_s=2.0),),
    ),
    Case(
        26,
        "outage without end, patience of 2 s",
        (fault("close", endpoint="any", path="*", from_s=0.1),),
        "server_unavailable",
        options=replace(TENANT, latency_ms=30),
        settings={"patience_s": 2.0, "max_in_flight": 2},
    ),
    status(30, 403, "http_status"),
    status(31, 404, "http_status"),
    status(31, 410, "http_status", body="gateway"),
    status(31, 400, "http_status", body="web_api"),
    always(32, "html", "foreign_page", "200 with a sign-in page"),
    once(32, "html", "200 with a sign-in page, once"),
    always(32, "empty_body", "malformed_body"),
    always(32, "null", "malformed_body"),
    always(32, "array", "malformed_body"),
    always(32, "error_document", "malformed_body"),
    *[status(32, code, "http_status", body="empty") for code in (204, 206)],
    status(32, 304, "foreign_link", body="empty"),
    once(32, "not_json"),
    Case(32, "content type text/html (legal)", (fault("content_type"),)),
    *[
        always(33, "redirect", "foreign_link", f"redirect {code}", status=code)
        for code in (301, 302, 307, 308)
    ],
    Case(34, "set_cookie", (fault("set_cookie", endpoint="any", path="*"),)),
    # Paging.
    Case(35, "totalCount changes", (fault("changing_total", nth=[2]),), "contradiction"),
    always(36, "no_items", "malformed_body"),
    always(36, "items_no_list", "malformed_body"),
    Case(36, "a row is lost", (fault("lost_row", nth=[2]),), "contradiction"),
    Case(36, "a row comes twice", (fault("extra_row", nth=[2]),), "contradiction"),
    Case(36, "next is lost", (fault("lost_next", nth=[1]),), "contradiction"),
    Case(39, "tokens are rejected", (fault("rejected_token", path=CHAIN),), "http_status"),
    Case(39, "a token is repeated", (fault("repeated_token", path=CHAIN),), "contradiction"),
    Case(39, "tokens of 30 kB (legal)", (fault("long_token", path=CHAIN),)),
    Case(40, "links to another host", (fault("foreign_links", path="*"),)),
    Case(40, "links of the scheme file", (fault("file_links", path="*"),)),
    # Data.
    always(46, "nan", "malformed_body"),
    once(50, "repeated_key"),
    always(50, "repeated_key", "malformed_body"),
    once(51, "invalid_utf8"),
    always(51, "invalid_utf8", "malformed_body"),
    Case(51, "UTF-16", (fault("utf16"),)),
    Case(51, "no byte-order mark", (fault("no_mark"),)),
    always(52, "deep_json", "malformed_body"),
    always(53, "huge_body", "malformed_body", mib=20),
    once(53, "cut_json"),
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An archive that never met a fault."""
    root = tmp_path_factory.mktemp("clean")

    async def exported() -> None:
        async with serve(TENANT) as sandbox:
            assert (await export_async(root, settings_for(sandbox.base_url))).complete

    anyio.run(exported)
    return tree(root)


def settings_for(base_url: str, **given: Any) -> Settings:
    return Settings(**{"base_url": base_url, "token": Secret(CANARY), **SMALL, **given})


def tree(root: Path) -> dict[str, bytes]:
    """Everything in an archive except what differs from run to run."""
    passing = ("_bulkfetch/runs/", "_bulkfetch/logs/", str(LOCK), str(FAILURES))
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(passing)}


def lines_of(archive: dict[str, bytes]) -> Counter[tuple[str, int]]:
    """Every line item of an archive, by its file and its place."""
    found: Counter[tuple[str, int]] = Counter()
    for name, content in archive.items():
        if name.startswith("line_items/"):
            numbers = (
                pq.ParquetFile(pa.BufferReader(content)).read(["line_number"]).column(0).to_pylist()
            )
            found.update((name.rpartition("-")[0], number) for number in numbers)
    return found


def everything_written(root: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


async def outcome_of(root: Path, settings: Settings) -> tuple[set[str], str]:
    """Export; return the reasons of what failed, and everything that could be seen of the
    errors."""
    try:
        report = await export_async(root, settings)
    except BulkfetchError as error:
        shown = (
            "".join(traceback.format_exception(error, limit=None)) + repr(error) + repr(vars(error))
        )
        return {error.reason}, shown
    return {failure.reason for failure in report.failures}, "\n".join(report.lines()) + repr(
        report.to_dict()
    )


@pytest.mark.parametrize(
    "case", first_of_each(CASES, lambda case: (case.number, case.outcome), lambda case: case.id)
)
async def test_a_fault_loses_and_doubles_nothing(
    case: Case,
    clean: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault_table: list[tuple[str, ...]],
) -> None:
    with caplog.at_level(logging.DEBUG), anyio.fail_after(60):
        async with serve(replace(case.options, faults=Faults(case.faults))) as sandbox:
            reasons, shown = await outcome_of(
                tmp_path, settings_for(sandbox.base_url, **case.settings_of_run)
            )
            times = sum(sandbox.stats.faults.values())
        seen = {name: content for name, content in tree(tmp_path).items() if name in clean}
        async with serve(case.options) as sandbox:
            finished = await export_async(tmp_path, settings_for(sandbox.base_url))

    assert times >= case.at_least, "the fault was not injected"
    assert reasons == (set() if case.outcome == "complete" else {case.outcome})
    assert all(
        content == clean[name] for name, content in seen.items() if name.endswith(".parquet")
    )
    assert finished.complete
    assert not (tmp_path / FAILURES).exists()
    assert tree(tmp_path) == clean
    assert verify(tmp_path).sound
    for text in (shown, caplog.text, everything_written(tmp_path).decode(errors="replace")):
        assert CANARY not in text
    wanted, found = lines_of(clean), lines_of(tree(tmp_path))
    lost, doubled = sum((wanted - found).values()), sum((found - wanted).values())
    assert (len(wanted), lost, doubled) == (5 * 130, 0, 0)
    fault_table.append(
        (str(case.number), case.name, str(times), case.outcome, str(lost), str(doubled))
    )


# Faults that come before any answer.


async def refused(
    root: Path, settings: Settings, words: str, fault_table: list[tuple[str, ...]], name: str
) -> None:
    with anyio.fail_after(60):
        with pytest.raises(BulkfetchError) as caught:
            await export_async(root, settings)
    assert words in str(caught.value)
    assert not [name for name in tree(root) if name.endswith(".parquet")]
    fault_table.append(
        ("1" if "certificate" not in name else "2", name, "1", caught.value.reason, "0", "0")
    )


async def test_a_server_that_is_not_there_is_told(
    tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    settings = settings_for(f"http://127.0.0.1:{unused_port()}/v1", max_attempts=2)
    await refused(
        tmp_path, settings, "no connection to 127.0.0.1", fault_table, "connection refused"
    )


async def test_a_name_that_nobody_has_is_told(
    tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    settings = settings_for("https://host.invalid/v1", max_attempts=2)
    await refused(tmp_path, settings, "no connection to host.invalid", fault_table, "unknown host")


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


@pytest.mark.parametrize(
    ("name", "host", "trusted"),
    [("unknown authority", "127.0.0.1", False), ("another host", "other.test", True)],
)
async def test_a_certificate_that_proves_nothing_ends_the_run(
    name: str,
    host: str,
    trusted: bool,
    authority: trustme.CA,
    tmp_path: Path,
    fault_table: list[tuple[str, ...]],
) -> None:
    authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    async with serve(replace(TENANT, certificate=str(tmp_path / "server.pem"))) as sandbox:
        settings = settings_for(
            sandbox.base_url, **({"ca_file": tmp_path / "ca.pem"} if trusted else {})
        )
        words = "certificate is not trusted"
        await refused(tmp_path / "lake", settings, words, fault_table, f"certificate of {name}")
        assert sandbox.stats.requests == 0


# Tokens, with an app that signs in by TLS.


@dataclass(frozen=True, slots=True)
class SignIn:
    """A fault of signing in: `renewals` beyond the first token, and what must come of it."""

    number: int
    name: str
    faults: tuple[Fault, ...]
    outcome: str = "complete"
    renewals: int | None = None


def of_token(kind: str, **more: Any) -> Fault:
    return Fault(kind, endpoint="token", **more)


SIGN_INS = [
    SignIn(
        27,
        "tokens are revoked in mid-run",
        (Fault("forget_tokens", path=ONE_PAGE, times=1),),
        renewals=1,
    ),
    SignIn(
        27, "tokens are revoked three times", (Fault("forget_tokens", path="*", nth=(2,), times=3),)
    ),
    SignIn(28, "401 whatever the token", (Fault("status", status=401),), "sign_in", renewals=1),
    SignIn(28, "401 once for each page", (fault("status", status=401, attempts=1),)),
    SignIn(28, "the secret is refused", (of_token("status", status=401, body="entra"),), "sign_in"),
    SignIn(
        29,
        "the token endpoint fails twice",
        (of_token("status", status=503, body="html", times=2),),
    ),
    SignIn(29, "the token endpoint drops a connection", (of_token("reset", times=1),)),
    SignIn(
        29,
        "the token endpoint throttles",
        (of_token("status", status=429, retry_after="1", times=1),),
    ),
    SignIn(29, "the token endpoint is slow", (of_token("delay", seconds=1.0),)),
    SignIn(
        29,
        "the token endpoint answers HTML",
        (of_token("status", status=200, body="html"),),
        "sign_in",
    ),
]


@pytest.mark.parametrize(
    "case", SIGN_INS, ids=lambda case: f"{case.number}-{case.name}".replace(" ", "-")
)
async def test_a_fault_of_signing_in_loses_and_doubles_nothing(
    case: SignIn,
    clean: dict[str, bytes],
    authority: trustme.CA,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault_table: list[tuple[str, ...]],
) -> None:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    lake = tmp_path / "lake"
    options = replace(
        TENANT, certificate=str(tmp_path / "server.pem"), client_secret=CANARY, token="another"
    )

    def signing_in(sandbox: RunningSandbox) -> Settings:
        return settings_for(
            sandbox.base_url,
            token=None,
            authority=sandbox.authority,
            tenant_id=sandbox.tenant_id,
            client_id="sandbox-client",
            client_secret=Secret(CANARY),
            ca_file=tmp_path / "ca.pem",
        )

    with caplog.at_level(logging.DEBUG), anyio.fail_after(60):
        async with serve(replace(options, faults=Faults(case.faults))) as sandbox:
            reasons, shown = await outcome_of(lake, signing_in(sandbox))
            times, tokens = sum(sandbox.stats.faults.values()), sandbox.stats.by_kind["token"]
        async with serve(options) as sandbox:
            finished = await export_async(lake, signing_in(sandbox))

    assert times > 0
    assert reasons == (set() if case.outcome == "complete" else {case.outcome})
    if case.renewals is not None:
        assert tokens == 1 + case.renewals
    assert finished.complete
    assert tree(lake) == {
        **clean,
        **{name: tree(lake)[name] for name in ("_bulkfetch/archive.json",)},
    }
    for text in (shown, caplog.text, everything_written(lake).decode(errors="replace")):
        assert CANARY not in text
        assert "sandbox." not in text.replace("sandbox.onmicrosoft", "").replace(
            "bulkfetch.sandbox.", ""
        )
    fault_table.append((str(case.number), case.name, str(times), case.outcome, "0", "0"))


# Faults of the machines.


async def test_a_server_that_stands_still_for_a_while_is_waited_for(
    clean: dict[str, bytes], tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    sizes = ["--invoices", "3", "--line-items", "130", "--amendments", "0", "--unreconciled", "0"]
    details = ["--details", ",".join(TENANT.details), "--latency-ms", "50", "--token", CANARY]
    with spawn([*sizes, *details]) as sandbox, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def stand_still() -> None:
                await anyio.sleep(0.15)
                os.kill(sandbox.pid, signal.SIGSTOP)
                await anyio.sleep(1.2)
                os.kill(sandbox.pid, signal.SIGCONT)

            tasks.start_soon(stand_still)
            report = await export_async(tmp_path, settings_for(sandbox.base_url, **QUICK))
    assert report.complete
    assert report.retries > 0
    assert tree(tmp_path) == clean
    fault_table.append(("15", "server stopped for 1.2 s", "1", "complete", "0", "0"))


async def test_a_machine_without_free_files_is_waited_for(
    clean: dict[str, bytes], tmp_path: Path, fault_table: list[tuple[str, ...]]
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serve(replace(TENANT, latency_ms=50)) as sandbox:
        async with anyio.create_task_group() as tasks:

            async def run_out() -> None:
                await anyio.sleep(0.12)
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (highest_descriptor() + 1, hard))
                    await anyio.sleep(0.3)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

            tasks.start_soon(run_out)
            reasons, _ = await outcome_of(tmp_path, settings_for(sandbox.base_url, page_size=10))
        finished = await export_async(tmp_path, settings_for(sandbox.base_url))
    assert reasons <= {
        "storage"
    }  # connections wait for files; a part that cannot be opened ends the run
    assert finished.complete
    assert tree(tmp_path) == clean
    fault_table.append(("19", "no free file descriptors", "1", "complete", "0", "0"))


def highest_descriptor() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))
