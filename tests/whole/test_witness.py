"""The invoice has a vote: each rule, with its exit code and message, over a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from support.replay import CONTINUATION, Asked, MadeUp, folded, invoice, page, serving

from bulkfetch.runs.export import export_async
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.verify import verify

BILLING = "billing_line_items"
OFFICE = ("office", BILLING)
ONE_TIME = ("one_time", BILLING)
COLUMN = {"azure": "postTaxTotal"}


def rows(count: int, amount: str = "1", provider: str = "office", name: str = "c") -> list[str]:
    column = COLUMN.get(provider, "totalForCustomer")
    return [f'{{"customerName":"{name}{n}","{column}":{amount}}}' for n in range(count)]


@dataclass(slots=True)
class Tenant(MadeUp):
    """A tenant that gives other rows of a detail each time it is asked; the last ones stay."""

    answers: dict[tuple[str, str, str], list[list[str]]] = field(default_factory=dict)
    walks: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Any:
        for key, answers in self.answers.items():
            if asked.detail == (key[0], folded(key[1]), folded(key[2])):
                if not asked.offset and not asked.token:
                    self.walks[key] = self.walks.get(key, 0) + 1
                self.rows[key] = answers[min(self.walks[key], len(answers)) - 1]
        return super(Tenant, self).__call__(asked)


def tenant(
    charged: float, answers: dict[tuple[str, str], list[list[str]]], **fields: Any
) -> Tenant:
    header = invoice("D1", *answers, totalCharges=charged, **fields)
    named = {("D1", *detail): each for detail, each in answers.items()}
    return Tenant([header], {}, answers=named)


async def exported(root: Path, made_up: Tenant, **options: Any) -> ExportReport:
    async with serving(made_up) as server:
        return await export_async(root, server.settings(page_size=10), **options)


def names(root: Path, pattern: str = "line_items/**/*.parquet") -> list[str]:
    files = sorted(root.glob(pattern))
    return [
        name for file in files for name in pq.ParquetFile(file).read()["customerName"].to_pylist()
    ]


@pytest.mark.parametrize(("charged", "times"), [(10, 1), (11, 2)])
@pytest.mark.parametrize("detail", [OFFICE, ONE_TIME])
async def test_an_empty_page_after_a_next_is_an_end_if_the_invoice_or_a_second_answer_says_so(
    detail: tuple[str, str], charged: int, times: int, tmp_path: Path
) -> None:
    made_up = tenant(charged, {detail: [rows(10)]})
    made_up.interrupt = name_a_page_beyond(made_up)

    async with serving(made_up) as server:
        report = await export_async(tmp_path, server.settings(page_size=10))
        last = [each for each in server.requests if each.offset == 10 or each.token]

    assert len(names(tmp_path)) == 10
    assert list(map(str, report.ended_empty)) == [f"D1 {'/'.join(detail)}"]
    assert any(" ends in an empty page " in line for line in report.lines())
    assert len(last) == times


async def test_an_empty_page_that_was_empty_for_a_moment_is_no_end(tmp_path: Path) -> None:
    made_up = tenant(25, {ONE_TIME: [rows(25)]})
    seen: list[Asked] = []

    def interrupt(asked: Asked) -> web.Response | None:
        seen.append(asked)
        is_first = [each.token for each in seen].count("20") == 1
        return page(b'{"totalCount":0,"items":[]}') if asked.token == "20" and is_first else None

    made_up.interrupt = interrupt

    report = await exported(tmp_path, made_up)

    assert (len(names(tmp_path)), report.ended_empty, report.exit_code) == (25, (), 0)


def name_a_page_beyond(made_up: Tenant) -> Callable[[Asked], web.Response | None]:
    """Answer the first page with a link to another, which is empty."""

    def interrupt(asked: Asked) -> web.Response | None:
        if asked.is_list:
            return None
        if asked.offset or asked.token:
            return page(b'{"totalCount":0,"items":[]}')
        (items,) = (each for each in made_up.rows.values())
        link = {"uri": "/x?size=10&offset=10", "headers": [{"key": CONTINUATION, "value": "10"}]}
        if asked.provider == "office":
            link.pop("headers")
        body = (
            f'{{"totalCount":10,"items":[{",".join(items)}],"links":{json.dumps({"next": link})}}}'
        )
        return page(body.encode())

    return interrupt


async def test_a_tolerance_can_be_set(tmp_path: Path) -> None:
    made_up = tenant(30.1, {OFFICE: [rows(30)]})
    async with serving(made_up) as server:
        settings = server.settings(money_tolerance="0.1")
        report = await export_async(tmp_path, settings)

    assert report.reconciliations[0].verdict is Verdict.WITHIN_ROUNDING
    assert report.exit_code == 0
    assert verify(tmp_path).exit_code == 4
    assert verify(tmp_path, money_tolerance="0.1").exit_code == 0
