"""The parts of an export alone: decoding a page each way, and with an odd value, writing it,
planning, starting up.

    python benchmarks/parts.py            the figures of docs/benchmarks.md: a minute or two
    python benchmarks/parts.py --smoke    seconds, to see that it works

Pages of 2,000 line items come from the sandbox; times are CPU time of the calling thread, medians
of several rounds. Start-up is the CPU time of whole processes, in turn, and of an export up to its
first request. Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from exporting import Shape, serving
from measuring import Table, announce, client_environment, conditions, keep, run_measured

PATHS = {
    "office/billing_line_items": "lineitems/Office/BillingLineItems?size={size}&offset=0",
    "azure/usage_line_items": "lineitems/Azure/UsageLineItems?size={size}&offset=0",
    "one_time/billing_line_items": (
        "lineitems?provider=onetime&invoicelineitemtype=billinglineitems&size={size}"
    ),
    "one_time/usage_line_items": (
        "lineitems?provider=onetime&invoicelineitemtype=usagelineitems&size={size}"
    ),
}
STARTS = {
    "python -c pass": ["-c", "pass"],
    "import bulkfetch": ["-c", "import bulkfetch"],
    "bulkfetch --help": ["-m", "bulkfetch", "--help"],
    "import aiohttp, pyarrow.parquet": ["-c", "import aiohttp, pyarrow.parquet"],
}

ODD_VALUES = {
    "null": '"unitPrice":null,',
    '""': '"unitPrice":"",',
    "new": '"brandNew":{"number":5,"flag":true},',
}
"""What one row of a page has once: a value that its column cannot hold, or a new field."""


def with_odd_value(body: bytes, pair: str) -> bytes:
    """Give the middle row of a page one more pair, in place of its own of that key."""
    at = body.index(b"},{", len(body) // 2) + 3
    end = body.index(b"},{", at)
    key = pair[: pair.index(":")].encode()
    row = re.sub(re.escape(key) + rb":(?:\"[^\"]*\"|[^,}]*),?", b"", body[at:end])
    return body[:at] + pair.encode() + row.rstrip(b",") + body[end:]


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Return the median CPU time of `work` in this thread, in ms."""
    work()
    times = []
    for _ in range(rounds):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return statistics.median(times) * 1e3


def first_page(detail: str, size: int) -> bytes:
    """Return the first page of a sandbox's only invoice."""
    with serving(Shape(1, 2 * size), detail=detail) as server:

        def get(path: str) -> bytes:
            request = urllib.request.Request(  # noqa: S310  # a server of ours
                f"{server['base_url']}/invoices{path}",
                headers={"Authorization": f"Bearer {server['token']}"},
            )
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return bytes(answer.read())

        from bulkfetch.partnercenter.invoices import _page_from

        invoice = _page_from(get("?size=10&offset=0")).items[0].id
        return get(f"/{invoice}/{PATHS[detail].format(size=size)}")


def page_figures(detail: str, rounds: int, size: int) -> dict[str, float]:
    """Measure decoding and writing of a page, in ms of CPU time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bulkfetch.billing.details import schema_of
    from bulkfetch.decoding.columns import columns_of
    from bulkfetch.decoding.jsontext import utf8_of
    from bulkfetch.decoding.kernel import Kernel
    from bulkfetch.decoding.library import Refusal, load
    from bulkfetch.decoding.pages import PageDecoder, page_of

    body, schema = first_page(detail, size), schema_of(*detail.split("/"))
    library = load()
    if schema is None or isinstance(library, Refusal):
        raise SystemExit(f"{detail} has no schema, or there is no kernel")
    text, kernel, decoder = utf8_of(body), Kernel(library, schema), PageDecoder("D1", schema)
    odd = {name: with_odd_value(body, value) for name, value in ODD_VALUES.items()}
    table = pa.Table.from_batches(
        [decoder.batch(decoder.decode(body).page, 0)] * 25
    )  # a row group's worth
    few = max(1, rounds // 5)
    return {
        "MB": len(body) / 1e6,
        "decode": cpu_ms(lambda: decoder.decode(body), rounds),
        "kernel": cpu_ms(lambda: kernel.decode_page(text), rounds),
        **{name: cpu_ms(partial(decoder.decode, each), rounds) for name, each in odd.items()},
        "exact way": cpu_ms(lambda: columns_of(page_of(text)[1], schema.fields), few),
        "Parquet": cpu_ms(
            lambda: pq.write_table(table, pa.BufferOutputStream(), compression="zstd"), few
        )
        / 25,
    }


def pages(rounds: int, size: int) -> list[dict[str, Any]]:
    """Measure a page of each type, and print the table."""
    print(
        f"\nms a page of {size:,} line items, also with one odd value in one row; "
        "the exact way is that of pages the kernel refuses"
    )
    results: list[dict[str, Any]] = []
    for detail in PATHS:
        figures = page_figures(detail, rounds, size)
        table = Table({"detail": "<28"} | dict.fromkeys(figures, ">9.2f"))
        if not results:
            table.print_headings()
        table.print_row(detail, *figures.values())
        results.append({"detail": detail, **figures})
    return results


def plans(rounds: int, invoices: int) -> dict[str, float]:
    """Measure planning an export of so many invoices, and print it."""
    from bulkfetch.partnercenter.invoices import _page_from
    from bulkfetch.runs.plan import plan_export
    from bulkfetch.runs.selection import Selection

    detail = '{"invoiceLineItemType":"billing_line_items","billingProvider":"office","links":{}}'
    items = ",".join(
        f'{{"id":"D{number:09d}","invoiceDate":"2024-01-01T00:00:00Z",'
        f'"totalCharges":1.5,"invoiceDetails":[{detail}]}}'
        for number in range(invoices)
    )
    body = f'{{"totalCount":{invoices},"items":[{items}]}}'.encode()
    listed = _page_from(body).items
    figures = {
        "read": cpu_ms(lambda: _page_from(body), rounds),
        "plan": cpu_ms(lambda: plan_export(listed, Selection()), rounds),
    }
    print(
        f"\n{invoices:,} invoices: {figures['read']:.0f} ms to read, "
        f"{figures['plan']:.0f} ms to plan"
    )
    return figures


def first_request() -> float:
    """Return the CPU ms of `bulkfetch export` up to its first request, which ends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as out:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        words = ["-m", "bulkfetch", "export", out, "--quiet", "--base-url", url, "--token", "t"]
        client = subprocess.Popen([sys.executable, *words], env=client_environment(), cwd=out)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            client.kill()
            _, _, usage = os.wait4(client.pid, 0)
            client.returncode = -signal.SIGKILL
    return (usage.ru_utime + usage.ru_stime) * 1e3


def starts(rounds: int) -> list[dict[str, Any]]:
    """Measure start-up in turn, and print the table."""
    measured: dict[str, Callable[[], float]] = {
        name: partial(_cpu_ms_of, words) for name, words in STARTS.items()
    }
    measured["bulkfetch export, first request"] = first_request
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds + 1):  # the first one warms up
        for name, measure in measured.items():
            times[name].append(measure())
    table = Table({"start-up": "<32", "CPU ms": ">6.0f"})
    print()
    table.print_headings()
    results = []
    for name, each in times.items():
        middle = statistics.median(each[1:])
        results.append({"start": name, "cpu_ms": middle})
        table.print_row(name, middle)
    return results


def _cpu_ms_of(words: list[str]) -> float:
    return run_measured([sys.executable, *words]).cpu_s * 1e3


def main() -> int:
    """Measure every part and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    size, invoices = (200, 100) if arguments.smoke else (2000, 10_000)
    rounds = 3 if arguments.smoke else arguments.rounds
    made = conditions()
    announce(made)
    results = [
        *pages(rounds, size),
        plans(max(3, rounds // 5), invoices),
        *starts(max(3, rounds // 5)),
    ]
    keep("parts", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
