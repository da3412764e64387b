from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bulkfetch.failures import keep_failures
from bulkfetch.layout import FAILURES
from bulkfetch.plan import Transfer
from bulkfetch.report import Failure
from bulkfetch.store import LocalStore

D1, D2, D3 = (Transfer(identifier, "office", "billing_line_items") for identifier in ("D1", "D2", "D3"))


def keep(root: Path, *failed: Transfer, planned: tuple[Transfer, ...], committed: tuple[Transfer, ...] = ()) -> None:
    failures = [Failure(transfer, "http_status", "it failed", status=500) for transfer in failed]
    keep_failures(LocalStore(root), failures, planned=planned, is_committed=lambda each: each in committed, at="now")


def kept(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / FAILURES).read_text().splitlines()]


def test_a_failure_is_a_line_of_json(tmp_path: Path) -> None:
    keep(tmp_path, D1, planned=(D1, D2))
    (line,) = kept(tmp_path)
    assert (line["at"], line["invoice_id"], line["status"], line["message"]) == ("now", "D1", 500, "it failed")


def test_an_archive_that_lacks_nothing_has_no_such_file(tmp_path: Path) -> None:
    keep(tmp_path, planned=(D1,))
    assert not (tmp_path / FAILURES).exists()
    keep(tmp_path, D1, planned=(D1,))
    keep(tmp_path, planned=(D1,), committed=(D1,))
    assert not (tmp_path / FAILURES).exists()


def test_what_an_earlier_run_failed_at_stays_until_it_is_committed(tmp_path: Path) -> None:
    keep(tmp_path, D1, D2, planned=(D1, D2))
    keep(tmp_path, D3, planned=(D3,), committed=(D2,))
    assert [line["invoice_id"] for line in kept(tmp_path)] == ["D1", "D3"]


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / FAILURES
    path.parent.mkdir()
    path.write_bytes(b'{"invoice_id": 5}\n[]\n{"inv\xff\n')
    keep(tmp_path, D1, planned=(D1,))
    assert len(kept(tmp_path)) == 1
