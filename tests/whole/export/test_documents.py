"""Statements and tax receipts: saved whole, recorded, proved, and refused in plain words where a
user is lacking."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.archived import find_document, find_headers
from support.archived import plain as plain_name
from support.fakes import Sent, answered, bench, one_after_the_other
from support.servers.entra import credentials, entra
from whole.durability.disks import Died, WatchedDisk, counting, dying

from bulkfetch.archive.documents import committed_documents, parse_document
from bulkfetch.archive.layout import (
    ARCHIVE,
    DOCUMENT_COMMITS,
    DOCUMENTS,
    FAILURES,
    SUPERSEDED,
    document_commit_name,
    document_name,
)
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.publishing.settling import open_records
from bulkfetch.archive.sweep import sweep
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.invoices import Invoice, TaxReceipt
from bulkfetch.client import Client
from bulkfetch.errors import (
    DamagedError,
    HttpStatusError,
    MalformedBodyError,
    NotFoundError,
    ServerUnavailableError,
    StorageError,
)
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.runs.documents import export_document, save_document
from bulkfetch.runs.export import export_async
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import Fault, Faults, RunningSandbox, SandboxOptions, serve
from bulkfetch.sandbox.pdf import pdf
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.directories import prepare_directory
from bulkfetch.storage.disk import Disk, LocalStore
from bulkfetch.wire.messages import Answer, Request
from bulkfetch.wire.refusals import needs_user

SMALL = SandboxOptions(invoices=4, line_items=5, amendments=1)
PDF = pdf(["Statement"], seed=1, padding=3000)


def settings_for(sandbox: RunningSandbox, **given: Any) -> Settings:
    return Settings(base_url=sandbox.base_url, token=Secret(sandbox.token), **given)


async def exported(root: Path, options: SandboxOptions = SMALL, **given: Any) -> ExportReport:
    async with serve(options) as sandbox:
        return await export_async(root, settings_for(sandbox), documents=True, **given)


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / DOCUMENTS).iterdir()}


def names_below(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def current_names(root: Path) -> list[str]:
    """The names of all files but those that were replaced."""
    return sorted(set(names_below(root)) - set(names_below(root / SUPERSEDED)))


async def test_statements_and_receipts_lie_beside_the_data_each_with_a_record(
    tmp_path: Path,
) -> None:
    async with serve(SMALL) as sandbox:
        report = await export_async(tmp_path / "lake", settings_for(sandbox), documents=True)
        invoices = sandbox.tenant.invoices
        asked = [
            each for each in sandbox.stats.exchanges if each.path.endswith("/documents/statement")
        ]

    there = files(tmp_path / "lake")
    names = {plain_name(name) for name in there}
    statements = {f"{invoice.id}-statement.pdf" for invoice in invoices}
    receipts = names - statements
    assert statements <= names
    assert len(receipts) == sum(invoice.kind == "OneTime" for invoice in invoices) == 2
    assert all("-receipt-" in name for name in receipts)
    assert all(
        content.startswith(b"%PDF-") and content.endswith(b"%%EOF\n") for content in there.values()
    )
    assert len(asked) == len(report.documents) == len(there)
    for each in report.documents:
        content = there[each.name.name]
        assert (each.size_bytes, each.sha256) == (len(content), sha256(content).hexdigest())
        record = json.loads((tmp_path / "lake" / document_commit_name(each.document)).read_bytes())
        assert (record["invoice_id"], record["sha256"]) == (each.document.invoice_id, each.sha256)
    assert report.complete
    assert f"{len(there)} documents saved" in "\n".join(report.lines())
    verified = verify(tmp_path / "lake", deep=True)
    assert verified.sound
    assert len(verified.documents) == len(there)
    assert f"{len(there)} documents: every line item is" in verified.lines()[-1]


async def test_a_second_run_saves_nothing_again_and_one_without_documents_leaves_them(
    tmp_path: Path,
) -> None:
    await exported(tmp_path / "lake")
    before = files(tmp_path / "lake")

    async with serve(SMALL) as sandbox:
        report = await export_async(tmp_path / "lake", settings_for(sandbox), documents=True)
        assert not [each for each in sandbox.stats.exchanges if "/documents/" in each.path]
        plain = await export_async(tmp_path / "lake", settings_for(sandbox))

    assert (report.documents, len(report.documents_skipped)) == ((), len(before))
    assert plain.documents_skipped == ()
    assert files(tmp_path / "lake") == before


async def test_documents_of_the_selected_invoices_only_are_saved(tmp_path: Path) -> None:
    async with serve(SMALL) as sandbox:
        chosen = sandbox.tenant.invoices[0].id
        selection = Selection(invoices=(chosen,))
        await export_async(
            tmp_path / "lake", settings_for(sandbox), documents=True, selection=selection
        )
    saved = set(map(plain_name, files(tmp_path / "lake")))
    assert saved == {f"{chosen}-statement.pdf"}


@dataclass(slots=True)
class Recording:
    """A Receiver that only notes what it is given."""

    begun: int = 0
    received: list[bytes] = field(default_factory=list)
    kept: int = 0

    def headers(self) -> Mapping[str, str]:
        return {}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun += 1
        self.received.clear()

    def write(self, data: bytes) -> None:
        self.received.append(data)


async def test_a_large_document_comes_in_pieces_and_never_is_in_memory_as_a_whole() -> None:
    options = SandboxOptions(
        invoices=1, details=("office/billing_line_items",), document_bytes=16_000_000
    )
    recording = Recording()
    async with (
        serve(options) as sandbox,
        open_session(settings_for(sandbox), RunStats()) as session,
    ):
        path = Document(sandbox.tenant.invoices[0].id).path
        rest = await session.get(Request(path, receiver=recording), bytes)

    assert rest == b""
    assert recording.begun == 1
    assert sum(map(len, recording.received)) > 16_000_000
    assert max(map(len, recording.received)) < 4_000_000
    assert b"".join(recording.received).endswith(b"%%EOF\n")


async def test_a_document_that_comes_compressed_all_the_same_is_saved_as_what_it_is(
    tmp_path: Path,
) -> None:
    async with bench(
        lambda sent: answered(body=gzip.compress(PDF), content_encoding="gzip")
    ) as there:
        await export_document(Document("D1"), there.session, Publishing(LocalStore(tmp_path)))
    assert (tmp_path / find_document(tmp_path, Document("D1"))).read_bytes() == PDF


# What goes wrong on the way.


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("reset_body", {"share": 0.6}),
        ("close_body", {"share": 0.6}),
        ("status", {"status": 503}),
        ("status", {"status": 429, "retry_after": "1"}),
    ],
)
async def test_a_document_that_breaks_off_is_asked_for_again_and_whole_in_the_end(
    kind: str, given: Mapping[str, Any], tmp_path: Path
) -> None:
    await exported(tmp_path / "clean")
    faults = Faults((Fault(kind, endpoint="document", attempts=1, **given),))

    report = await exported(
        tmp_path / "lake", SandboxOptions(invoices=4, line_items=5, faults=faults)
    )

    assert report.complete
    assert report.retries >= len(report.documents)
    assert files(tmp_path / "lake") == files(tmp_path / "clean")
    assert not list((tmp_path / "lake" / "_bulkfetch" / "staging").glob("*"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not a PDF: 0 bytes"),
        (b'{"code":3000}', "the body is not a PDF"),
        (b"<html>sign in</html>", "an HTML page of a proxy or portal, and not a PDF"),
        (PDF[:-7], "the PDF is cut"),
    ],
)
async def test_what_is_no_whole_pdf_is_not_kept(body: bytes, words: str, tmp_path: Path) -> None:
    async with bench(lambda sent: answered(body=body)) as there:
        with pytest.raises(MalformedBodyError, match=words) as caught:
            await export_document(Document("D1"), there.session, Publishing(LocalStore(tmp_path)))
    assert caught.value.facts is not None
    assert caught.value.facts.attempts == 3
    assert names_below(tmp_path) == []


async def test_a_pdf_is_asked_for_as_one_and_not_compressed(tmp_path: Path) -> None:
    async with bench(one_after_the_other(answered(503), answered(body=PDF))) as there:
        saved = await export_document(
            Document("D/1", "R 2"), there.session, Publishing(LocalStore(tmp_path))
        )
    (first, second) = there.transport.sent
    assert first.request.path == "/invoices/D%2F1/receipts/R%202/documents/statement"
    assert (second.headers["Accept"], second.headers["Accept-Encoding"]) == (
        "application/pdf",
        "identity",
    )
    assert saved.size_bytes == len(PDF)
    assert (tmp_path / find_document(tmp_path, Document("D/1", "R 2"))).read_bytes() == PDF


async def test_an_invoice_without_a_document_is_a_failure_of_that_document_alone(
    tmp_path: Path,
) -> None:
    faults = Faults((Fault("status", status=404, endpoint="document", path="*/receipts/*"),))

    report = await exported(
        tmp_path / "lake", SandboxOptions(invoices=4, line_items=5, faults=faults)
    )

    assert len(report.documents) == 4
    assert not report.complete
    assert [failure.status for failure in report.failures] == [404, 404]
    assert all(failure.line().startswith("FAILED document G") for failure in report.failures)
    lacking = [
        json.loads(line) for line in (tmp_path / "lake" / FAILURES).read_bytes().splitlines()
    ]
    assert {each["document"] for each in lacking} == {"receipt"}
    assert report.to_dict()["documents_failed"] == 2
    assert report.to_dict()["transfers_failed"] == 0
    await exported(tmp_path / "lake")
    assert not (tmp_path / "lake" / FAILURES).exists()


@pytest.mark.parametrize("status", [401, 403])
async def test_an_app_alone_is_told_that_it_takes_a_user_and_no_further_document_is_asked_for(
    status: int, tmp_path: Path
) -> None:
    options = SandboxOptions(invoices=6, line_items=5, app_only_status=status)
    async with entra(tmp_path, options) as there:
        report = await export_async(
            tmp_path / "lake", there.settings(max_in_flight=1), documents=True
        )
        asked = sum(
            count for path, count in there.asked.items() if path.endswith("/documents/statement")
        )

    assert asked == (
        1 if status == 403 else 2
    )  # a 401 may be about the token: once more with a new one
    assert report.rows > 0
    assert not report.documents
    lines = report.lines()
    (refused,) = [line for line in lines if line.startswith("FAILED")]
    assert "an app together with a user only" in refused
    assert "`bulkfetch login`" in refused
    assert "NOT TRIED: 8 documents" in lines
    assert {failure.status for failure in report.failures} == {status, None}


async def test_a_document_that_is_refused_to_a_user_does_not_keep_the_others_from_being_saved(
    tmp_path: Path,
) -> None:
    faults = Faults((Fault("status", status=403, endpoint="document", path="*/receipts/*"),))
    refused_first = Faults(
        (Fault("status", status=403, endpoint="document", times=1), *faults.rules)
    )
    options = SandboxOptions(invoices=4, line_items=5, faults=refused_first)
    async with entra(tmp_path, options) as there:
        settings = there.settings(
            refresh_token=Secret(options.refresh_token), login_file=None, max_in_flight=1
        )
        report = await export_async(tmp_path / "lake", settings, documents=True)

    assert len(report.documents) == 3
    assert {failure.status for failure in report.failures} == {403}
    assert len(report.failures) == 3


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_of_an_app_alone_that_cannot_be_renewed_is_told_the_same(
    status: int, tmp_path: Path
) -> None:
    options = SandboxOptions(invoices=2, line_items=5, app_only_status=status)
    async with entra(tmp_path, options) as there:
        token = await credentials(there.settings()).token()
        async with Client(there.settings(token=Secret(token))) as client:
            invoice, *_ = [each async for each in client.invoices]
            for call in (
                client.invoices.by_id(invoice.id).document,
                client.invoices.by_id(invoice.id).get,
                client.invoices.summaries,
            ):
                with pytest.raises(HttpStatusError) as caught:
                    await call()
                assert caught.value.status == status
            assert await client.invoices.summary()


@pytest.mark.parametrize(
    ("path", "for_users"),
    [
        ("/invoices", False),
        ("/invoices/D1", True),
        ("/invoices/summary", False),
        ("/invoices/summaries", True),
        ("/invoices/D1/lineitems", False),
        ("/invoices/D1/lineitems/Office/BillingLineItems", False),
        ("/invoices/estimates/links", False),
        ("/invoices/D1/documents/statement", True),
        ("/invoices/D1/receipts/5/documents/statement", True),
    ],
)
def test_what_is_for_users_only_is_known_by_its_path(path: str, for_users: bool) -> None:
    assert needs_user(path) is for_users


# An archive with documents.


@pytest.mark.parametrize("what", ["altered", "cut", "missing", "record", "stray"])
async def test_whatever_is_wrong_with_a_document_is_found_and_repaired(
    what: str, tmp_path: Path
) -> None:
    await exported(tmp_path / "lake")
    clean = files(tmp_path / "lake")
    victim = sorted((tmp_path / "lake" / DOCUMENTS).iterdir())[0]
    record = (
        tmp_path
        / "lake"
        / DOCUMENT_COMMITS
        / f"{plain_name(victim.name).removesuffix('.pdf')}.json"
    )
    content = victim.read_bytes()
    if what == "altered":
        victim.write_bytes(content.replace(b"Statement", b"statement"))
    elif what == "cut":
        victim.write_bytes(content[:-10])
    elif what == "missing":
        victim.unlink()
    elif what == "record":
        record.write_bytes(record.read_bytes().replace(b'"sha256": "', b'"sha256": "0'))
    else:
        record.unlink()

    findings = [each.name for each in verify(tmp_path / "lake", files_only=True).findings]
    blamed = record if what == "record" else victim
    assert findings == [str(blamed.relative_to(tmp_path / "lake"))]
    assert not verify(tmp_path / "lake").sound
    async with serve(SMALL) as sandbox:
        report = await repair_async(tmp_path / "lake", settings_for(sandbox))
        asked = [each for each in sandbox.stats.exchanges if not each.path.endswith("/invoices")]
    assert report.sound
    assert len(asked) == (0 if what in ("record", "stray") else 1)  # a record is made again
    assert files(tmp_path / "lake") == clean


async def test_a_plain_export_saves_again_what_is_gone_or_of_another_size(tmp_path: Path) -> None:
    await exported(tmp_path / "lake")
    clean = files(tmp_path / "lake")
    one, two, *_ = sorted((tmp_path / "lake" / DOCUMENTS).iterdir())
    one.unlink()
    two.write_bytes(b"%PDF-")

    report = await exported(tmp_path / "lake")

    assert len(report.documents) == 2
    assert files(tmp_path / "lake") == clean


async def test_a_document_of_an_invoice_that_has_changed_is_saved_again(tmp_path: Path) -> None:
    document = Document("D1", charged=None)
    async with bench(lambda sent: answered(body=PDF)) as there:
        store = LocalStore(tmp_path)
        then = Document("D1", charged=Decimal("5.00"))
        await export_document(then, there.session, Publishing(store))
        assert committed_documents(store, [document])  # what it charges is not known now
        assert committed_documents(store, [Document("D1", charged=Decimal("5.0"))])
        assert not committed_documents(store, [Document("D1", charged=Decimal("6"))])
        (tmp_path / document_commit_name(then)).write_bytes(b"{}")
        assert not committed_documents(store, [then])
        with pytest.raises(DamagedError):
            parse_document(b"{}", document_commit_name(then))


async def test_a_full_disk_ends_the_run_and_leaves_no_half_document(tmp_path: Path) -> None:
    class Full(Disk):
        def sync(self, file: Any) -> None:
            raise OSError(28, "No space left on device")

    async with bench(lambda sent: answered(body=PDF)) as there:
        with pytest.raises(StorageError, match="the disk is full"):
            await export_document(
                Document("D1"), there.session, Publishing(LocalStore(tmp_path, Full()))
            )
    assert names_below(tmp_path) == []


def test_each_invoice_has_a_statement_an_amendment_only_where_it_links_one_and_all_receipts() -> (
    None
):
    invoices = [
        Invoice("A", tax_receipts=(TaxReceipt("1"), TaxReceipt("2"))),
        Invoice("B", amendment_of="A"),
        Invoice("C", amendment_of="A", pdf_download_link="/invoices/C/documents/statement"),
    ]
    assert list(map(str, documents_of(invoices))) == [
        "A statement",
        "A receipt 1",
        "A receipt 2",
        "C statement",
    ]


def test_a_document_that_is_listed_twice_is_saved_once_not_by_two_at_a_time_into_one_file() -> None:
    linked = "/invoices/B/documents/statement"
    invoices = [
        Invoice("A", tax_receipts=(TaxReceipt("1"), TaxReceipt("1", "/again"))),
        Invoice("B", amendment_of="A", pdf_download_link=linked),
        Invoice("B", pdf_download_link=linked),
    ]
    assert list(map(str, documents_of(invoices))) == ["A statement", "A receipt 1", "B statement"]


def test_hostile_ids_stay_files_of_their_own() -> None:
    documents = [
        Document("a"),
        Document("A"),
        Document("../x"),
        Document("A", "1"),
        Document("A-receipt-1"),
        Document(""),
    ]
    names = {str(document_name(document, "0" * 64)).casefold() for document in documents}
    assert len(names) == len(documents)
    assert all(name.startswith("documents/") and name.count("/") == 1 for name in names)


# From Python.


async def test_one_document_can_be_had_or_saved(tmp_path: Path) -> None:
    async with serve(SMALL) as sandbox, Client(settings_for(sandbox)) as client:
        invoice, *_ = [each async for each in client.invoices if each.tax_receipts]
        operations = client.invoices.by_id(invoice.id)
        statement = await operations.document()
        receipt = await operations.document(invoice.tax_receipts[0].id)
        size = await operations.save_document(tmp_path / "mine.pdf")
        with pytest.raises(NotFoundError, match="there is no document"):
            await operations.document("0")
    assert b"Statement of invoice" in statement
    assert b"Tax receipt" in receipt
    assert (tmp_path / "mine.pdf").read_bytes() == statement
    assert size == len(statement)
    assert names_below(tmp_path) == ["mine.pdf"]


async def test_a_document_that_cannot_get_its_name_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    async with bench(lambda sent: answered(body=PDF)) as there:
        with pytest.raises(StorageError, match="taken"):
            await save_document(Document("D1"), there.session, tmp_path / "taken")
    assert names_below(tmp_path) == []


async def test_headers_in_the_archive_have_every_field_of_the_sandboxs(tmp_path: Path) -> None:
    await exported(tmp_path / "lake")
    rows = pq.ParquetFile(tmp_path / "lake" / find_headers(tmp_path / "lake")).read().to_pylist()
    amendment = next(row for row in rows if row["amendment_of"])
    assert (amendment["documentType"], amendment["amendsOf"]) == (
        "adjustment_note",
        amendment["amendment_of"],
    )
    modern = next(
        row for row in rows if row["invoiceType"] == "OneTime" and not row["amendment_of"]
    )
    assert modern["billingPeriodStartDate"] is not None
    assert json.loads(modern["taxReceipts"])[0]["taxReceiptPdfDownloadLink"].endswith(
        "/documents/statement"
    )


@pytest.mark.parametrize("replacing", [False, True])
async def test_a_run_that_dies_at_any_change_of_the_disk_leaves_a_whole_document_or_none(
    replacing: bool, tmp_path: Path
) -> None:
    steps: list[str] = []
    async with bench(lambda sent: answered(body=PDF)) as there:
        now = Document("D1", charged=Decimal(2))

        async def trial(root: Path, disk: Disk) -> None:
            prepare_directory(root, ARCHIVE)
            if replacing:
                await export_document(
                    Document("D1", charged=Decimal(1)), there.session, Publishing(LocalStore(root))
                )
            await export_document(now, there.session, Publishing(LocalStore(root, disk)))

        await trial(tmp_path / "clean", WatchedDisk(counting(steps)))
        for at in range(len(steps)):
            root = tmp_path / str(at)
            with pytest.raises(Died):
                await trial(root, WatchedDisk(dying(at)))
            assert {path.read_bytes() for path in root.rglob("*.pdf")} <= {PDF}
            store = LocalStore(root)
            assert Publishing(store).settle().stuck == {}
            sweep(store, open_records(store))
            assert bool(names_below(root / "documents")) == bool(
                names_below(root / "_bulkfetch" / "documents")
            )
            if not committed_documents(store, [now]):
                await export_document(now, there.session, Publishing(store))
            assert current_names(root) == current_names(tmp_path / "clean")
            assert (root / document_commit_name(now)).read_bytes() == (
                tmp_path / "clean" / document_commit_name(now)
            ).read_bytes()
    assert len(steps) > 8


async def test_a_document_is_not_what_a_failing_server_is_probed_with(tmp_path: Path) -> None:
    """The probe sends a request that was served before once more; a document's would write its file
    again."""

    def answer(sent: Sent) -> Answer:
        return answered(503) if sent.request.path == "/x" else answered(body=PDF)

    async with bench(answer, limit=8) as there:
        await export_document(Document("D1"), there.session, Publishing(LocalStore(tmp_path)))
        before = names_below(tmp_path)
        with pytest.raises((HttpStatusError, ServerUnavailableError)):
            await there.session.get(Request("/x"), bytes)
        assert [sent.request.path for sent in there.transport.sent if sent.request.receiver] == [
            Document("D1").path
        ]
    assert names_below(tmp_path) == before


async def test_a_tax_receipt_that_is_gone_is_missed_and_fetched_by_a_repair(tmp_path: Path) -> None:
    async with serve(SMALL) as sandbox:
        await export_async(tmp_path, settings_for(sandbox), documents=True)
        assert verify(tmp_path).exit_code == 0
        record = next(tmp_path.joinpath(DOCUMENT_COMMITS).glob("*-receipt-*.json"))
        pdf_file = next(tmp_path.joinpath(DOCUMENTS).glob(f"{record.stem}-*.pdf"))
        before = files(tmp_path)
        record.unlink()
        pdf_file.unlink()
        found = [str(each) for each in verify(tmp_path).findings]
        report = await repair_async(tmp_path, settings_for(sandbox))

    receipt = record.stem.replace("-receipt-", " receipt ")
    assert f"document {receipt}: was selected, and is not in the archive" in found
    assert report.sound
    assert files(tmp_path) == before
