"""An invoice that cannot be read fails by name, and keeps no other from being archived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow.dataset import dataset
from support.replay import MadeUp, invoice, serving

from bulkfetch import Selection, export_async, plan_async, repair_async, verify
from bulkfetch.errors import TransferError

OFFICE = ("office", "billing_line_items")
ROW = '{"customerName":"x","totalForCustomer":1}'


def made_up(*odd: Any) -> MadeUp:
    """A tenant with two sound invoices, and odd ones between them."""
    sound = [invoice(name, OFFICE, totalCharges=1) for name in ("A", "Z")]
    rows = {(name, *OFFICE): [ROW] for name in ("A", "B", "N", "Z")}
    return MadeUp([sound[0], *odd, sound[1]], rows)


def without_provider() -> dict[str, Any]:
    odd = invoice("B", OFFICE, totalCharges=1)
    del odd["invoiceDetails"][0]["billingProvider"]
    return odd


def failures_of(output: Path) -> list[dict[str, Any]]:
    path = output / "_bulkfetch" / "failures.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def archived(output: Path) -> list[str]:
    return sorted(dataset(output / "line_items").to_table(["invoice_id"])["invoice_id"].to_pylist())


@pytest.mark.parametrize(
    ("odd", "name", "why"),
    [
        (without_provider(), "B", "a detail without billingProvider"),
        ({**invoice("B", OFFICE), "invoiceDetails": [None]}, "B", "a detail without"),
        ({**invoice("B", OFFICE), "invoiceDetails": {}}, "B", "invoiceDetails that are not a list"),
        ({**invoice("B", OFFICE), "amendments": 5}, "B", "amendments that are not a list"),
        ({**invoice("B", OFFICE), "id": 4711}, "4711", "not an invoice: an object with an `id`"),
        (invoice("", OFFICE), "number 1 of the invoice list", "not an invoice"),
        (None, "number 1 of the invoice list", "not an invoice"),
        ("B", "number 1 of the invoice list", "not an invoice"),
        ([], "number 1 of the invoice list", "not an invoice"),
    ],
)
async def test_an_invoice_that_cannot_be_read_fails_by_name_and_the_others_are_archived(
    tmp_path: Path, odd: Any, name: str, why: str
) -> None:
    async with serving(made_up(odd)) as server:
        report = await export_async(tmp_path, server.settings())

    (failure,) = report.failures
    assert report.exit_code == 1
    assert failure.reason == "odd_invoice"
    assert failure.message.startswith(f"invoice {name} cannot be read: ")
    assert why in failure.message
    assert archived(tmp_path) == ["A", "Z"]
    (kept,) = failures_of(tmp_path)
    assert (kept["invoice_id"], kept["reason"]) == (name, "odd_invoice")
    assert verify(tmp_path).exit_code == 1


@pytest.mark.parametrize("page_size", [1, 50])
@pytest.mark.parametrize("again", [{"totalCharges": 2}, {"invoiceDetails": []}, {"amendments": []}])
async def test_an_invoice_that_is_listed_twice_and_differently_fails_alone(
    tmp_path: Path, page_size: int, again: dict[str, Any]
) -> None:
    note = invoice("N", OFFICE, totalCharges=1)
    one = invoice("B", OFFICE, totalCharges=1, amendments=[note])
    settings = {"invoice_page_size": page_size}
    async with serving(made_up(one)) as server:
        await export_async(tmp_path / "old", server.settings(**settings))
    async with serving(made_up(one, one | again)) as server:
        for folder in (tmp_path / "old", tmp_path / "new"):
            report = await export_async(
                folder, server.settings(**settings), source="a server on this machine"
            )

            assert [(each.transfer.invoice_id, each.reason) for each in report.failures] == [
                ("B", "odd_invoice"),
                ("N", "odd_invoice"),
            ]
            for failure in report.failures:
                assert "'B' twice, with different details or totalCharges" in failure.message
            assert (report.exit_code, report.no_longer_listed) == (1, ())
            assert list((folder / "_bulkfetch" / "staging").glob("*B*")) == []
    assert archived(tmp_path / "old") == ["A", "B", "N", "Z"]
    assert archived(tmp_path / "new") == ["A", "Z"]


async def test_the_next_run_reads_it_again(tmp_path: Path) -> None:
    async with serving(made_up(without_provider(), None)) as server:
        first = await export_async(tmp_path, server.settings())
        assert len(first.failures) == 2
    async with serving(made_up(invoice("B", OFFICE, totalCharges=1))) as server:
        second = await export_async(tmp_path, server.settings(), source="a server on this machine")

    assert second.exit_code == 0
    assert archived(tmp_path) == ["A", "B", "Z"]
    assert failures_of(tmp_path) == []


async def test_an_amendment_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    note = without_provider()
    original = invoice("Y", OFFICE, totalCharges=1, amendments=[note])
    tenant = MadeUp([original], {("Y", *OFFICE): [ROW]})
    async with serving(tenant) as server:
        report = await export_async(tmp_path, server.settings())

    assert [each.transfer.invoice_id for each in report.failures] == ["B"]
    assert archived(tmp_path) == ["Y"]


async def test_an_odd_invoice_that_was_not_asked_for_is_no_failure_of_the_run(
    tmp_path: Path,
) -> None:
    async with serving(made_up(without_provider())) as server:
        await export_async(tmp_path, server.settings())
        only_a = Selection(invoices=("A",))
        report = await export_async(tmp_path, server.settings(), selection=only_a)
        assert report.failures == ()
        assert [each["invoice_id"] for each in failures_of(tmp_path)] == ["B"]
        only_b = Selection(invoices=("B",))
        report = await export_async(tmp_path, server.settings(), selection=only_b)
    assert [each.transfer.invoice_id for each in report.failures] == ["B"]


async def test_a_repair_fetches_an_invoice_that_has_become_readable(tmp_path: Path) -> None:
    async with serving(made_up(without_provider(), None)) as server:
        await export_async(tmp_path, server.settings())
        unread = await repair_async(tmp_path, server.settings())
    assert (unread.sound, unread.exit_code) == (False, 1)
    assert len(failures_of(tmp_path)) == 2
    assert "nothing is faulty" not in str(unread.lines())
    now = made_up(invoice("B", OFFICE, totalCharges=1), invoice("C", OFFICE, totalCharges=1))
    now.rows["C", *OFFICE] = [ROW]
    async with serving(now) as server:
        report = await repair_async(tmp_path, server.settings(), source="a server on this machine")
        again = await repair_async(tmp_path, server.settings(), source="a server on this machine")

    assert (report.sound, report.exit_code) == (True, 0)
    assert archived(tmp_path) == ["A", "B", "C", "Z"]
    assert failures_of(tmp_path) == []
    assert again.export is None
    assert "nothing is faulty and nothing is missing" in again.lines()[-1]


async def test_a_repair_of_what_became_readable_keeps_to_what_was_selected(tmp_path: Path) -> None:
    selection = Selection(providers=("office",))
    odd = without_provider()
    async with serving(made_up(odd)) as server:
        await export_async(tmp_path, server.settings(), selection=selection)
    azure = ("azure", "billing_line_items")
    now = made_up(invoice("B", OFFICE, azure, totalCharges=1))
    now.rows["B", *azure] = [ROW]
    async with serving(now) as server:
        report = await repair_async(tmp_path, server.settings())

    assert report.sound
    assert archived(tmp_path) == ["A", "B", "Z"]


async def test_parts_are_not_planned_around_an_invoice_that_cannot_be_read() -> None:
    async with serving(made_up(without_provider())) as server:
        with pytest.raises(TransferError, match=r"B \(.*billingProvider.*select the invoices"):
            await plan_async(server.settings())
        parts = await plan_async(server.settings(), invoices=["A", "Z"])
    assert [part.transfer.invoice_id for part in parts] == ["A", "Z"]
