"""Compares bulkfetch with what a user would pick instead: the same server, data and partitions, in
the same run.

    python benchmarks/peers.py                     the costs, and whether the amounts are exact
    python benchmarks/peers.py --case throttled    a server that takes four requests a second
    python benchmarks/peers.py --case killed       a run killed at half of the pages, then a second
    python benchmarks/peers.py --smoke             seconds; this environment, no large frameworks

Each peer is a short script in benchmarks/peers/, written as a user who knows the tool would write
it. It gets the server, the token and a directory. Each has an environment of its own, made by this
command from peers/NAME.txt and kept in the user's cache directory; bulkfetch has one as well,
without the packages of its developers. A client is measured as a whole: start-up, all processes,
their CPU time together, the memory of the largest. Peers take turns, so that a slow minute of the
machine meets all of them. Figures are medians; results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
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
from measuring import (
    Finished,
    Table,
    announce,
    client_environment,
    conditions,
    keep,
    run_measured,
    sandbox,
    stats_of,
)

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
"""The peers, in the order of the tables, and the packages whose versions are shown."""
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
        for name, value in client_environment().items()
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


COSTS = Table(
    {
        "peer": "<16",
        "latency": ">",
        "wall s": ">.2f",
        "CPU s": ">6.2f",
        "peak MB": ">.0f",
        "rows/s": ">8,.0f",
        "rows/CPU s": ">,.0f",
        "JSON MB/s": ">.1f",
        "requests": ">.0f",
        "files MB": ">.1f",
        "wall": ">7",
        "CPU": ">7",
    }
)
EXACT = Table(
    {
        "peer": "<16",
        "rows": ">7,",
        "missing": ">7,",
        "surplus": ">7,",
        "values": ">9,",
        "changed": ">9,",
        "digits lost": ">,",
        "numbers are": "<18",
        "dates are": "<21",
        "for example": "<",
    }
)
THROTTLED = Table(
    {
        "peer": "<16",
        "complete": ">",
        "wall s": ">7.1f",
        "of the least": ">",
        "requests": ">.0f",
        "refused": ">.1%",
        "trouble": "<",
    }
)
KILLED = Table(
    {
        "peer": "<16",
        "undisturbed": ">.0f",
        "first": ">.0f",
        "second": ">.0f",
        "wall s of second": ">.2f",
        "again": ">6",
        "rows at the end": "<",
    }
)


def costs(arguments: argparse.Namespace, peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """Measure all peers, and look at their numbers."""
    found = exact(peers, RATED, 1, arguments.rated_rows)
    found += exact(peers, OFFICE, arguments.invoices, arguments.line_items // arguments.invoices)
    rows = arguments.line_items // arguments.invoices * arguments.invoices
    print(
        f"\n{rows:,} rows of {OFFICE} in {arguments.invoices:,} invoices, "
        f"median of {arguments.runs} runs"
    )
    COSTS.print_headings()
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
            COSTS.print_row(
                name,
                f"{latency_ms:g} ms",
                each.wall_s,
                each.cpu_s,
                each.peak_mb,
                rows / each.wall_s,
                rows / each.cpu_s,
                each.json_mb / each.wall_s,
                each.requests,
                each.files_mb,
                f"{ratios['wall_ratio']:.2f}x",
                f"{ratios['cpu_ratio']:.2f}x",
            )
    return found


def exact(peers: Sequence[Peer], detail: str, invoices: int, rows: int) -> list[dict[str, Any]]:
    """Compare what each peer wrote with the server's own text.

    It runs first, so that every program has been started once before anything is measured.
    """
    print(
        f"\n{rows * invoices:,} rows of {detail}: how many of its numbers changed "
        "(a float counts by its exact value), and of how many not even the shortest text of the "
        "float is the server's number (digits lost)"
    )
    EXACT.print_headings()
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
            EXACT.print_row(
                peer.name,
                each["rows"],
                each["missing"],
                each["surplus"],
                each["values"],
                each["differing"],
                each["lost"],
                "/".join(each["number_types"]),
                each["date_type"],
                "; ".join(each["examples"]),
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
        f"\n{arguments.pages} pages of a server that takes {PER_SECOND} requests a second, "
        f"{arguments.burst} at once, and says Retry-After: 1; "
        f"the least possible time is {least_s:g} s; {arguments.runs} runs, medians"
    )
    THROTTLED.print_headings()
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
        THROTTLED.print_row(
            name,
            f"{complete} of {len(each)}",
            middle.wall_s,
            f"{times:.2f}x",
            middle.requests,
            share,
            trouble[:120],
        )
    return found


def killed(arguments: argparse.Namespace, peers: Sequence[Peer]) -> list[dict[str, Any]]:
    """End each client when half of the rows were sent, run it again, and count what was asked for
    twice."""
    rows = arguments.line_items // arguments.invoices * arguments.invoices
    print(
        f"\n{rows:,} rows of {OFFICE} in {arguments.invoices:,} invoices, "
        f"{KILLED_LATENCY_MS} ms for an answer, "
        f"SIGKILL when half of them were sent; {arguments.runs} runs, medians"
    )
    KILLED.print_headings()
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
        KILLED.print_row(name, *middle.values(), again, ", ".join(ends))
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
