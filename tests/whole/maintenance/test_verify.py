from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from random import Random

import anyio
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.archived import find_headers, plain
from support.replay import MadeUp, invoice, serving

from bulkfetch.archive.commits import Commit, CommittedPart, parse_commit
from bulkfetch.archive.headers import HeadersCommit
from bulkfetch.archive.layout import ARCHIVE, FAILURES, HEADERS_COMMIT, LOCK, commit_name, part_name
from bulkfetch.errors import OutputError
from bulkfetch.maintenance.verify import VerifyReport, verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore

OPTIONS = SandboxOptions(invoices=4, line_items=60, unreconciled=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    """Export a sandbox tenant, every transfer in several parts."""
    root = tmp_path_factory.mktemp("archive")

    async def export() -> ExportReport:
        async with serve(OPTIONS) as sandbox:
            run = Settings(
                base_url=sandbox.base_url,
                token=Secret(sandbox.token),
                part_rows=25,
                row_group_rows=10,
            )
            return await export_async(root, run)

    return root, anyio.run(export)


@pytest.fixture
def archive(exported: tuple[Path, ExportReport], tmp_path: Path) -> Path:
    """Copy the archive, to be damaged."""
    return Path(shutil.copytree(exported[0], tmp_path / "archive"))


def parts(root: Path) -> list[Path]:
    return sorted(root.glob("line_items/**/*.parquet"))


def commits(root: Path) -> list[Path]:
    return sorted(root.glob("_bulkfetch/commits/*.json"))


def found(root: Path) -> dict[str, str]:
    """Verify the files, and name what is wrong with each."""
    report = verify(root, deep=True, files_only=True)
    assert report.sound is (not report.findings)
    assert all(line.isprintable() for line in report.lines())
    return {finding.name: finding.what for finding in report.findings}


def named(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def test_a_clean_archive_is_sound_and_counted(exported: tuple[Path, ExportReport]) -> None:
    root, report = exported

    verified = verify(root, deep=True)

    assert verified.sound
    assert verified.findings == ()
    assert verified.usage == ()
    assert (verified.transfers, verified.rows) == (len(report.committed), report.rows)
    assert (verified.parts, verified.size_bytes) == (len(parts(root)), report.size_bytes)
    assert verified.lines()[-1].endswith("every line item is what its commit says")
    assert verify(root).lines()[-1].endswith("every file is what its commit says")
    assert json.loads(orjson.dumps(verified.to_dict()))["sound"] is True


def test_verify_reconciles_as_the_export_did(exported: tuple[Path, ExportReport]) -> None:
    root, report = exported

    verified = {each.invoice_id: each for each in verify(root).reconciliations}

    assert verified == {each.invoice_id: each for each in report.reconciliations}
    assert sorted(each.verdict.value for each in verified.values()) == [*["agrees"] * 4, "differs"]


def test_amounts_are_shown_without_a_tail_of_zeros(exported: tuple[Path, ExportReport]) -> None:
    verified = verify(exported[0])

    (line,) = [line for line in verified.lines() if line.startswith("DIFFERS")]
    assert not line.endswith("0000")
    assert "0000" not in json.dumps(verified.to_dict()["reconciliation"])


@pytest.mark.slow
def test_a_bit_that_flips_anywhere_in_a_part_is_found(archive: Path) -> None:
    random = Random(7)

    for _ in range(100):
        path = random.choice(parts(archive))
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        assert found(archive) == {
            named(archive, path): "its sha256 is not that of its commit: it was altered"
        }
        path.write_bytes(content)

    assert found(archive) == {}


@pytest.mark.slow
def test_a_bit_that_flips_anywhere_in_a_commit_or_the_headers_is_found(archive: Path) -> None:
    random = Random(11)

    for _ in range(100):
        path = random.choice(
            [*commits(archive), table_of(archive), archive / HEADERS_COMMIT, archive / ARCHIVE]
        )
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        assert named(archive, path) in found(archive)
        path.write_bytes(content)

    assert found(archive) == {}


@pytest.mark.parametrize("keep", [0, 1, 100, -9, -1])
def test_a_part_that_was_cut_is_found(keep: int, archive: Path) -> None:
    path = parts(archive)[3]
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])

    assert found(archive) == {
        named(archive, path): f"has {len(whole[:keep])} bytes, its commit says {len(whole)}"
    }


def test_a_part_that_grew_is_found(archive: Path) -> None:
    path = parts(archive)[0]
    path.write_bytes(path.read_bytes() + b"\0")

    assert list(found(archive)) == [named(archive, path)]


def test_a_part_that_is_gone_is_found(archive: Path) -> None:
    path = parts(archive)[0]
    path.unlink()

    assert found(archive)[named(archive, path)] == "is missing"
    assert len(found(archive)) == 1


def test_two_parts_that_changed_places_are_found(archive: Path) -> None:
    one, two = parts(archive)[:2]
    swap(one, two)

    assert set(found(archive)) == {named(archive, one), named(archive, two)}


def swap(one: Path, two: Path) -> None:
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)


def test_two_commits_that_changed_places_are_found(archive: Path) -> None:
    one, two = commits(archive)[:2]
    swap(one, two)

    assert set(found(archive)) == {named(archive, one), named(archive, two)}


@pytest.mark.parametrize(
    "stray",
    [
        "line_items/provider=office/line_item_type=billing_line_items/X-00000.parquet",
        "line_items/provider=office/line_item_type=billing_line_items/part.parquet",
        "line_items/provider=office/notes.txt",
        "line_items/x.parquet",
        "line_items/.hidden.parquet",
        "invoices/part-00001.parquet",
        "invoices/notes.txt",
        "copy.parquet",
        "_bulkfetch/staging/x.parquet",
    ],
)
def test_a_file_that_readers_see_and_no_commit_names_is_found(stray: str, archive: Path) -> None:
    path = archive / stray
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(parts(archive)[0], path)

    assert found(archive) == {
        stray: "no record names this file, yet readers see it; "
        "if `bulkfetch repair` leaves it there, move it out of the archive"
    }


@pytest.mark.parametrize(
    "harmless", ["README.txt", "line_items/.DS_Store", "_bulkfetch/staging/x.part"]
)
def test_a_file_that_readers_do_not_see_is_no_matter(harmless: str, archive: Path) -> None:
    archive.joinpath(harmless).write_bytes(b"")

    assert found(archive) == {}


def test_a_commit_that_is_gone_leaves_strays(archive: Path) -> None:
    path = commits(archive)[0]
    gone = [part["name"] for part in orjson.loads(path.read_bytes())["parts"]]
    path.unlink()

    assert set(found(archive)) == set(gone)


def test_a_damaged_commit_is_found_and_its_parts_are_not_blamed(archive: Path) -> None:
    path = commits(archive)[0]
    path.write_bytes(path.read_bytes().replace(b'"rows": 60', b'"rows": 61'))

    assert list(found(archive)) == [named(archive, path)]
    assert "run `bulkfetch repair`" in found(archive)[named(archive, path)]


def rewrite(archive: Path, change: Callable[[Commit], Commit]) -> Commit:
    """Replace the first commit of office billing rows by another valid one, as a fault in a writer
    would."""
    path = next(path for path in commits(archive) if "+office+" in path.name)
    commit = parse_commit(path.read_bytes(), path.relative_to(archive))  # type: ignore[arg-type]  # as good here
    changed = change(commit)
    path.write_bytes(changed.to_json())
    return commit


def with_part(
    commit: Commit, number: int, change: Callable[[CommittedPart], CommittedPart]
) -> Commit:
    changed = [change(part) if place == number else part for place, part in enumerate(commit.parts)]
    return replace(commit, parts=tuple(changed))


def test_a_commit_that_counts_more_rows_than_there_are_is_found(archive: Path) -> None:
    commit = rewrite(archive, lambda each: replace(each, rows=each.rows + 1))

    assert found(archive) == {str(commit.transfer): "its parts hold 60 rows, its commit says 61"}


def test_a_commit_that_miscounts_a_part_is_found(archive: Path) -> None:
    commit = rewrite(
        archive, lambda each: with_part(each, 2, lambda part: replace(part, rows=part.rows + 1))
    )

    assert found(archive)[commit.parts[2].name] == "has 10 rows, its commit says 11"


def test_a_gap_between_parts_is_found(archive: Path) -> None:
    commit = rewrite(
        archive,
        lambda each: with_part(each, 1, lambda part: replace(part, first_line=part.first_line + 1)),
    )

    findings = list(map(str, verify(archive).findings))
    assert f"{commit.parts[1].name}: starts at line 26 where 25 was due" in findings


def test_a_commit_without_one_of_its_parts_is_damaged(archive: Path) -> None:
    rewrite(archive, lambda each: replace(each, parts=(each.parts[0], each.parts[2])))

    assert any("is not the name of a part of" in what for what in found(archive).values())


def test_a_wrong_total_is_found(archive: Path) -> None:
    commit = rewrite(archive, lambda each: replace(each, total=(each.total or Decimal(0)) + 1))

    assert "its rows add up to" in found(archive)[str(commit.transfer)]


def replaced(archive: Path, change: Callable[[pa.Table], pa.Table]) -> str:
    """Replace a part by other rows, and let its commit vouch for them, as a fault in a writer
    would."""
    commit = rewrite(archive, lambda each: each)
    path = archive / commit.parts[1].name
    table = change(pq.ParquetFile(path).read())
    path.unlink()
    name = put_part(archive, 1, written(table), rows=table.num_rows)
    return found(archive)[name]


def written(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return bytes(buffer.getvalue())


def put_part(archive: Path, number: int, content: bytes, **facts: int) -> str:
    """Put a part into the archive, and let a commit name it; return its name."""
    digest = sha256(content).hexdigest()
    names = []

    def change(commit: Commit) -> Commit:
        name = str(part_name(commit.transfer, number, digest))
        names.append(name)
        size = len(content)
        return with_part(
            commit,
            number,
            lambda part: replace(part, name=name, size_bytes=size, sha256=digest, **facts),
        )

    rewrite(archive, change)
    archive.joinpath(names[0]).write_bytes(content)
    return names[0]


def column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), values)


def test_rows_in_another_order_are_found(archive: Path) -> None:
    what = replaced(archive, lambda table: table.take(list(reversed(range(table.num_rows)))))

    assert what == "its line numbers are not contiguous from 25 on"


def test_a_row_that_stands_twice_is_found(archive: Path) -> None:
    what = replaced(archive, lambda table: table.take([0, 0, *range(2, table.num_rows)]))

    assert what == "its line numbers are not contiguous from 25 on"


def test_rows_of_another_invoice_are_found(archive: Path) -> None:
    what = replaced(
        archive,
        lambda table: column(table, "invoice_id", pa.array(["X"] * table.num_rows, pa.string())),
    )

    assert what.startswith("holds rows of another invoice than ")


def test_another_schema_is_found(archive: Path) -> None:
    what = replaced(archive, lambda table: table.drop_columns(["currency"]))

    assert what == "has another schema than its line-item type"


def test_something_that_is_no_parquet_is_found_even_if_its_commit_vouches_for_it(
    archive: Path,
) -> None:
    commit = rewrite(archive, lambda each: each)
    archive.joinpath(commit.parts[0].name).unlink()

    name = put_part(archive, 0, b"")
    assert "cannot be read as Parquet" in found(archive)[name]


def table_of(archive: Path) -> Path:
    return archive / find_headers(archive)


def test_headers_that_are_gone_are_found(archive: Path) -> None:
    path = table_of(archive)
    path.unlink()

    assert "is damaged (it is missing)" in found(archive)[named(archive, path)]
    (archive / HEADERS_COMMIT).unlink()
    assert found(archive) == {str(HEADERS_COMMIT): "is missing; the next export writes it again"}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all"])
def test_damaged_headers_are_found(content: bytes, archive: Path) -> None:
    table_of(archive).write_bytes(content)

    assert "is damaged" in found(archive)[named(archive, table_of(archive))]


def on_record(archive: Path, table: pa.Table) -> str:
    """Replace the headers by others, and put them on record, as a fault in a writer would."""
    content = written(table)
    commit = HeadersCommit(table.num_rows, len(content), sha256(content).hexdigest())
    table_of(archive).unlink()
    archive.joinpath(commit.name).write_bytes(content)
    (archive / HEADERS_COMMIT).write_bytes(commit.to_json())
    return str(commit.name)


def test_a_header_that_was_altered_is_found_and_where_it_is_on_record_no_longer_agrees(
    archive: Path,
) -> None:
    path = table_of(archive)
    table = pq.ParquetFile(path).read()
    charges = pc.add(table.column("totalCharges").cast(pa.decimal128(28, 2)), Decimal("5.00"))
    altered = column(table, "totalCharges", charges.cast(pa.decimal128(38, 24)))
    pq.write_table(altered, path)
    assert "its sha256 is not the one in" in found(archive)[named(archive, path)]

    on_record(archive, altered)

    verified = verify(archive)
    assert verified.sound
    verdicts = {each.verdict for each in verified.reconciliations}
    assert verdicts == {Verdict.DIFFERS, Verdict.RULE_NOT_CONFIRMED}
    assert verified.exit_code == 4


def test_a_header_that_is_lacking_is_found(archive: Path) -> None:
    table = pq.ParquetFile(table_of(archive)).read()
    name = on_record(archive, table.slice(1))

    assert found(archive) == {
        name: f"lacks invoice {table['id'][0].as_py()!r}, which has line items; `bulkfetch repair` "
        "takes it from the service's list or from an earlier table"
    }


def test_headers_of_another_schema_are_found(archive: Path) -> None:
    table = pq.ParquetFile(table_of(archive)).read()
    name = on_record(archive, table.drop_columns(["links"]))

    assert found(archive) == {name: "has another schema than invoice headers have"}


# Whether it is complete.


def lacking(root: Path) -> list[str]:
    return [str(finding) for finding in verify(root).findings if finding.is_lacking]


def test_what_was_selected_and_is_not_there_is_missing(archive: Path) -> None:
    commit = next(path for path in commits(archive) if "+office+" in path.name)
    for part in orjson.loads(commit.read_bytes())["parts"]:
        archive.joinpath(part["name"]).unlink()
    commit.unlink()

    assert found(archive) == {}
    (what,) = lacking(archive)
    assert what.endswith("office/billing_line_items: was selected, and is not in the archive")
    assert any("are gone since the last run" in str(each) for each in verify(archive).findings)


async def test_what_lies_outside_of_all_selections_is_a_line_and_no_fault(tmp_path: Path) -> None:
    async with serve(OPTIONS) as sandbox:
        run = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
        office = Selection(providers=("office",))
        await export_async(tmp_path, run, selection=office)
        report = verify(tmp_path)
        assert report.sound
        assert report.not_exported
        assert any(line.startswith("not exported: ") for line in report.lines())

        await export_async(tmp_path, run, selection=Selection(providers=("azure",)))
        azure = next(path for path in commits(tmp_path) if "+azure+" in path.name)
        azure.unlink()
    assert any("azure/" in each for each in lacking(tmp_path))


def test_an_open_failure_and_an_open_record_count_as_missing(archive: Path) -> None:
    failure = {"invoice_id": "D1", "provider": "office", "line_item_type": "billing_line_items"}
    archive.joinpath(FAILURES).write_bytes(orjson.dumps({**failure, "message": "refused"}) + b"\n")
    record = commits(archive)[0]
    record.with_suffix(".next").write_bytes(record.read_bytes())

    findings = list(map(str, verify(archive).findings))

    assert "D1 office/billing_line_items: a run failed at it: refused" in findings
    assert any(
        "is not finished; the next export or repair finishes it, or says" in each
        for each in findings
    )
    assert verify(archive).exit_code == 1
    record.with_suffix(".next").unlink()
    assert verify(archive, files_only=True).sound


@pytest.mark.parametrize("made", ["nothing", "a directory", "a file"])
def test_what_is_no_archive_is_an_error(made: str, tmp_path: Path) -> None:
    path = tmp_path / "lake"
    if made == "a directory":
        path.mkdir()
    if made == "a file":
        path.write_bytes(b"")

    with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
        verify(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"{", "is damaged"), (b"[]", "is damaged"), (b"", "is damaged"), (None, "is missing")],
)
def test_an_archive_file_that_is_damaged_or_gone_is_found(
    content: bytes | None, what: str, archive: Path
) -> None:
    (archive / ARCHIVE).unlink()
    if content is not None:
        (archive / ARCHIVE).write_bytes(content)

    assert what in found(archive)[str(ARCHIVE)]
    assert len(found(archive)) == 1


def test_an_archive_of_a_later_version_is_an_error(archive: Path) -> None:
    (archive / ARCHIVE).write_bytes(b'{"format_version":3}')

    with pytest.raises(OutputError, match="format version 3; this bulkfetch reads and writes"):
        verify(archive)


async def verified(tenant: MadeUp, root: Path) -> VerifyReport:
    async with serving(tenant) as server:
        report = await export_async(root, server.settings())
    assert report.complete
    return verify(root, deep=True)


def usage(subscription: str, resource: str, quantity: str) -> str:
    ids = f'"subscriptionId":"{subscription}","resourceGuid":"{resource}"'
    return f'{{{ids},"consumedQuantity":{quantity}}}'


AZURE = [("azure", "billing_line_items"), ("azure", "usage_line_items")]


@pytest.mark.parametrize(
    ("used", "differing"),
    [
        ([("S", "R", "0.1"), ("S", "R", "0.2"), ("S", "Q", "7")], None),
        ([("S", "R", "0.1"), ("S", "Q", "7")], 1),
        ([("S", "R", "0.3"), ("S", "Q", "7.000000000000000000000001")], None),
        ([("S", "R", "0.3"), ("S", "Q", "7.00001")], 1),
        ([("S", "R", "0.3"), ("S", "Q", "7"), ("T", "Q", "0")], 1),
        ([], 2),
    ],
)
async def test_usage_that_does_not_add_up_to_what_is_billed_is_reported(
    used: list[tuple[str, str, str]], differing: int | None, tmp_path: Path
) -> None:
    billed = [usage("S", "R", "0.3"), usage("S", "Q", "7")]
    tenant = MadeUp(
        [invoice("A", *AZURE)],
        {("A", *AZURE[0]): billed, ("A", *AZURE[1]): [usage(*each) for each in used]},
    )

    report = await verified(tenant, tmp_path)

    assert report.sound
    if differing is None:
        assert (report.usage, report.exit_code) == ((), 0)
    else:
        (said,) = report.usage
        assert report.exit_code == 4
        assert f"quantities differ for {differing} of " in said
        assert f"DIFFERS {said}" in report.lines()


async def test_a_pair_that_is_missing_on_one_side_differs_whatever_the_quantity(
    tmp_path: Path,
) -> None:
    billed = [usage("S", "R", "0"), '{"subscriptionId":"S","resourceGuid":"Q"}']
    tenant = MadeUp([invoice("A", *AZURE)], {("A", *AZURE[0]): billed, ("A", *AZURE[1]): []})

    assert (await verified(tenant, tmp_path)).usage == (
        "invoice A: azure usage and billing quantities differ for 2 of 2 (subscription, resource) "
        "pairs, first ('S', 'Q'): none used, 0.00 billed",
    )


async def test_charges_that_cannot_be_compared_say_so(tmp_path: Path) -> None:
    office = ("office", "billing_line_items")
    tenant = MadeUp(
        [invoice("A", office), invoice("B", totalCharges=5), invoice("C", office, totalCharges=5)],
        {("A", *office): [], ("C", *office): ['{"totalForCustomer":"5,00"}']},
    )

    report = await verified(tenant, tmp_path)

    assert {each.invoice_id: each.why for each in report.reconciliations} == {
        "A": "the header has no totalCharges",
        "B": "it has no details with charges",
        "C": "some charges are not numbers",
    }
    assert any(line.endswith(": 3 not comparable") for line in report.lines())


async def test_an_archive_of_no_invoices_is_sound(tmp_path: Path) -> None:
    report = await verified(MadeUp([], {}), tmp_path)

    assert report.sound
    assert (report.transfers, report.rows, report.reconciliations) == (0, 0, ())
    assert tmp_path.joinpath(LOCK).exists()


def test_the_same_export_again_mends_a_part_that_was_cut(archive: Path) -> None:
    path = parts(archive)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "`bulkfetch repair` fetches again what is faulty" in verify(archive).lines()[-1]

    async def again() -> ExportReport:
        async with serve(OPTIONS) as sandbox:
            run = Settings(
                base_url=sandbox.base_url,
                token=Secret(sandbox.token),
                part_rows=25,
                row_group_rows=10,
            )
            return await export_async(archive, run)

    report = anyio.run(again)

    assert [commit_name(commit.transfer).name for commit in report.committed] == [
        f"{plain(path.name)[:-14]}+azure+billing_line_items.json"
    ]
    assert path.read_bytes() == whole
    assert found(archive) == {}


@pytest.mark.slow
def test_a_thousand_alterations_of_any_file_are_found_one_by_one(archive: Path) -> None:
    random = Random(13)
    files = sorted(
        [
            *parts(archive),
            *commits(archive),
            table_of(archive),
            archive / HEADERS_COMMIT,
            archive / ARCHIVE,
        ]
    )
    sizes = [path.stat().st_size for path in files]

    for number in range(1000):
        (path,) = random.choices(
            files, sizes if number % 2 else None
        )  # half of them anywhere, half in any file
        content = path.read_bytes()
        place = random.randrange(len(content))
        change = bytes([content[place] ^ random.randrange(1, 256)]) + content[place + 1 :]
        path.write_bytes(content[:place] + random.choice([b"", change]))
        assert not verify(archive).sound, (path, place)
        path.write_bytes(content)

    assert verify(archive, deep=True).findings == ()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(archive: Path, width: int) -> None:
    parts(archive)[0].unlink()

    lines = verify(archive).lines(width)

    assert [line for line in lines if len(line) > width and " " in line.strip()] == []
    assert "1 faulty" in " ".join(" ".join(lines).split())
    assert any(line.startswith("  detail  ") for line in lines) == (width >= 80)


def test_a_report_is_short_where_a_notebook_shows_it(archive: Path) -> None:
    verified = verify(archive)
    assert repr(verified).startswith("<VerifyReport of ")
    assert ": 0 faults, exit code " in repr(verified)
    assert len(repr(verified)) < 200 + len(str(archive))


def test_an_archive_that_is_written_to_meanwhile_says_so(archive: Path) -> None:
    assert not verify(archive).being_written
    parts(archive)[0].unlink()

    with LocalStore(archive).locked(LOCK):
        verified = verify(archive)

    assert verified.being_written
    for line in (verified.lines()[0], verified.lines()[-1]):
        assert line.startswith("A run is writing to this archive")
    assert "`bulkfetch repair`" in verify(archive).lines()[-1]
