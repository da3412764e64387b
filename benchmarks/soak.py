"""A million line items on a bad day: one request in ten fails, and the archive is that of a good
day, byte for byte.

    python benchmarks/soak.py            the figures of docs/benchmarks.md: some minutes
    python benchmarks/soak.py --smoke    seconds, to see that it works

The faults are those of soak.toml: 429 storms, resets, stalls, 5xx, cut bodies, tokens that are
revoked or expire. Both runs are `bulkfetch export` as a whole process, signing in with a secret
over TLS, under the same latency. The exit code is 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import ssl
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trustme
from measuring import Table, announce, conditions, keep, run_client, sandbox

FAULTS = Path(__file__).with_name("soak.toml")
SECRET = "soak-secret"  # noqa: S105  it opens nothing but this sandbox
TIMEOUT_S = 1.0
"""After so long without a byte, a request is given up: ten times the latency, as the defaults are
of a slow one."""
PASSING = ("runs", "logs", "lock")


@dataclass(frozen=True, slots=True)
class Run:
    """One export: what it took, and what met it."""

    day: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    rows: int
    requests: int
    retries: int
    faults: int
    throttled: int
    renewals: int


@contextmanager
def serving(arguments: argparse.Namespace, folder: Path, *faults: str) -> Iterator[dict[str, Any]]:
    """Serve the tenant by TLS, with tokens that last seconds."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    sizes = [
        "--invoices",
        str(arguments.invoices),
        "--line-items",
        str(arguments.line_items // arguments.invoices),
    ]
    with sandbox(
        *(
            *sizes,
            "--details",
            "office/billing_line_items",
            "--amendments",
            "0",
            "--unreconciled",
            "0",
        ),
        *(
            "--certificate",
            str(folder / "server.pem"),
            "--client-secret",
            SECRET,
            "--token-lifetime",
            "8",
        ),
        *("--latency-ms", str(arguments.latency_ms)),
        *faults,
    ) as server:
        yield server


def export(day: str, arguments: argparse.Namespace, folder: Path, *faults: str) -> Run:
    """Export once, and look at both ends."""
    with serving(arguments, folder, *faults) as server:
        command = [
            sys.executable,
            "-m",
            "bulkfetch",
            "export",
            str(folder / day),
            "--json",
            "--quiet",
        ]
        command += ["--base-url", server["base_url"], "--authority", server["authority"]]
        command += ["--tenant-id", server["tenant_id"], "--client-id", "sandbox-client"]
        command += ["--ca-file", str(folder / "ca.pem"), "--page-size", str(arguments.page_size)]
        command += ["--first-byte-timeout-s", str(TIMEOUT_S), "--read-timeout-s", str(TIMEOUT_S)]
        os.environ["BULKFETCH_CLIENT_SECRET"] = SECRET
        wall_s, cpu_s, peak_mb, output = run_client(command)
        report, seen = json.loads(output), stats_of(server, folder)
    return Run(
        day=day,
        wall_s=wall_s,
        cpu_s=cpu_s,
        peak_mb=peak_mb,
        rows=report["rows"],
        requests=report["requests"],
        retries=report["retries"],
        faults=sum(seen["faults"].values()),
        throttled=report["throttled"],
        renewals=seen["by_kind"]["token"] - 1,
    )


def stats_of(server: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Ask the sandbox what it has seen."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    url = server["authority"] + "/sandbox/stats"
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:  # noqa: S310  our own sandbox
        found: dict[str, Any] = json.load(answer)
        return found


def differing(clean: Path, bad: Path) -> list[str]:
    """Return the names of files that are not the same in both archives, runs and logs aside."""

    def names(root: Path) -> set[str]:
        found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return {str(name) for name in found if not set(name.parts) & set(PASSING)}

    common = sorted(names(clean) & names(bad))
    _, changed, missing = filecmp.cmpfiles(clean, bad, common, shallow=False)
    return sorted([*changed, *missing, *(names(clean) ^ names(bad))])


TABLE = Table(
    {
        "day": "<4",
        "wall s": ">.1f",
        "CPU s": ">6.1f",
        "peak MB": ">.0f",
        "rows": ">9,",
        "requests": ">,",
        "retried": ">.1%",
        "faults": ">",
        "throttled": ">",
        "renewals": ">",
        "wall": ">6",
    }
)


def print_row(run: Run, good: Run) -> None:
    """Print a run's line of the table."""
    TABLE.print_row(
        run.day,
        run.wall_s,
        run.cpu_s,
        run.peak_mb,
        run.rows,
        run.requests,
        run.retries / run.requests,
        run.faults,
        run.throttled,
        run.renewals,
        f"{run.wall_s / good.wall_s:.2f}x",
    )


def main() -> int:
    """Run both days, and hold the archives against each other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--line-items", type=int, default=1_000_000)
    parser.add_argument("--invoices", type=int, default=10)
    parser.add_argument("--page-size", type=int, default=500)
    parser.add_argument("--latency-ms", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.line_items, arguments.page_size, arguments.runs = 20_000, 200, 1
    made = conditions()
    announce(made)
    print(
        f"{arguments.line_items:,} line items in {arguments.invoices} invoices, "
        f"pages of {arguments.page_size}, "
        f"{arguments.latency_ms} ms for an answer, {TIMEOUT_S:g} s without a byte are too long"
    )
    TABLE.print_headings()
    results, wrong = [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="bulkfetch-soak-") as name:
            folder = Path(name)
            good = export("good", arguments, folder)
            bad = export("bad", arguments, folder, "--faults", str(FAULTS))
            wrong += differing(folder / "good", folder / "bad")
        for run in (good, bad):
            print_row(run, good)
        results.append(
            {"good": asdict(good), "bad": asdict(bad), "wall_ratio": bad.wall_s / good.wall_s}
        )
    print(f"files that differ: {', '.join(wrong) if wrong else 'none'}")
    keep("soak", made, results)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
