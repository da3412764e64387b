"""What a user would pick instead, beside bulkfetch: the same server, data and partitions, in the
same run.

    python benchmarks/peers.py                     what it costs, and what became of the money
    python benchmarks/peers.py --case throttled    a server that takes four requests a second python
    benchmarks/peers.py --case killed       SIGKILL when half of the pages are there, and once more
    python benchmarks/peers.py --smoke             seconds, in this environment, without the large
    frameworks

Each peer is a short script in benchmarks/peers/, as somebody who knows the tool would write it, and
is told the server, the token and a directory. Each has an environment of its own, made by this
command from peers/NAME.txt and kept in the user's cache directory; bulkfetch has one as well,
without the packages of its developers. A client is measured as a whole: start-up, all processes,
their CPU time together, the memory of the largest. Peers take turns, so that a slow minute of the
machine meets all of them. Figures are medians; results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environments import REQUIREMENTS, cache_folder, python_of, versions
from measuring import Finished, announce, conditions, keep, run_measured, sandbox, stats_of

PACKAGES = {
    "bulkfetch": ("bulkfetch", "aiohttp", "pyarrow"),
    "requests_pandas": ("requests", "pandas", "pyarrow"),
    "asyncio_polars": ("aiohttp", "orjson", "polars"),
    "duckdb_files": ("duckdb", "requests"),
    "dlt_arrow": ("dlt", "pyarrow"),
    "dlt_rest_api": ("dlt", "pyarrow"),
    "singer": ("singer-sdk", "pyarrow"),
    "singer_batch": ("singer-sdk", "pyarrow"),
    "airbyte": ("airbyte-cdk", "pyarrow"),
}
"""The peers, in the order of the tables, and the packages whose versions are told."""
SMOKE = ("bulkfetch", "requests_pandas", "asyncio_polars", "duckdb_files")
"""Those whose packages bulkfetch's own developers have anyway."""
PAGE_SIZE = 2000
OFFICE, RATED = "office/billing_line_items", "azure/usage_line_items"
RATED_ROWS = 20_000
PER_SECOND = 4
PATIENCE = 20
"""A throttled client is given up after so many times the least possible time."""
KILLED_LATENCY_MS = 50
"""Far enough away that half of the pages are a moment one can hit."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program to be measured."""

    name: str
    python: str

    def command(self, server: dict[str, Any], out: str) -> list[str]:
        """Return what to run to get everything a server has into the directory `out`."""
        if self.name == "bulkfetch":
            words = [
                self.python,
                "-m",
                "bulkfetch",
                "export",
                out,
                "--json",
                "--quiet",
                "--max-in-flight",
                "16",
            ]
            return [*words, "--base-url", server["base_url"], "--token", server["token"]]
        return [
            self.python,
            str(REQUIREMENTS / f"{self.name}.py"),
            server["base_url"],
            server["token"],
            out,
        ]


@dataclass(frozen=True, slots=True)
class Measure:
    """One run of one client against one server."""

    peer: str
    latency_ms: float
    wall_s: float
    cpu_s: float
    peak_mb: float
    rows: int
    requests: int
    refused: int
    json_mb: float
    files_mb: float
    exit_code: int
    trouble: str


@contextmanager
def serving(detail: str, invoices: int, rows: int, *options: str) -> Iterator[dict[str, Any]]:
    """Serve invoices of so many line items of one kind."""
    sizes = [
        "--invoices",
        str(invoices),
        "--line-items",
        str(rows),
        "--amendments",
        "0",
        "--unreconciled",
        "0",
    ]
    with sandbox("--details", detail, *sizes, *options) as server:
        yield server


def run(
    peer: Peer,
    server: dict[str, Any],
    out: str,
    latency_ms: float = 0,
    until: Callable[[float], bool] | None = None,
) -> Measure:
    """Run a client outside the checkout, with nothing in the environment that would speak to a
    Python or bulkfetch."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "BULKFETCH_"))
    }
    before = stats_of(server)
    with tempfile.TemporaryDirectory(prefix="bulkfetch-peers-cwd-") as folder:
        finished = run_measured(
            peer.command(server, out), folder=folder, environment=kept, until=until
        )
    after = stats_of(server)
    rows, size = look("count", out)
    return Measure(
        peer=peer.name,
        latency_ms=latency_ms,
        wall_s=finished.wall_s,
        cpu_s=finished.cpu_s,
        peak_mb=finished.peak_mb,
        rows=rows,
        requests=after["requests"] - before["requests"],
        refused=after["throttled"] - before["throttled"],
        json_mb=(after["bytes"] - before["bytes"]) / 1e6,
        files_mb=size / 1e6,
        exit_code=finished.exit_code,
        trouble=trouble_of(finished),
    )


def trouble_of(finished: Finished) -> str:
    """Return the line that tells the most of what a client that failed had to say."""
    if not finished.exit_code:
        return ""
    lines = [line.strip(" |+-") for line in finished.errors.decode(errors="replace").splitlines()]
    telling = [line for line in lines if "Error:" in line or "429" in line] or [
        line for line in lines if line
    ]
    return telling[-1][:300] if telling else f"exit code {finished.exit_code}"


def must_be_whole(measure: Measure, rows: int) -> Measure:
    """Return a run of which everything depends that it went well. Raises SystemExit if it did
    not."""
    if measure.exit_code or measure.rows != rows:
        said = (
            f"exit code {measure.exit_code}, {measure.rows:,} of {rows:,} rows; {measure.trouble}"
        )
        raise SystemExit(f"{measure.peer} did not get everything: {said}")
    return measure


def look(*words: str) -> Any:
    """Ask exactness.py, a process of its own: the memory of this one would count as that of the
    clients."""
    script = Path(__file__).with_name("exactness.py")
    return json.loads(
        subprocess.run(
            [sys.executable, str(script), *words], check=True, stdout=subprocess.PIPE
        ).stdout
    )


def median(measures: Sequence[Measure]) -> Measure:
    """Return the median of each figure that varies."""
    varying = ("wall_s", "cpu_s", "peak_mb", "requests")
    middles = {
        name: statistics.median(getattr(each, name) for each in measures) for name in varying
    }
    return Measure(**{**asdict(measures[0]), **middles})


def costs(arguments: argparse.Namespace, peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Measure all peers, and look at their numbers."""
    found = exact(peers, RATED, 1, arguments.rated_rows)
    found += exact(peers, OFFICE, arguments.invoices, arguments.line_items // arguments.invoices)
    rows = arguments.line_items // arguments.invoices * arguments.invoices
    print(
        f"\n{rows:,} rows of {OFFICE} in {arguments.invoices:,} invoices, median of {arguments.runs} runs\n"
        f"{'peer':<17}{'latency':>8}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'rows/s':>10}{'rows/CPU s':>12}"
        f"{'JSON MB/s':>11}{'requests':>10}{'files MB':>10}{'wall':>9}{'CPU':>9}"
    )
    for latency_ms in map(float, arguments.latencies_ms.split(",")):
        measures: dict[str, list[Measure]] = {peer.name: [] for peer in peers}
        options = ("--latency-ms", f"{latency_ms:g}")
        with serving(
            OFFICE, arguments.invoices, arguments.line_items // arguments.invoices, *options
        ) as server:
            for _ in range(arguments.runs):
                for peer in peers:
                    with tempfile.TemporaryDirectory(prefix="bulkfetch-peers-") as out:
                        measures[peer.name].append(
                            must_be_whole(run(peer, server, out, latency_ms), rows)
                        )
        middle = {name: median(each) for name, each in measures.items()}
        for name, each in middle.items():
            ours = middle.get("bulkfetch", each)
            ratios = {"wall_ratio": each.wall_s / ours.wall_s, "cpu_ratio": each.cpu_s / ours.cpu_s}
            found.append(
                {
                    "case": "costs",
                    **asdict(each),
                    **ratios,
                    "runs": [asdict(one) for one in measures[name]],
                }
            )
            print(
                f"{name:<17}{latency_ms:>5g} ms{each.wall_s:>8.2f}{each.cpu_s:>8.2f}{each.peak_mb:>9.0f}"
                f"{rows / each.wall_s:>10,.0f}{rows / each.cpu_s:>12,.0f}{each.json_mb / each.wall_s:>11.1f}"
                f"{each.requests:>10.0f}{each.files_mb:>10.1f}"
                f"{ratios['wall_ratio']:>8.2f}x{ratios['cpu_ratio']:>8.2f}x",
                flush=True,
            )
    return found


def exact(peers: Sequence[Peer], detail: str, invoices: int, rows: int) -> list[dict[str, Any]]:
    """Hold what each peer wrote against the server's own text; this is also what wakes everything
    up."""
    print(
        f"\n{rows * invoices:,} rows of {detail}: how many of its numbers changed (a float counts by its exact value), "
        "and of how many not even the shortest text of the float is the server's number (digits lost)\n"
        f"{'peer':<17}{'rows':>9}{'missing':>9}{'surplus':>9}{'values':>11}{'changed':>11}{'digits lost':>13}"
        f"  {'numbers are':<20}{'dates are':<23}for example"
    )
    results = []
    with (
        serving(detail, invoices, rows) as server,
        tempfile.TemporaryDirectory(prefix="bulkfetch-truth-") as truth,
    ):
        look("truth", server["base_url"], server["token"], truth)
        for peer in peers:
            with tempfile.TemporaryDirectory(prefix="bulkfetch-peers-") as out:
                must_be_whole(run(peer, server, out), rows * invoices)
                (each,) = look("compare", out, truth)
            results.append({"case": "exactness", "peer": peer.name, **each})
            print(
                f"{peer.name:<17}{each['rows']:>9,}{each['missing']:>9,}{each['surplus']:>9,}{each['values']:>11,}"
                f"{each['differing']:>11,}{each['lost']:>13,}  {'/'.join(each['number_types']):<20}"
                f"{each['date_type']:<23}{'; '.join(each['examples'])}",
                flush=True,
            )
    return results


def throttled(arguments: argparse.Namespace, peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Let a server take four requests a second, and see who gets everything, how fast, and how
    often refused."""
    rows = arguments.pages * PAGE_SIZE
    least_s = (
        max(arguments.pages + 1 - arguments.burst, 1) / PER_SECOND
    )  # one more request is for the invoices
    print(
        f"\n{arguments.pages} pages of a server that takes {PER_SECOND} requests a second, {arguments.burst} at once, "
        f"and says Retry-After: 1; the least possible time is {least_s:g} s; {arguments.runs} runs, medians\n"
        f"{'peer':<17}{'complete':>9}{'wall s':>9}{'of the least':>14}{'requests':>10}{'refused':>9}  trouble"
    )
    quota = ("--requests-per-second", str(PER_SECOND), "--burst", str(arguments.burst))
    measures: dict[str, list[Measure]] = {peer.name: [] for peer in peers}
    for _ in range(arguments.runs):
        for peer in peers:
            # A server for each: what one client asked for must not be missing in the quota of the
            # next.
            with (
                serving(OFFICE, 1, rows, *quota) as server,
                tempfile.TemporaryDirectory(prefix="bulkfetch-peers-") as out,
            ):
                run_of = run(
                    peer, server, out, until=lambda passed_s: passed_s > PATIENCE * least_s
                )
                measures[peer.name].append(run_of)
    found = []
    for name, each in measures.items():
        complete = sum(not one.exit_code and one.rows == rows for one in each)
        middle = median(each)
        share = statistics.median(one.refused / one.requests for one in each)
        trouble = next((one.trouble for one in each if one.trouble), "")
        times = middle.wall_s / least_s
        runs = [asdict(one) for one in each]
        found.append(
            {
                "case": "throttled",
                "peer": name,
                "complete": complete,
                "times_least": times,
                "refused": share,
            }
        )
        found[-1]["runs"] = runs
        print(
            f"{name:<17}{f'{complete} of {len(each)}':>9}{middle.wall_s:>9.1f}{times:>13.2f}x{middle.requests:>10.0f}"
            f"{share:>9.1%}  {trouble[:120]}",
            flush=True,
        )
    return found


def killed(arguments: argparse.Namespace, peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """End each client when half of the rows were sent, run it again, and count what was asked for
    twice."""
    rows = arguments.line_items // arguments.invoices * arguments.invoices
    print(
        f"\n{rows:,} rows of {OFFICE} in {arguments.invoices:,} invoices, {KILLED_LATENCY_MS} ms for an answer, "
        f"SIGKILL when half of them were sent; {arguments.runs} runs, medians\n"
        f"{'peer':<17}{'undisturbed':>12}{'first':>7}{'second':>8}{'again':>8}{'wall s of second':>18}  rows at the end"
    )
    found: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    options = ("--latency-ms", str(KILLED_LATENCY_MS))
    with serving(
        OFFICE, arguments.invoices, arguments.line_items // arguments.invoices, *options
    ) as server:
        for _ in range(arguments.runs):
            for peer in peers:
                found[peer.name].append(killed_once(peer, server, rows))
    for name, each in found.items():
        middle = {
            key: statistics.median(one[key] for one in each)
            for key in ("undisturbed", "first", "second", "wall_s")
        }
        hit = [one["again"] for one in each if one["again"] is not None]
        again = f"{statistics.median(hit):.1%}" if hit else "-"
        ends = sorted(
            {
                f"{one['rows']:,}" + (f" ({one['trouble']})" if one["trouble"] else "")
                for one in each
            }
        )
        print(
            f"{name:<17}{middle['undisturbed']:>12.0f}{middle['first']:>7.0f}{middle['second']:>8.0f}"
            f"{again:>8}{middle['wall_s']:>18.2f}  {', '.join(ends)}",
            flush=True,
        )
    return [{"case": "killed", "peer": name, "runs": each} for name, each in found.items()]


def killed_once(peer: Peer, server: dict[str, Any], rows: int) -> dict[str, Any]:
    """Run a client undisturbed, then into another directory twice, the first time only until half
    of it was sent."""
    with tempfile.TemporaryDirectory(prefix="bulkfetch-peers-") as out:
        undisturbed = must_be_whole(run(peer, server, out), rows).requests
    sent = stats_of(server)["line_items"]
    with tempfile.TemporaryDirectory(prefix="bulkfetch-peers-") as out:
        first = run(
            peer, server, out, until=lambda _: stats_of(server)["line_items"] - sent >= rows // 2
        )
        second = run(peer, server, out)
    again = (first.requests + second.requests - undisturbed) / undisturbed
    return {
        "undisturbed": undisturbed,
        "first": first.requests,
        "second": second.requests,
        "again": again if first.exit_code else None,
        "wall_s": second.wall_s,
        "rows": second.rows,
        "trouble": second.trouble if first.exit_code else "it was faster than the signal",
    }


CASES = {"costs": costs, "throttled": throttled, "killed": killed}


def main() -> int:
    """Make the environments, measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, default="costs")
    parser.add_argument("--only", help=f"names, separated by commas: {', '.join(PACKAGES)}")
    parser.add_argument("--line-items", type=int, default=180_000)
    parser.add_argument("--invoices", type=int, default=1)
    parser.add_argument(
        "--rated-rows", type=int, default=RATED_ROWS, help=f"rows of {RATED} to compare"
    )
    parser.add_argument("--pages", type=int, default=60, help="pages of the throttled case")
    parser.add_argument(
        "--burst", type=int, default=PER_SECOND, help="how many of them may come at once"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--latencies-ms", default="0,50")
    parser.add_argument("--environments", type=Path, default=cache_folder(), metavar="DIR")
    parser.add_argument(
        "--smoke", action="store_true", help="a size that takes seconds, in this environment"
    )
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.line_items, arguments.rated_rows, arguments.pages, arguments.runs = (
            6_000,
            2_000,
            6,
            1,
        )
        arguments.latencies_ms = "0"
    names = (
        arguments.only.split(",") if arguments.only else [*(SMOKE if arguments.smoke else PACKAGES)]
    )
    if unknown := set(names) - set(PACKAGES):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PACKAGES)}")
    peers = [
        Peer(name, sys.executable if arguments.smoke else python_of(name, arguments.environments))
        for name in names
    ]
    made = conditions()
    announce(made)
    made["peers"] = {peer.name: versions(peer.python, PACKAGES[peer.name]) for peer in peers}
    for name, found in made["peers"].items():
        print(f"{name}: {', '.join(map(' '.join, found.items()))}")
    results = CASES[arguments.case](arguments, peers)
    keep("peers" if arguments.case == "costs" else f"peers_{arguments.case}", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
