"""What a user would pick instead, side by side: the same data, from the same server, into Parquet, in the same run.

    python benchmarks/peers.py                      the figures of the README: an hour
    python benchmarks/peers.py --case throttled     a server that takes 4 requests a second
    python benchmarks/peers.py --case killed        ended with SIGKILL half-way, and run again
    python benchmarks/peers.py --smoke              seconds: those that run in this environment

Each peer is a script in benchmarks/peers/, as a careful user of it would write it, in an environment of its own that is
made when it is missing (--environments says where; bulkfetch is installed from this checkout). They run in turn, as
whole processes, start-up and children included; rows are medians. Peak memory is that of the largest process. After the
first run the files are held against the JSON that the server sends: how many rows there are, how many values of money
are not exactly what it said, and how far the sum of `totalForCustomer`, as the files have it, is off. Results are also
written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from exporting import Shape
from measuring import announce, conditions, keep, sandbox

HERE = Path(__file__).parent
DETAIL = "office/billing_line_items"
MONEY = ("unitPrice", "quantity", "amount", "totalOtherDiscount", "subtotal", "tax", "totalForCustomer")
ARROW = "pyarrow==26.0.1"
PEERS: dict[str, tuple[str, ...]] = {
    "bulkfetch": (),
    "asyncio_polars": ("aiohttp==3.14.5", "orjson==3.13.0", "polars==2.1.0"),
    "duckdb_files": ("duckdb==2.0.0", "requests==2.34.2"),
    "requests_pandas": ("pandas==3.1.1", ARROW, "requests==2.34.2"),
    "dlt_arrow": ("dlt[filesystem,parquet]==1.31.0", "orjson==3.13.0", ARROW),
    "dlt_rest_api": ("dlt[filesystem,parquet]==1.31.0", ARROW),
    "airbyte": ("airbyte-cdk==7.39.1", ARROW),
    "singer": ("singer-sdk==0.54.9", ARROW),
}
"""Each peer, and what its environment has."""
SMOKE = ("bulkfetch", "asyncio_polars", "duckdb_files", "requests_pandas")
IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one peer; `failed` says how it ended if it did not succeed."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    requests: int
    refused: int
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Truth:
    """What the server says: how often each value of money occurs in each column, and the sum of the charges."""

    rows: int
    values: dict[str, Counter[Decimal]]
    total: Decimal


def stats_of(server: dict[str, Any]) -> dict[str, Any]:
    """Return the server's own counts."""
    url = server["base_url"].removesuffix("/v1") + "/sandbox/stats"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # a server of ours
        counts: dict[str, Any] = json.load(answer)
    return counts


def interpreter(peer: str, environments: Path | None) -> str:
    """Return the Python of a peer's environment, made if it is missing; of this one if there are none."""
    if environments is None:
        return sys.executable
    wanted = "\n".join(PEERS[peer]) or f"bulkfetch of {HERE.parent}"
    where = environments / f"{peer}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    python = str(where / "bin" / "python")
    if not (where / "made").exists() or peer == "bulkfetch":
        print(f"installing {peer}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
        constraints = ["--constraint", str(HERE.parent / "constraints.txt"), str(HERE.parent)]
        pip = [python, "-m", "pip", "install", "--quiet", *(PEERS[peer] or constraints)]
        subprocess.run(pip, check=True)
        (where / "made").touch()
    return python


def command_of(peer: str, python: str, server: dict[str, Any], output: str) -> list[str]:
    """Return the command that archives the tenant of `server`."""
    if peer == "bulkfetch":
        flags = ["--quiet", "--max-in-flight", str(IN_FLIGHT)]
        flags += ["--base-url", server["base_url"], "--token", server["token"]]
        return [python, "-m", "bulkfetch", "export", output, *flags]
    return [python, str(HERE / "peers" / f"{peer}.py"), server["base_url"], server["token"], output]


def run(command: Sequence[str], server: dict[str, Any], *, kill_after: int | None = None, limit_s: float = 900) -> Run:
    """Run a peer to its end, or kill it once the server has had so many requests more."""
    before, started = stats_of(server), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, cwd=tempfile.gettempdir(), start_new_session=True
        )
        failed = ""
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            reached = kill_after is not None and stats_of(server)["requests"] - before["requests"] >= kill_after
            if reached or time.perf_counter() - started > limit_s:
                failed = "killed" if reached else f"not done after {limit_s:.0f} s"
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01 if kill_after is None else 0.002)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        if process.returncode and not failed:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
            last = said.read().decode(errors="replace").strip().splitlines() or [""]
            failed = f"exit code {process.returncode}: {last[-1][:100]}"
    after = stats_of(server)
    asked, refused = (after[name] - before[name] for name in ("requests", "throttled"))
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, asked, refused, failed)


def truth_of(server: dict[str, Any]) -> Truth:
    """Ask the server for everything, and read it without a float."""

    def get(path: str) -> Any:
        request = urllib.request.Request(  # noqa: S310  # a server of ours
            server["base_url"] + path, headers={"Authorization": f"Bearer {server['token']}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read().decode("utf-8-sig"), parse_float=Decimal, parse_int=Decimal)

    def pages(path: str) -> Iterator[Any]:
        offset = 0
        while True:
            page = get(f"{path}offset={offset}")
            yield from page["items"]
            if "next" not in page["links"]:
                return
            offset += len(page["items"])

    values: dict[str, Counter[Decimal]] = {name: Counter() for name in MONEY}
    rows = 0
    for invoice in list(pages("/invoices?size=200&")):
        for row in pages(f"/invoices/{invoice['id']}/lineitems/office/billinglineitems?size=2000&"):
            rows += 1
            for name in MONEY:
                values[name][Decimal(row[name])] += 1
    total = sum((value * times for value, times in values["totalForCustomer"].items()), Decimal(0))
    return Truth(rows, values, total)


def held_against(truth: Truth, output: str) -> dict[str, Any]:
    """Compare the files of a peer with the truth."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: dict[str, Counter[Decimal]] = {name: Counter() for name in MONEY}
    rows, off, kinds = 0, -truth.total, set[str]()
    for path in sorted(Path(output).rglob("*.parquet")):
        names = pq.read_schema(path).names
        spelled = {name.replace("_", "").casefold(): name for name in names}
        if "_state" in path.parts or "totalforcustomer" not in spelled:
            continue
        table = pq.read_table(path, columns=[spelled[name.casefold()] for name in MONEY], partitioning=None)
        rows += table.num_rows
        for name, column in zip(MONEY, table.columns, strict=True):
            kinds.add(str(column.type))
            for value, times in Counter(column.to_pylist()).items():
                found[name][Decimal(value)] += times
        charges = table.column(MONEY.index("totalForCustomer"))
        off += Decimal(str(pc.sum(charges).as_py() or 0))
    changed = sum((truth.values[name] - found[name]).total() for name in MONEY)
    examples = [
        f"{name} {min(lost)} became {min(made)}"
        for name in MONEY
        if (lost := truth.values[name] - found[name]) and (made := found[name] - truth.values[name])
    ]
    return {"rows": rows, "changed": changed, "sum_off": str(off), "types": sorted(kinds), "examples": examples[:3]}


def side_by_side(arguments: argparse.Namespace, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Measure all peers at each latency, and print the tables."""
    pythons = {peer: interpreter(peer, arguments.environments) for peer in peers}
    shape, results = Shape.of(arguments.shape), []
    checks: dict[str, dict[str, Any]] = {}
    for latency_ms in map(int, arguments.latencies_ms.split(",")):
        with _serving(shape, "--latency-ms", str(latency_ms)) as server:
            truth = truth_of(server) if not checks else None
            runs: dict[str, list[Run]] = {peer: [] for peer in peers}
            for _ in range(arguments.runs):
                for peer in peers:
                    output = tempfile.mkdtemp(prefix="bulkfetch-peer-")
                    runs[peer].append(run(command_of(peer, pythons[peer], server, output), server))
                    if truth is not None and peer not in checks:
                        checks[peer] = held_against(truth, output)
                    shutil.rmtree(output)
        print(f"\n{shape} {DETAIL}, {latency_ms} ms; medians of {arguments.runs} runs")
        print(
            f"{'':<18}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'rows/s':>9}{'rows/CPU s':>12}{'requests':>9}"
            f"{'wall x':>8}{'CPU x':>7}"
        )
        ours = _median(runs["bulkfetch"])
        for peer in peers:
            row, rows = _median(runs[peer]), checks[peer]["rows"]
            result = {"peer": peer, "shape": str(shape), "latency_ms": latency_ms, **asdict(row)}
            results.append({**result, "wall_x": row.wall_s / ours.wall_s, "cpu_x": row.cpu_s / ours.cpu_s})
            print(
                f"{peer:<18}{row.wall_s:>8.1f}{row.cpu_s:>8.1f}{row.peak_mb:>9.0f}{rows / row.wall_s:>9,.0f}"
                f"{rows / row.cpu_s:>12,.0f}{row.requests:>9}{row.wall_s / ours.wall_s:>8.1f}"
                f"{row.cpu_s / ours.cpu_s:>7.1f}  {row.failed}",
                flush=True,
            )
    print(f"\n{'':<18}{'rows':>11}{'values changed':>16}  {'sum off by':<28}money is")
    for peer, check in checks.items():
        print(
            f"{peer:<18}{check['rows']:>11,}{check['changed']:>16,}  {check['sum_off']:<28}{', '.join(check['types'])}"
        )
        for example in check["examples"]:
            print(f"{'':<20}{example}")
        results.append({"peer": peer, **check})
    return results


def throttled(arguments: argparse.Namespace, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Let each peer meet a server that takes 4 requests a second."""
    shape, results = Shape.of(arguments.shape), []
    least_s = shape.pages() / 4
    print(f"\n{shape} {DETAIL}, 50 ms, 4 requests a second; least possible {least_s:.0f} s")
    print(f"{'':<18}{'wall s':>8}{'x least':>9}{'requests':>9}{'refused':>9}  outcome")
    for peer in peers:
        with _serving(shape, "--latency-ms", "50", "--requests-per-second", "4", "--burst", "4") as server:
            output = tempfile.mkdtemp(prefix="bulkfetch-peer-")
            one = run(command_of(peer, interpreter(peer, arguments.environments), server, output), server)
            shutil.rmtree(output)
        results.append({"peer": peer, "least_s": least_s, **asdict(one)})
        print(
            f"{peer:<18}{one.wall_s:>8.1f}{one.wall_s / least_s:>9.2f}{one.requests:>9}"
            f"{one.refused / max(1, one.requests):>9.1%}  {one.failed or 'complete'}",
            flush=True,
        )
    return results


def killed(arguments: argparse.Namespace, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Kill each peer half-way, run it again, and count what was asked twice."""
    shape, results = Shape.of(arguments.shape), []
    print(f"\n{shape} {DETAIL}, 50 ms, killed after half of the pages, run again")
    print(f"{'':<18}{'undisturbed':>12}{'first':>8}{'second':>8}{'asked again':>13}")
    for peer in peers:
        python = interpreter(peer, arguments.environments)
        with _serving(shape, "--latency-ms", "50") as server:
            clean, output = tempfile.mkdtemp(prefix="bulkfetch-peer-"), tempfile.mkdtemp(prefix="bulkfetch-peer-")
            whole = run(command_of(peer, python, server, clean), server)
            first = run(command_of(peer, python, server, output), server, kill_after=shape.pages() // 2)
            second = run(command_of(peer, python, server, output), server)
            shutil.rmtree(clean)
            shutil.rmtree(output)
        again = (first.requests + second.requests) / max(1, whole.requests) - 1
        results.append({"peer": peer, "again": again, "second": asdict(second)})
        print(
            f"{peer:<18}{whole.requests:>12}{first.requests:>8}{second.requests:>8}{again:>13.0%}  {second.failed}",
            flush=True,
        )
    return results


def _serving(shape: Shape, *flags: str) -> Any:
    sizes = ["--invoices", str(shape.invoices), "--line-items", str(shape.line_items), "--details", DETAIL]
    return sandbox(*sizes, "--amendments", "0", "--unreconciled", "0", *flags)


def _median(runs: Sequence[Run]) -> Run:
    return Run(
        statistics.median(each.wall_s for each in runs),
        statistics.median(each.cpu_s for each in runs),
        statistics.median(each.peak_mb for each in runs),
        int(statistics.median(each.requests for each in runs)),
        int(statistics.median(each.refused for each in runs)),
        next((each.failed for each in runs if each.failed), ""),
    )


CASES = {
    "side-by-side": (side_by_side, "1x180001"),
    "throttled": (throttled, "1x180001"),
    "killed": (killed, "1x600001"),
}


def main() -> int:
    """Run a case and keep its results."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "bulkfetch-benchmarks")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="side-by-side")
    parser.add_argument("--only", default=",".join(PEERS), help="these peers; bulkfetch is always among them")
    parser.add_argument("--shape", help="invoices x line items of each")
    parser.add_argument("--latencies-ms", default="0,50")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--environments", type=Path, default=cache, help=f"where those of the peers are ({cache})")
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds, in this environment")
    arguments = parser.parse_args()
    work, shape = CASES[arguments.case]
    arguments.shape = arguments.shape or shape
    if arguments.smoke:
        arguments.only, arguments.environments, arguments.shape = ",".join(SMOKE), None, "2x3001"
        arguments.runs, arguments.latencies_ms = 1, "5"
    peers = ["bulkfetch", *(peer for peer in PEERS if peer in arguments.only.split(",") and peer != "bulkfetch")]
    made = conditions()
    announce(made)
    keep(f"peers-{arguments.case}", made, work(arguments, peers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
