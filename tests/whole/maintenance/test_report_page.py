"""The page of an archive against oracles that share no code with it: the records as JSON, the table
of headers, and what `show` and `verify` say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import anyio.to_thread
import obstore
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from support.page.figures import AT
from support.page.htmltree import Node, amount_of, read_html, table_of
from support.replay import Asked, MadeUp, invoice, serving
from support.stores.objects_in_memory import Memory
from support.stores.objectservers import ObjectServer
from whole.durability.disks import ReadingStore
from whole.durability.lakes import Lake

import bulkfetch
from bulkfetch.archive.layout import DATA, INVOICES, LOCK, RUNS, STATE
from bulkfetch.cli import main
from bulkfetch.errors import OutputError
from bulkfetch.html.figures import read_figures
from bulkfetch.html.page import make_page
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store

DETAILS = (
    *("office/billing_line_items", "azure/billing_line_items", "azure/usage_line_items"),
    *("one_time/billing_line_items", "marketplace/billing_line_items", "all/billing_line_items"),
)
REPEATED = {"all": {"one_time", "marketplace"}}
"""A provider whose line items repeat those of others of the same invoice."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two runs, of which one invoice differs."""
    root = tmp_path_factory.mktemp("page") / "lake"

    async def export() -> None:
        options = SandboxOptions(invoices=6, line_items=5, unreconciled=1, details=DETAILS)
        async with serve(options) as sandbox:
            settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
            await export_async(root, settings)
            await export_async(root, settings)

    anyio.run(export)
    return root


@pytest.fixture
def lake(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "lake"))


def page_of(store: Store, output: str = "lake") -> Node:
    return read_html(make_page(read_figures(store, output, None), AT))


def commits_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in root.glob("_bulkfetch/commits/*.json")]


def expected_charges(root: Path) -> dict[tuple[str, str, str], Decimal]:
    """What the invoices charge by currency, month and provider, from the records as JSON."""
    (headers,) = root.glob("invoices/*.parquet")
    by_id = {row["id"]: row for row in pq.read_table(headers).to_pylist()}
    commits = [each for each in commits_of(root) if each["total"] is not None]
    there: dict[str, set[str]] = {}
    for each in commits:
        there.setdefault(each["invoice_id"], set()).add(each["provider"])
    sums: Counter[tuple[str, str, str]] = Counter()
    for each in commits:
        header = by_id[each["invoice_id"]]
        if REPEATED.get(each["provider"], set()) & there[each["invoice_id"]]:
            continue
        key = header["currencyCode"], f"{header['invoiceDate']:%Y-%m}", each["provider"]
        sums[key] += Decimal(each["total"])  # type: ignore[assignment]
    return {key: Decimal(amount) for key, amount in sums.items()}


def cells_of(table: list[list[str]]) -> Iterator[tuple[str, str, Decimal]]:
    head, *rows = table
    for row in rows:
        for name, cell in zip(head[1:], row[1:], strict=True):
            if cell != "–":
                yield row[0], name, amount_of(cell)


def test_charges_are_those_of_the_records_by_currency_month_and_provider(exported: Path) -> None:
    expected = expected_charges(exported)
    assert {provider for _, _, provider in expected} >= {"office", "azure", "one_time"}
    root = page_of(LocalStore(exported))
    for currency in {currency for currency, _, _ in expected}:
        found = {
            (month, provider): amount
            for month, provider, amount in cells_of(
                table_of(root, f"Charges in {currency} by month and provider")
            )
        }
        mine = {key[1:]: amount for key, amount in expected.items() if key[0] == currency}
        parts = {key: amount for key, amount in found.items() if "Total" not in key}
        assert parts == mine
        if len({month for month, _ in mine}) > 1:
            assert found["Total", "Total"] == sum(mine.values())


def test_the_numbers_are_those_of_show_and_verify(
    lake: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    assert main(["report", str(lake), "--html", str(file)]) == 4
    capsys.readouterr()
    main(["show", str(lake), "--json"])
    shown = json.loads(capsys.readouterr().out)
    main(["verify", str(lake), "--json"])
    verified = json.loads(capsys.readouterr().out)
    root = read_html(file.read_text("utf-8"))

    tiles = dict(
        zip(
            (each.text for each in root.all("dt")),
            (each.one("b").text for each in root.all("dd")),
            strict=True,
        )
    )
    assert amount_of(tiles["Invoices"]) == shown["invoices"]
    assert amount_of(tiles["Line items"]) == shown["rows"] == verified["rows"]
    assert amount_of(tiles["Rescued values"]) == shown["rescued"]
    assert amount_of(tiles["Invoices that agree"]) == verified["verdicts"]["agrees"]
    assert [tiles["Not complete"], tiles["Faults"]] == ["0", "0"] == ["0"] * 2

    rows: Counter[tuple[str, str]] = Counter()
    for each in shown["months"]:
        rows[each["month"], each["provider"]] += each["rows"]
    table = list(cells_of(table_of(root, "Line items by month and provider")))
    assert {(month, name): n for month, name, n in table if "Total" not in (month, name)} == rows
    assert ("Total", "Total", Decimal(verified["rows"])) in table

    head, *found = table_of(root, "Invoices that do not simply agree")
    facts = [dict(zip(head, row, strict=True)) for row in found]
    assert len(facts) == len(verified["reconciliation"]) == 1
    for row, each in zip(facts, verified["reconciliation"], strict=True):
        assert (row["Invoice"], row["Verdict"]) == (each["invoice_id"], each["verdict"])
        for name, key in (
            ("Header charges", "charged"),
            ("Line items", "listed"),
            ("Difference", "difference"),
        ):
            assert amount_of(row[name]) == Decimal(each[key])


def test_rescues_and_runs_are_those_of_the_records(exported: Path) -> None:
    root = page_of(LocalStore(exported))
    expected: Counter[tuple[str, str]] = Counter()
    for each in commits_of(exported):
        for field, number in each["rescues"].items():
            expected[f"{each['provider']}/{each['line_item_type']}", field] += number
    _, *rows, foot = table_of(root, "Rescued values by field")
    assert {(row[0], row[1]): amount_of(row[2]) for row in rows} == expected
    assert amount_of(foot[2]) == sum(expected.values()) > 0

    reports = sorted(exported.joinpath(RUNS).glob("*.json"), reverse=True)
    _, *runs = table_of(root, "2 runs, newest first")
    for row, path in zip(runs, reports, strict=True):
        facts = json.loads(path.read_bytes())
        keys = ("rows", "requests", "retries", "throttled")
        assert [amount_of(cell) for cell in row[3:7]] == [facts[key] for key in keys]
        assert row[7] == f"{facts['elapsed_s']:,.1f}"


def test_no_row_is_read_and_nothing_is_written_into_the_archive(lake: Path) -> None:
    store = ReadingStore(lake)
    page = make_page(read_figures(store, "lake", None), AT)
    data = [name for name in store.read_names if PurePosixPath(name.parts[0]) in DATA]
    assert [name.parts[0] for name in data] == [str(INVOICES)]
    for path in lake.glob("line_items/**/*.parquet"):
        path.write_bytes(b"")  # as if it could not be read
    assert make_page(read_figures(LocalStore(lake), "lake", None), AT) == page


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns)
        for path in root.rglob("*")
    }


def test_an_archive_that_cannot_be_written_is_enough(lake: Path, tmp_path: Path) -> None:
    for path in [lake, *lake.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(lake)
    assert bulkfetch.report(lake, tmp_path / "page.html").exit_code == 4
    assert snapshot(lake) == before


def damage(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    for what, damaged in (
        ("empty", b""),
        ("cut", content[: len(content) // 2]),
        ("another value", content.replace(b"1", b"2", 1)),
        ("not UTF-8", b"\xff\xfe" + content),
    ):
        path.write_bytes(damaged)
        yield what
    path.unlink()
    path.symlink_to("/etc/hostname")
    yield "a link"
    path.unlink()
    path.write_bytes(content)


def test_whatever_cannot_be_read_is_named_and_the_rest_is_there(lake: Path) -> None:
    whole = page_of(LocalStore(lake))
    commits = sorted(lake.joinpath(STATE, "commits").iterdir())
    reports = sorted(lake.joinpath(RUNS).iterdir())
    (headers,) = lake.joinpath("invoices").iterdir()
    (lake / STATE / "failures.jsonl").write_text('{"torn')
    failures = lake / STATE / "failures.jsonl"
    assert "1 line of it cannot be read" in page_of(LocalStore(lake)).text
    failures.unlink()
    for path in (commits[0], commits[-1], reports[0], headers, lake / STATE / "archive.json"):
        for what in damage(path):
            if path == reports[0] and what == "another value":
                continue  # nothing vouches for the report of a run
            figures = read_figures(LocalStore(lake), "lake", None)
            root = read_html(make_page(figures, AT))
            name = path.relative_to(lake).as_posix()
            names = [row[0] for row in table_of(root, "Could not be read")[1:]]
            assert name in names, (name, what)
            assert "could not be read, so figures on this page may be" in root.text
            assert root.all("h2")
            assert len(root.all("dt")) == len(whole.all("dt"))
    assert page_of(LocalStore(lake)).text == whole.text


def test_an_archive_in_an_object_store_has_the_same_page(exported: Path) -> None:
    bucket = Memory()
    for path in exported.rglob("*"):
        name = path.relative_to(exported).as_posix()
        if path.is_file() and name != str(LOCK):
            obstore.put(bucket.store, name, path.read_bytes())
    before = bucket.there
    page = make_page(read_figures(bucket.open(), "lake", None), AT)
    assert page == make_page(read_figures(LocalStore(exported), "lake", None), AT)
    assert bucket.there == before


@pytest.mark.slow
async def test_an_archive_behind_an_address_has_a_page_and_stays_as_it_is(
    object_server: ObjectServer, tmp_path: Path
) -> None:
    lake = Lake.of(object_server)
    tenant = MadeUp(
        [invoice("D1", OFFICE, totalCharges=3.5)], {("D1", *OFFICE): ['{"totalForCustomer":3.5}']}
    )
    async with serving(tenant) as server:
        settings = server.settings(**lake.flags())
        await export_async(lake.address, settings)
    before = lake.names()
    make = partial(bulkfetch.report, lake.address, tmp_path / "page.html", settings=settings)
    made = await anyio.to_thread.run_sync(make)
    assert made.exit_code == 0
    assert "3.50 USD on 1 invoice" in read_html((tmp_path / "page.html").read_text("utf-8")).text
    assert lake.names() == before


OFFICE = ("office", "billing_line_items")
EVIL = '<img src=x onerror="alert(1)">&amp; \u202eفاتورة'


async def test_what_a_server_says_stays_text_and_failures_have_their_advice(
    tmp_path: Path,
) -> None:
    def refuse(asked: Asked) -> web.Response | None:
        if asked.invoice_id != "GONE":
            return None
        body = json.dumps({"code": 1, "description": EVIL}).encode()
        return web.Response(status=404, body=body, content_type="application/json")

    row = '{"totalForCustomer":-3.5,"<b>odd</b>":1}'
    tenant = MadeUp(
        [
            invoice(EVIL, OFFICE, totalCharges=-3, currencyCode="<i>"),
            invoice("GONE", OFFICE, totalCharges=1),
        ],
        {(EVIL, *OFFICE): [row]},
        refuse,
    )
    async with serving(tenant) as server:
        await export_async(tmp_path / "lake", server.settings())
    root = page_of(LocalStore(tmp_path / "lake"))
    assert not root.all("img")
    assert not root.all("i")
    shown = EVIL.replace("\u202e", " ")
    assert table_of(root, "Invoices that do not simply agree")[1][0] == shown
    assert "-3.50 <i> on 1 invoice" in root.text
    assert ["office/billing_line_items", "<b>odd</b>", "1"] in table_of(
        root, "Rescued values by field"
    )
    (failed,) = [
        each for each in root.all("table") if each.one("caption").text.startswith("Failures")
    ]
    assert "GONE office/billing_line_items" in failed.text
    assert "1 failure: it does not exist" in root.text
    assert re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}", failed.text)


async def test_an_archive_without_invoices_has_a_page(tmp_path: Path) -> None:
    async with serving(MadeUp([], {})) as server:
        await export_async(tmp_path / "lake", server.settings())
    root = page_of(LocalStore(tmp_path / "lake"))
    for words in ("No charges are archived.", "There is no invoice to compare."):
        assert words in root.text


# The command


def test_the_page_goes_to_stdout_as_it_is(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(lake), "--html", "-"]) == 4
    printed = capsys.readouterr().out
    assert printed.startswith("<!DOCTYPE html>\n<html")
    assert printed.endswith("</html>\n")
    read_html(printed)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such shell")
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 1, "the page cannot be written: the standard output is closed; give a file"),
        ("<&- >&- 2>&-", 1, ""),
        ("1</dev/null", 1, "the standard output cannot be written to: Bad file descriptor"),
        ("> /dev/null", 4, ""),
        ("| head -c 1 > /dev/null", 4, ""),
    ],
)
def test_a_page_that_nothing_could_take_is_an_error(
    lake: Path, redirection: str, code: int, said: str
) -> None:
    line = f'set -o pipefail; "{sys.executable}" -m bulkfetch report {lake} --html - {redirection}'
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert said in ended.stderr
    assert bool(ended.stderr) == bool(said)


def test_what_was_written_is_said_as_a_line_or_as_json(
    lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    assert main(["report", str(lake), "--html", str(file)]) == 4
    assert capsys.readouterr().out.startswith(f"{file}: 7 invoices, ")
    assert main(["report", str(lake), "--html", str(file), "--json"]) == 4
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == str(file)
    assert facts["size_bytes"] == file.stat().st_size
    assert (facts["invoices"], facts["missing"], facts["faults"], facts["unread"]) == (7, 0, 0, [])


def test_a_file_of_others_is_replaced_only_by_force(
    lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.html"
    file.write_text("<p>mine</p>")
    assert main(["report", str(lake), "--html", str(file)]) == 2
    assert "or give --force True" not in (error := capsys.readouterr().err)
    assert error == (
        f"bulkfetch: error: {file} exists and is not a page of `bulkfetch report`; choose another "
        "file, or give --force to replace it\n"
    )
    assert file.read_text() == "<p>mine</p>"
    assert main(["report", str(lake), "--html", str(file), "--force"]) == 4
    assert main(["report", str(lake), "--html", str(file)]) == 4


@pytest.mark.parametrize("words", [[], ["--html", "-", "--json"]])
def test_a_command_line_that_cannot_be_meant_is_refused(
    lake: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(lake), *words]) == 2
    assert "--html" in capsys.readouterr().err


def test_what_is_no_archive_leaves_no_file(tmp_path: Path) -> None:
    for name in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
            bulkfetch.report(tmp_path / name, tmp_path / "page.html")
    assert sorted(os.listdir(tmp_path)) == ["empty"]


def test_the_library_returns_the_page_and_writes_no_file_if_none_is_named(lake: Path) -> None:
    before = snapshot(lake.parent)
    made = bulkfetch.report(lake)
    assert made.file is None
    assert read_html(made.html).one("h1").text == f"Invoices in {lake}"
    assert snapshot(lake.parent) == before
