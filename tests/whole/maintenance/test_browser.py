"""The page of an archive in a real Chromium: what it asks for, what it shows, and how it is laid
out."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest
from support.page.browser import Browser, Tab, find_browser, opened, running_browser
from support.page.figures import AT, figures
from support.page.htmltree import amount_of
from support.replay import MadeUp, invoice, serving

from bulkfetch.cli import main
from bulkfetch.html.history import History, Pace, Step
from bulkfetch.html.page import make_page
from bulkfetch.runs.export import export_async

pytestmark = pytest.mark.slow

OFFICE, AZURE = ("office", "billing_line_items"), ("azure", "billing_line_items")
TABLES = """
Object.fromEntries([...document.querySelectorAll('table')].map(table => [
  table.caption.textContent,
  [...table.rows].map(row => [...row.cells].map(cell => cell.innerText)),
]))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        if os.environ.get("CI_NEEDS_CHROMIUM"):
            pytest.fail("there is no Chromium, and CI_NEEDS_CHROMIUM wants one")
        pytest.skip("needs Chromium")
    with running_browser(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


def rows(*amounts: str, total: str) -> list[str]:
    return [f'{{"customerName":"c","{total}":{amount}}}' for amount in amounts]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invoices of five months and two currencies: a credit, a month without any, a difference."""
    office, azure = "totalForCustomer", "postTaxTotal"
    dated = [f"2024-{month:02d}-08T00:00:00Z" for month in range(1, 6)]
    tenant = MadeUp(
        [
            invoice("D1", OFFICE, AZURE, totalCharges=1500.75, invoiceDate=dated[0]),
            invoice("D2", OFFICE, AZURE, totalCharges=700, invoiceDate=dated[1]),
            invoice("D4", OFFICE, totalCharges=10.03, invoiceDate=dated[3]),
            invoice("D5", OFFICE, totalCharges=9, invoiceDate=dated[4]),
            invoice("J5", OFFICE, totalCharges=70000, currencyCode="JPY", invoiceDate=dated[4]),
        ],
        {
            ("D1", *OFFICE): rows("1000.25", total=office),
            ("D1", *AZURE): rows("500.5", total=azure),
            ("D2", *OFFICE): rows("1000", total=office),
            ("D2", *AZURE): rows("-300", total=azure),
            ("D4", *OFFICE): rows("5.015", "5.015", total=office),
            ("D5", *OFFICE): rows("8", total=office),
            ("J5", *OFFICE): rows("70000", total=office),
        },
    )
    root = tmp_path_factory.mktemp("browser") / "lake"

    async def export() -> None:
        async with serving(tenant) as server:
            await export_async(root, server.settings())

    anyio.run(export)
    return root


@pytest.fixture
def page(lake: Path, tmp_path: Path) -> Path:
    file = tmp_path / "page.html"
    assert main(["report", str(lake), "--html", str(file)]) == 4
    return file


def facts_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    main([*words, "--json"])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_the_page_asks_for_nothing_but_itself(browser: Browser, page: Path) -> None:
    with opened(browser, page.as_uri()) as tab:
        assert tab.requests == [page.as_uri()]
        assert tab.complaints == []
        assert tab.evaluate("document.styleSheets.length") == 1
        assert tab.evaluate("document.styleSheets[0].cssRules.length") > 50


class Trap:
    """A server that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        trap = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trap.asked.append(self.path)
                self.send_response(404)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def trap() -> Iterator[Trap]:
    found = Trap()
    thread = Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def test_what_is_injected_is_blocked_by_the_policy_and_by_nothing_else(
    browser: Browser, page: Path, trap: Trap
) -> None:
    evil = (
        f'<img src="{trap.address}/img"><link rel=stylesheet href="{trap.address}/css">'
        f'<script src="{trap.address}/src"></script><iframe src="{trap.address}/frame"></iframe>'
        f'<style>@import "{trap.address}/import";</style>'
        f'<script>document.title="taken"</script><img src=x onerror=\'document.title="taken"\'>'
    )
    whole = page.read_text("utf-8")
    page.write_text(whole.replace("<header>", f"{evil}<header>"), "utf-8")
    with opened(browser, page.as_uri()) as tab:
        assert tab.evaluate("document.title").startswith("Invoices in ")
        assert len([each for each in tab.complaints if "Content Security Policy" in each]) >= 6
    assert trap.asked == []

    policy = whole[whole.index("<meta http-equiv") : whole.index('<meta name="generator"')]
    page.write_text(page.read_text("utf-8").replace(policy, ""), "utf-8")
    with opened(browser, page.as_uri()) as tab:
        assert tab.evaluate("document.title") == "taken"
    assert {"/img", "/css", "/src", "/frame", "/import"} <= {*trap.asked}


def test_the_numbers_that_are_shown_are_those_of_show_and_verify(
    browser: Browser, page: Path, lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(browser, page.as_uri()) as tab:
        tables = tab.evaluate(TABLES)
        tiles = tab.evaluate(
            "[...document.querySelectorAll('dl > div')].map("
            "each => [each.querySelector('dt').innerText, each.querySelector('b').innerText])"
        )
    shown, verified = facts_of(capsys, "show", str(lake)), facts_of(capsys, "verify", str(lake))
    sums = {
        (currency, each["month"], each["provider"]): Decimal(amount)
        for each in shown["months"]
        for currency, amount in each["sums"].items()
    }
    found = {
        (currency, row[0], name): amount_of(cell)
        for currency in ("USD", "JPY")
        for head, *body in [tables[f"Charges in {currency} by month and provider"]]
        for row in body
        for name, cell in zip(head[1:], row[1:], strict=True)
        if "Total" not in (row[0], name) and cell != "–"
    }
    assert found == sums
    counted: Counter[str] = Counter()
    for each in shown["months"]:
        counted[each["month"]] += each["rows"]
    _, *body = tables["Line items by month and provider"]
    assert {row[0]: amount_of(row[-1]) for row in body if row[-1] != "–"} == {
        **counted,
        "Total": verified["rows"],
    }
    assert dict(tiles)["Line items"] == f"{verified['rows']:,}"
    head, row = tables["Invoices that do not simply agree"]
    (differing,) = verified["reconciliation"]
    cells = dict(zip(head, row, strict=True))
    assert cells["Invoice"] == differing["invoice_id"] == "D5"
    assert amount_of(cells["Difference"]) == Decimal(differing["difference"])


BARS = """(() => {
  const chart = document.querySelector('svg[aria-labelledby^=charges-1]');
  const bars = [...chart.querySelectorAll('rect')].map(bar => {
    const box = bar.getBoundingClientRect();
    return [bar.textContent, box.left, box.top, box.bottom];
  });
  const zero = chart.querySelector('line.zero').getBoundingClientRect();
  return {bars, zero: (zero.top + zero.bottom) / 2, width: zero.width};
})()"""


@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_bars_are_drawn_as_high_as_their_amounts(browser: Browser, page: Path, width: int) -> None:
    with opened(browser, page.as_uri(), width=width) as tab:
        found = tab.evaluate(BARS)
    bars = {text: place for text, *place in found["bars"]}
    heights = {text: bottom - top for text, (_, top, bottom) in bars.items()}
    amounts = {text: abs(amount_of(text.split(": ")[1].split()[0])) for text in bars}
    largest = max(amounts, key=lambda text: amounts[text])
    for text, height in heights.items():
        expected = heights[largest] * float(amounts[text] / amounts[largest])
        assert height == pytest.approx(expected, abs=0.3), text
    january, april = "2024-01, office: 1,000.25 USD", "2024-04, office: 10.03 USD"
    may, credit = "2024-05, office: 8.00 USD", "2024-02, azure: -300.00 USD"
    step = bars[may][0] - bars[april][0]
    assert bars[april][0] - bars[january][0] == pytest.approx(3 * step, abs=0.5)
    assert step == pytest.approx(found["width"] / 12, abs=0.5), "there is room for twelve"
    assert bars[january][2] == pytest.approx(found["zero"], abs=1), "charges stand on zero"
    assert bars[credit][1] == pytest.approx(found["zero"], abs=1), "credits hang from it"


LAID_OUT = """(() => {
  const shown = each => getComputedStyle(each).display != 'none';
  const meet = (a, b) => a.left < b.right && b.left < a.right
    && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  const texts = [...document.querySelectorAll('.plot')].map(
    plot => [...plot.querySelectorAll('text')].filter(shown)
  );
  const overlapping = texts.flatMap(some => some.flatMap((one, number) => some.slice(number + 1)
    .filter(other => meet(one.getBoundingClientRect(), other.getBoundingClientRect()))
    .map(other => [one.textContent, other.textContent])));
  const outside = [...document.querySelectorAll('.plot text, h1, p, dd, .scroll')].filter(each => {
    const box = each.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > innerWidth + 0.5);
  }).map(each => each.textContent.slice(0, 60));
  return {
    overlapping,
    outside,
    wide: document.scrollingElement.scrollWidth - innerWidth,
    smallest: Math.min(...texts.flat().map(each => parseFloat(getComputedStyle(each).fontSize))),
  };
})()"""


def crowded() -> str:
    """A page with everything that could need more room than there is."""
    long = "x" * 300
    months = [f"{year}-{month:02d}" for year in range(1995, 2025) for month in range(1, 13)]
    many = {(month, "office"): Decimal("-123456789.123456789") for month in months}
    few = {("2024-01", long): Decimal("1e13"), ("2024-02", "فاتورة"): Decimal(-1)}
    gaps = {(month, "azure"): Decimal(1) for month in ("0001-01", "2020-11", "2024-01", "")}
    steps = tuple(Step(5000 * n, 5000 * n + 5000, 10**9, 10**13, 9, 99, 256) for n in range(180))
    return make_page(
        figures(
            {"EUR": many, "USD": few, long: gaps, "JPY": dict([*many.items()][:36])},
            {("2024-01", "office"): 10**12},
            output=long,
            history=History(pace=Pace(AT, steps)),
        ),
        AT,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 400, 1000, 1600])
def test_nothing_overlaps_and_nothing_is_outside_of_the_page(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    for content in (page.read_text("utf-8"), crowded()):
        page.write_text(content, "utf-8")
        with opened(browser, page.as_uri(), width=width, scheme=scheme) as tab:
            found = tab.evaluate(LAID_OUT)
            assert found["overlapping"] == []
            assert found["outside"] == []
            assert found["wide"] <= 0
            assert found["smallest"] >= 11
            dark = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_it_prints_in_light_colours_with_all_its_tables(browser: Browser, page: Path) -> None:
    with opened(browser, page.as_uri(), scheme="dark") as tab:
        tab.call("Emulation.setEmulatedMedia", media="print")
        style = "getComputedStyle(document.documentElement).backgroundColor"
        assert tab.evaluate(style) == "rgb(255, 255, 255)"
        assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        cut = (
            "[...document.querySelectorAll('.scroll')].filter("
            "each => getComputedStyle(each).overflowX != 'visible').length"
        )
        assert tab.evaluate(cut) == 0
        printed = base64.b64decode(tab.call("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF-")


def test_assistive_technology_finds_headings_charts_and_tables_in_their_order(
    browser: Browser, page: Path
) -> None:
    with opened(browser, page.as_uri()) as tab:
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (each["role"]["value"], each.get("name", {}).get("value", ""))
        for each in nodes
        if not each["ignored"]
    ]
    headings = [name for role, name in found if role == "heading"]
    assert headings[1:5] == ["Charges", "JPY", "USD", "Line items"]
    # behind these are those of a run that took more than 5 s, as on a slow machine
    charts = [name for role, name in found if role in ("image", "img")][:3]
    assert charts == [
        "Charges in JPY by month and provider",
        "Charges in USD by month and provider",
        "Line items by month and provider",
    ]
    tables = [name for role, name in found if role == "table"]
    assert set(charts) < set(tables)
    assert "" not in tables


def test_every_link_and_scrolling_table_is_reached_with_the_keyboard(
    browser: Browser, page: Path
) -> None:
    with opened(browser, page.as_uri(), width=400) as tab:
        count = tab.evaluate("document.querySelectorAll('a, [tabindex]').length")
        places = [press_tab(tab) for _ in range(count)]
    assert count > 8
    assert places == sorted(places)
    assert len({*places}) == count


def press_tab(tab: Tab) -> float:
    """Press the key and return how far down what has the focus is."""
    for kind in ("keyDown", "keyUp"):
        tab.call(
            "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
        )
    script = (
        "(() => {const box = document.activeElement.getBoundingClientRect();"
        "return 10000 * (box.top + scrollY) + box.left + scrollX})()"
    )
    place: float = tab.evaluate(script)
    return place
