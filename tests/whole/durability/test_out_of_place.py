"""Something else than a file in the place of one, and an older copy of an archive put back over it:
one finding, never a wait, and nothing lost or counted twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from support.replay import Asked, MadeUp, invoice, page, serving

from bulkfetch.archive.layout import COMMITS, REFUSED, RUNS, STAGING, SUPERSEDED
from bulkfetch.errors import DamagedError, OutputError
from bulkfetch.maintenance.prune import prune
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.show import show
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.sandbox.pdf import pdf
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

OFFICE = ("office", "billing_line_items")


def tenant(charges: int = 2, generation: str = "old") -> MadeUp:
    """Invoices A and B with two line items; what A charges may be something else later."""
    lines = {"A": [generation] * charges, "B": ["b"] * 2}
    rows = {
        (name, *OFFICE): [f'{{"customerName":"{each}","totalForCustomer":1}}' for each in found]
        for name, found in lines.items()
    }
    invoices = [invoice(name, OFFICE, totalCharges=len(found)) for name, found in lines.items()]
    return MadeUp(invoices, rows)


async def run(root: Path, server_has: MadeUp | None = None) -> int:
    async with serving(server_has or tenant()) as server:
        return (await export_async(root, server.settings())).exit_code


async def mend(root: Path, server_has: MadeUp | None = None) -> int:
    async with serving(server_has or tenant()) as server:
        return (await repair_async(root, server.settings())).exit_code


def customers(root: Path) -> list[str]:
    """What readers see who read by a pattern."""
    parts = sorted(each for each in root.glob("line_items/**/*.parquet") if each.is_file())
    return [
        name for part in parts for name in pq.ParquetFile(part).read()["customerName"].to_pylist()
    ]


def find(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


def everything(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    aside = ("_bulkfetch/runs", "_bulkfetch/logs", "_bulkfetch/lock", "_bulkfetch/failures")
    return {name: content for name, content in found.items() if not name.startswith(aside)}


@pytest.fixture
async def lake(tmp_path: Path) -> Path:
    assert await run(tmp_path / "lake") == 0
    return tmp_path / "lake"


def put_directory(path: Path) -> None:
    path.mkdir()
    path.joinpath("of the user").write_bytes(b"precious")


def put_link(path: Path) -> None:
    root = next(each for each in path.parents if each.name == "lake")
    target = root.with_name("elsewhere")
    target.write_bytes(b"precious")
    path.symlink_to(target)


PUT = {"a directory": put_directory, "a pipe": os.mkfifo, "a link": put_link}


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
@pytest.mark.parametrize("where", ["line_items/**/A-*.parquet", "_bulkfetch/commits/A+*.json"])
async def test_something_else_in_the_place_of_a_file_is_one_finding_and_the_others_continue(
    put: Callable[[Path], None], where: str, lake: Path, tmp_path: Path
) -> None:
    (path,) = find(lake, where)
    whole = path.read_bytes()
    path.unlink()
    put(path)
    before = everything(lake)
    more = tenant()
    more.invoices.append(invoice("C", OFFICE, totalCharges=0))
    more.rows["C", *OFFICE] = []

    assert verify(lake).exit_code == 1
    show(lake)
    if put is not put_directory or where.startswith("line_items"):
        assert await run(lake, more) == 1
        assert find(lake, "_bulkfetch/commits/C+*")
    else:  # a record is gone that the last run counted
        with pytest.raises(OutputError, match="are gone since the last run"):
            await run(lake, more)
    assert await mend(lake, more) == 1

    after = everything(lake)
    assert {name: after.get(name) for name in before if "invoices" not in name} == {
        name: content for name, content in before.items() if "invoices" not in name
    }
    assert not find(lake, "_bulkfetch/commits/A+*.next")
    shutil.move(path, tmp_path / "moved away")
    path.write_bytes(whole)
    assert await run(lake, more) == 0
    assert verify(lake, deep=True).exit_code == 0


@pytest.mark.parametrize("put", [put_directory, put_link])
@pytest.mark.parametrize("name", ["commits/~unbilled-current-USD+*usage*", "documents/A-*"])
async def test_something_else_in_the_place_of_any_record_stops_neither_a_repair_nor_a_prune(
    name: str, put: Callable[[Path], None], tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    for charges in (2, 3):
        await run_with_all(root, tenant(charges, f"{charges}"))
    (path,) = find(root, f"_bulkfetch/{name}.json")
    path.unlink()
    put(path)
    (part,) = find(root, "line_items/**/B-*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    kept = everything(root)

    if put is put_link:
        code = await run_with_all(root, tenant(3, "3"))
        assert code == 1
        assert part.read_bytes() == whole
        part.write_bytes(whole[:-1])
    assert await mend_all(root, tenant(3, "3")) == 1
    assert part.read_bytes() == whole
    if put is put_link:
        pruned = prune(root, older_than=timedelta(0))
        assert any("cannot be verified" in why for _, why in pruned.pruned.kept)
        assert any(each.record.record_name.stem.startswith("A+") for each in pruned.pruned.removed)
    assert tmp_path.joinpath("elsewhere").exists() == (put is put_link)
    assert {each for each in kept if each.startswith(("documents/", "unbilled"))} <= {
        *everything(root)
    }


async def run_with_all(root: Path, server_has: MadeUp) -> int:
    """Export with documents and snapshots of what is not billed yet."""
    async with serving(with_all(server_has)) as server:
        flags: dict[str, Any] = {"documents": True, "unbilled": True, "currencies": ["USD"]}
        return (await export_async(root, server.settings(), **flags)).exit_code


async def mend_all(root: Path, server_has: MadeUp) -> int:
    return await mend(root, with_all(server_has))


def with_all(server_has: MadeUp) -> MadeUp:
    """Return a tenant with a statement for each invoice, and other unbilled rows for each charge
    of A."""
    charges = len(server_has.rows["A", *OFFICE])

    def answer(asked: Asked) -> web.Response | None:
        if asked.invoice_id == "unbilled":
            row = f'{{"customerName":"open {charges}"}}'
            return page(f'{{"totalCount":1,"items":[{row}]}}'.encode())
        if asked.invoice_id and not asked.provider:
            content = pdf([asked.invoice_id, f"{charges}"], seed=1, padding=50)
            return web.Response(body=content, content_type="application/pdf")
        return None

    return MadeUp(server_has.invoices, server_has.rows, answer)


async def test_something_else_in_the_place_of_a_pdf_is_one_finding(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    async with serve(SandboxOptions(invoices=2, line_items=3)) as sandbox:
        settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
        await export_async(root, settings, documents=True)
        path = find(root, "documents/*.pdf")[0]
        path.unlink()
        os.mkfifo(path)

        assert verify(root).exit_code == 1
        report = await export_async(root, settings, documents=True)

    (failure,) = report.failures
    assert "a pipe, a socket or a device is in the place of a file" in failure.message


@pytest.mark.parametrize("name", [STAGING, SUPERSEDED, RUNS], ids=lambda name: name.name)
@pytest.mark.parametrize("kind", ["a file", "a link"])
async def test_something_else_in_the_place_of_a_directory_hides_nothing_else(
    name: PurePosixPath, kind: str, lake: Path, tmp_path: Path
) -> None:
    tmp_path.joinpath("elsewhere").mkdir()
    tmp_path.joinpath("elsewhere", "thesis").write_bytes(b"precious")
    shutil.rmtree(lake / name, ignore_errors=True)
    if kind == "a file":
        lake.joinpath(name).write_bytes(b"precious")
    else:
        lake.joinpath(name).symlink_to(tmp_path / "elsewhere")
    (part,) = find(lake, "line_items/**/B-*.parquet")
    part.unlink()

    report = verify(lake)
    with pytest.raises(DamagedError, match=r"in the place of a directory|symbolic link"):
        await run(lake, tenant(3))

    assert any(str(name) in str(each) for each in report.findings)
    assert any(part.name in each.name for each in report.findings)
    assert len(report.reconciliations) == 2
    assert tmp_path.joinpath("elsewhere", "thesis").exists()
    assert len(customers(lake)) == 2


async def test_reports_of_runs_that_are_no_files_are_passed_over(lake: Path) -> None:
    lake.joinpath(RUNS, "99990101T000000.000000Z.json").symlink_to("/etc/hostname")
    os.mkfifo(lake / RUNS / "99980101T000000.000000Z.json")

    assert await run(lake) == 0
    find(lake, f"{COMMITS}/*.json")[0].unlink()
    with pytest.raises(OutputError, match="1 of 2 records of transfers"):
        await run(lake)


async def test_a_list_of_failures_that_is_no_file_hides_nothing_else(lake: Path) -> None:
    lake.joinpath("_bulkfetch/failures.jsonl").mkdir()
    (part,) = find(lake, "**/A-00000-*.parquet")
    part.unlink()

    for report in (verify(lake), show(lake)):
        assert any("failures.jsonl" in str(finding) for finding in report.findings)
    assert any(part.name in finding.name for finding in verify(lake).findings)


async def test_a_copy_of_a_record_under_the_name_of_another_is_to_be_moved_away(lake: Path) -> None:
    copy = lake / COMMITS / "C+office+billing_line_items.json"
    shutil.copy(lake / COMMITS / "A+office+billing_line_items.json", copy)

    async with serving(tenant()) as server:
        report = await repair_async(lake, server.settings())

    assert report.exit_code == 1
    assert report.after is not None
    (finding,) = report.after.findings
    assert "it belongs to A office/billing_line_items" in str(finding)
    assert str(finding).endswith("move it out of the archive and run it again")
    assert report.lines()[-1].startswith("This repair could not mend what is left.")
    copy.unlink()
    assert await mend(lake) == 0
    assert verify(lake, deep=True).exit_code == await run(lake) == 0


async def test_copies_that_a_sync_tool_or_editor_leaves_are_no_records(lake: Path) -> None:
    records, parts = find(lake, f"{COMMITS}/*.json"), find(lake, "line_items/**/*.parquet")
    for path in [*records, *parts]:
        for name in (f"{path.stem} (conflicted copy){path.suffix}", f"{path.name}~"):
            shutil.copy(path, path.with_name(name))
        path.with_name("Thumbs.db").write_bytes(b"of a system")
        path.with_name(".DS_Store").write_bytes(b"of a system")

    assert await run(lake) == 0
    assert await mend(lake) == 1
    names = [each.name.rpartition("/")[2] for each in verify(lake).findings]

    assert len(names) == 8, "two copies of each of two records and two parts"
    assert all("conflicted copy" in name or name.endswith("~") for name in names)


@pytest.mark.parametrize("inside", ["sub", "line_items/sub", "_bulkfetch/superseded", "a/b/c"])
async def test_no_archive_is_begun_inside_another(inside: str, lake: Path) -> None:
    with pytest.raises(OutputError, match="is inside the archive"):
        await run(lake / inside)

    assert verify(lake).sound


# An older copy of the archive, put back over a newer one.

WHAT = ["_bulkfetch/commits", "line_items", "invoices", "_bulkfetch/headers", ""]


@pytest.fixture
async def copy(lake: Path, tmp_path: Path) -> Path:
    """A copy of the archive; after it was made, A was replaced, with another charge."""
    shutil.copytree(lake, tmp_path / "copy")
    assert await run(lake, tenant(3, "new")) == 0
    return tmp_path / "copy"


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT, ids=[each or "all" for each in WHAT])
@pytest.mark.parametrize("first", ["export", "repair"])
async def test_an_older_copy_that_is_put_back_over_an_archive_counts_nothing_twice(
    what: str, first: str, lake: Path, copy: Path
) -> None:
    shutil.copytree(copy / what, lake / what, dirs_exist_ok=True)
    new = tenant(3, "new")

    if first == "export" and what == "_bulkfetch/headers":
        with pytest.raises(DamagedError, match="`bulkfetch repair` writes it again"):
            await run(lake, new)
    elif first == "export":
        await run(lake, new)
    await mend(lake, new)
    await run(lake, new)

    assert sorted(customers(lake)) == ["b", "b", "new", "new", "new"]
    assert verify(lake, deep=True).exit_code == 0
    assert len(find(lake, "invoices/*.parquet")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT, ids=[each or "all" for each in WHAT])
async def test_a_repair_loses_no_generation_that_an_older_copy_brings_back(
    what: str, lake: Path, copy: Path
) -> None:
    """The service no longer has A: what readers see is one generation, and the other is kept."""
    shutil.copytree(copy / what, lake / what, dirs_exist_ok=True)
    gone = tenant(3, "new")
    del gone.rows["A", *OFFICE]

    await mend(lake, gone)

    seen = [name for name in customers(lake) if name != "b"]
    assert seen in (["old"] * 2, ["new"] * 3)
    kept = [
        *find(lake, f"{SUPERSEDED}/**/*A-*.parquet.old"),
        *find(lake, f"{REFUSED}/**/*A-*.parquet.old"),
    ]
    contents = {pq.ParquetFile(part).read()["customerName"][0].as_py() for part in kept}
    assert contents | set(seen) == {"old", "new"}


async def test_headers_of_invoices_that_are_no_longer_listed_outlive_a_damaged_table(
    lake: Path,
) -> None:
    more = tenant()
    more.invoices.append(invoice("C", OFFICE, totalCharges=0))
    more.rows["C", *OFFICE] = []
    await run(lake, more)  # the table is replaced
    del more.invoices[0]
    for path in find(lake, "invoices/*.parquet"):
        path.write_bytes(b"PAR1 damaged PAR1")

    assert await mend(lake, more) == 0

    (table,) = find(lake, "invoices/*.parquet")
    assert pq.ParquetFile(table).read()["id"].to_pylist() == ["A", "B", "C"]
    assert verify(lake, deep=True).exit_code == 0


async def test_a_pipe_in_the_place_of_the_lock_is_an_error_and_no_wait(lake: Path) -> None:
    lake.joinpath("_bulkfetch/lock").unlink()
    os.mkfifo(lake / "_bulkfetch/lock")

    for command in (run(lake), mend(lake)):
        with pytest.raises(DamagedError, match="lock: a pipe, a socket or a device"):
            await command
    with pytest.raises(DamagedError, match="lock: a pipe, a socket or a device"):
        verify(lake)


async def test_an_output_that_is_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("loop").symlink_to(tmp_path / "loop")

    with pytest.raises(OutputError):
        await run(tmp_path / "loop")


async def test_a_file_that_a_run_takes_over_is_no_warning(lake: Path, copy: Path) -> None:
    shutil.copytree(copy, lake, dirs_exist_ok=True)

    async with serving(tenant(3, "new")) as server:
        report = await export_async(lake, server.settings())

    assert [str(each) for each in report.changed] == ["A office/billing_line_items"]
    assert report.unnamed_files == ()


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
@pytest.mark.parametrize("ending", ["next", "20260101T000000.000000Z.old"])
async def test_something_else_in_the_place_of_an_open_record_stops_its_transfer_alone(
    put: Callable[[Path], None], ending: str, lake: Path
) -> None:
    put(lake / COMMITS / f"A+office+billing_line_items.{ending}")
    changed = tenant(3, "new")
    changed.invoices.append(invoice("C", OFFICE, totalCharges=0))
    changed.rows["C", *OFFICE] = []

    code = await run(lake, changed)

    assert find(lake, "_bulkfetch/commits/C+*.json")
    if put is put_directory:  # it is no file, so it is not listed as a record
        assert code in (0, 1)
    else:
        assert code == 1
        assert customers(lake)[:2] == ["old", "old"]
        assert verify(lake).exit_code == 1
