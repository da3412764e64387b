from __future__ import annotations

import itertools
import re
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.page.figures import AT, figures, shown
from support.page.htmltree import Node, amount_of, read_html, table_of

from bulkfetch.archive.findings import Finding
from bulkfetch.billing.details import PROVIDERS
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.html.figures import Compared, Figures, Rescued
from bulkfetch.html.history import History, Pace, RunFacts, Step
from bulkfetch.html.page import make_page
from bulkfetch.maintenance.months import Snapshot
from bulkfetch.maintenance.pastruns import LastRun
from bulkfetch.runs.openfailures import OpenFailure
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.words import printable

_TAGS = (
    "html head meta title style body header main footer section nav h1 h2 h3 p dl dt dd div span b "
    "ul li a bdi code figure figcaption svg desc g rect line path text table caption thead tbody "
    "tfoot tr th td"
)
_ATTRIBUTES = (
    "id class lang charset http-equiv content name href role aria-label aria-labelledby "
    "aria-describedby aria-hidden tabindex scope width height viewbox preserveaspectratio x y x1 "
    "x2 y1 y2 d"
)
TAGS, ATTRIBUTES = set(_TAGS.split()), set(_ATTRIBUTES.split())
EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title></svg><iframe src=javascript:alert(1)>",
    "<!-- comment -->",
    "&lt;b&gt; &amp; &#x3c;",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066 فاتورة עברית",
    "]]><![CDATA[x",
    "\x00\x1b[31mred\x07\ud800",
    "{{7*7}} ${7*7} url(http://example.com/x)",
    "L" * 600,
    "",
]
texts = st.sampled_from(EVIL) | st.text(max_size=40)
amounts = st.decimals("-1e15", "1e15", allow_nan=False, places=6) | st.decimals(
    "-10", "10", allow_nan=False, places=24
)
month_names = st.sampled_from(
    ["", "0001-01", "2023-11", "2023-12", "2024-01", "2024-05", "9999-12"]
)
providers = st.sampled_from(PROVIDERS) | texts
moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
counts = st.integers(0, 10**12)
charged = st.dictionaries(st.tuples(month_names, providers), amounts, min_size=1, max_size=8)
optional_amounts = st.none() | amounts
compared = st.builds(
    Compared,
    st.builds(
        Reconciliation,
        texts,
        st.sampled_from([each for each in Verdict if each is not Verdict.AGREES]),
        optional_amounts,
        optional_amounts,
        texts,
    ),
    texts,
    st.none() | moments,
)
snapshots = st.builds(
    Snapshot, texts, texts, texts, texts, rows=counts, size_bytes=counts, total=optional_amounts
)
runs = st.builds(
    RunFacts,
    st.builds(
        LastRun,
        texts,
        moments,
        st.none() | st.floats(0, 1e6),
        st.none(),
        st.booleans(),
        counts,
        counts,
        counts,
    ),
    *[st.none() | counts] * 5,
)


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    ends = sorted(draw(st.sets(st.integers(1, 10**9), min_size=1, max_size=8)))
    steps = [
        Step(start, end, *(draw(counts) for _ in range(5)))
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return Pace(draw(moments), tuple(steps))


@st.composite
def drawn_figures(draw: st.DrawFn) -> Figures:
    finding = st.builds(Finding, texts, texts, is_lacking=st.booleans())
    failure = st.builds(OpenFailure, st.builds(Transfer, texts, texts, texts), texts, texts, texts)
    return figures(
        draw(st.dictionaries(texts, charged, max_size=3)),
        draw(st.dictionaries(st.tuples(month_names, providers), counts, max_size=8)),
        compared=draw(st.lists(compared, max_size=3)),
        findings=draw(st.lists(finding, max_size=3)),
        output=draw(texts),
        snapshots=draw(st.lists(snapshots, max_size=2)),
        no_longer_listed=draw(st.lists(texts, max_size=2)),
        failures=tuple(draw(st.lists(failure, max_size=3))),
        rescued=tuple(draw(st.lists(st.builds(Rescued, texts, texts, counts), max_size=3))),
        unread=tuple(draw(st.lists(finding, max_size=2))),
        history=History(
            tuple(draw(st.lists(runs, max_size=3))), draw(counts), draw(st.none() | paces())
        ),
        not_summed=draw(counts),
        set_aside=draw(counts),
    )


def as_shown(text: str) -> str:
    """How the page writes a text from outside."""
    return printable(text if len(text) <= 500 else f"{text[:499]}…")


def bars(page: Node, chart: str) -> list[tuple[str, str]]:
    """The tips of the bars of a chart, each as what it is of and its amount."""
    (drawn,) = [
        each
        for each in page.all("svg")
        if each.attributes.get("aria-labelledby", "") == f"{chart}-title"
    ]
    tips = [each.one("title").text for each in drawn.all("rect")]
    return [(tip.rpartition(": ")[0], tip.rpartition(": ")[2]) for tip in tips]


@given(drawn_figures())
def test_no_text_becomes_anything_but_text(found: Figures) -> None:
    page = make_page(found, AT)
    page.encode()
    root = read_html(page)
    nodes = list(root.walk())
    assert {node.tag for node in nodes} <= TAGS
    assert {name for node in nodes for name in node.attributes} <= ATTRIBUTES
    assert all(each.attributes["href"].startswith("#") for each in root.all("a"))
    assert len(root.all("style")) == 1
    ids = [node.attributes["id"] for node in nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    whole = root.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", whole)
    for each in found.compared:
        assert as_shown(each.result.invoice_id) in whole
    for failure in found.failures:
        assert as_shown(failure.advice) in whole
        assert as_shown(failure.message) in whole
    for finding in found.unread:
        assert as_shown(finding.what) in whole


@given(charged)
def test_table_and_bars_have_every_amount_to_the_last_digit(
    sums: dict[tuple[str, str], Decimal],
) -> None:
    known = {
        (month, provider): amount
        for (month, provider), amount in sums.items()
        if provider in PROVIDERS
    }
    root = read_html(make_page(figures({"EUR": known}), AT))
    head, *rows = table_of(root, "Charges in EUR by month and provider") if known else [[]]
    found = {
        ("" if row[0] == "no date" else row[0], provider): amount_of(cell)
        for row in rows
        if row[0] != "Total"
        for provider, cell in zip(head[1:], row[1:], strict=True)
        if provider != "Total" and cell != "–"
    }
    assert found == known
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        if "Total" in cells and row[0] != "Total":
            parts = [amount_of(cells[name]) for name in head[1:-1]]
            assert amount_of(cells["Total"]) == exact_sum(parts)
    if known:
        whole = exact_sum(known.values())
        heading = next(each for each in root.all("p") if " EUR on " in each.text)
        assert amount_of(heading.text.split()[0]) == whole
        drawn = {what: amount_of(text.split()[0]) for what, text in bars(root, "charges-0")}
        assert drawn == {
            f"{month or 'no date'}, {provider}": amount
            for (month, provider), amount in known.items()
            if amount
        }


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["2024-01", "2024-02"]), st.sampled_from(PROVIDERS)),
        st.decimals("-1000", "1000", places=2),
        min_size=1,
    )
)
def test_bars_of_a_month_stand_on_each_other_above_zero_and_hang_below_it(
    sums: dict[tuple[str, str], Decimal],
) -> None:
    root = read_html(make_page(figures({"EUR": sums}), AT))
    drawn = next(each for each in root.all("svg") if "viewbox" in each.attributes)
    ends: dict[tuple[str, bool], list[tuple[Decimal, Decimal]]] = {}
    for bar in drawn.all("rect"):
        top, height = (Decimal(bar.attributes[name]) for name in ("y", "height"))
        is_credit = ": -" in bar.one("title").text
        ends.setdefault((bar.attributes["x"], is_credit), []).append((top, top + height))
    zeros = set()
    for (_, is_credit), found in ends.items():
        found.sort()
        assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
        zeros.add(found[0][0] if is_credit else found[-1][1])
    assert len(zeros) <= 1


def test_bars_are_as_high_as_their_amounts_and_credits_go_down() -> None:
    sums = {
        ("2024-01", "office"): Decimal("300"),
        ("2024-01", "azure"): Decimal("100.00"),
        ("2024-03", "azure"): Decimal("-50"),
    }
    root = read_html(make_page(figures({"EUR": sums}), AT))
    drawn = next(each for each in root.all("svg") if "viewbox" in each.attributes)
    height = Decimal(drawn.attributes["height"])
    found = {}
    for bar in drawn.all("rect"):
        place = [Decimal(bar.attributes[name]) for name in ("x", "y", "width", "height")]
        found[bar.one("title").text] = place
    office, azure, credit = found.values()
    per_unit = height / 500  # from -100 to 400
    assert [round(each[3] / per_unit) for each in (office, azure, credit)] == [300, 100, 50]
    assert azure[1] + azure[3] == office[1], "azure is on top of office"
    assert office[1] + office[3] == credit[1], "both begin at zero"
    assert office[0] == azure[0]
    assert credit[0] - office[0] == pytest.approx(2 * Decimal(1000) / 12, abs=Decimal("0.02"))


@pytest.mark.parametrize(
    "sums",
    [
        {},
        {("2024-01", "office"): Decimal("-5.10")},
        {("2024-01", "office"): Decimal(0)},
        {("", "office"): Decimal(7)},
        {(f"2024-{month:02d}", f"x{month}"): Decimal(month) for month in range(1, 13)},
        {
            (f"{year}-{month:02d}", "office"): Decimal(1)
            for year in range(1995, 2025)
            for month in range(1, 13)
        },
    ],
    ids=["none", "credit alone", "zero", "no date", "many providers", "thirty years"],
)
def test_a_page_of_any_charges_has_all_its_sections(sums: dict[tuple[str, str], Decimal]) -> None:
    root = read_html(make_page(figures({"EUR": sums} if sums else {}), AT))
    headings = [each.text for each in root.walk() if each.tag in ("h1", "h2", "h3")]
    assert [text for text in headings if text not in ("Invoices in lake", "EUR")] == [
        "Charges",
        "Line items",
        "Reconciliation",
        "Missing and damaged",
        "Rescued values",
        "Runs",
    ]


def test_providers_without_a_colour_of_their_own_are_one_bar() -> None:
    sums = {("2024-01", name): Decimal(2) for name in ("office", "one", "two", "three")}
    root = read_html(make_page(figures({"EUR": sums}), AT))
    head, row = table_of(root, "Charges in EUR by month and provider")
    assert dict(zip(head, row, strict=True)) == {
        "Month": "2024-01",
        "office": "2.00",
        "3 others": "6.00",
        "Total": "8.00",
    }
    alone = read_html(make_page(figures({"EUR": {("2024-01", "one"): Decimal(2)}}), AT))
    assert table_of(alone, "Charges in EUR by month and provider")[0] == ["Month", "one"]


def test_decimal_points_stand_below_each_other() -> None:
    sums = {
        ("2024-01", "office"): Decimal("1.5"),
        ("2024-02", "office"): Decimal("12.12345"),
    }
    root = read_html(make_page(figures({"EUR": sums}), AT))
    cells = [each for each in root.all("td") if "number" in each.attributes["class"]]
    assert [(each.text, each.attributes["class"]) for each in cells] == [
        ("1.50", "number d3"),
        ("12.12345", "number"),
        ("13.62345", "number"),
    ]


def test_a_long_list_says_how_many_more_there_are() -> None:
    found = [
        Compared(Reconciliation(f"I{number}", Verdict.DIFFERS, Decimal(2), Decimal(1)), "EUR", None)
        for number in range(510)
    ]
    root = read_html(make_page(figures(compared=found), AT))
    assert len(table_of(root, "Invoices that do not simply agree")) == 501
    assert "10 rows more: `bulkfetch show --json` has all of them" in root.text
    assert "Differences in all: -510.00 EUR." in root.text


def test_the_page_allows_nothing_but_its_own_style() -> None:
    root = read_html(make_page(figures(), AT))
    head = root.one("head")
    policy = next(each for each in head.all("meta") if "http-equiv" in each.attributes)
    hashed = b64encode(sha256(head.one("style").text.encode()).digest()).decode()
    assert policy.attributes["content"] == (
        f"default-src 'none'; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'"
    )
    before = head.nodes[: head.nodes.index(policy)]
    assert [each.attributes for each in before] == [{"charset": "utf-8"}]
    assert "url(" not in head.one("style").text
    assert "@import" not in head.one("style").text


def test_every_chart_and_table_says_what_it_is() -> None:
    step = Step(0, 5000, rows=10, size_bytes=10, requests=1, in_flight=1, limit=2)
    history = History(pace=Pace(AT, (step,)), runs=(run(),), in_all=1)
    sums = {("2024-01", "office"): Decimal(1)}
    found = figures({"EUR": sums}, {("2024-01", "office"): 3}, history=history)
    root = read_html(make_page(found, AT))
    pictures = [each for each in root.all("svg") if each.attributes.get("role") == "img"]
    assert len(pictures) == 5
    for picture in pictures:
        title, text = (
            root.named(picture.attributes[name]).text
            for name in ("aria-labelledby", "aria-describedby")
        )
        assert title
        assert text.endswith(".")
    for table in root.all("table"):
        assert table.one("caption").text
        assert all(each.attributes.get("scope") in ("col", "row") for each in table.all("th"))
    assert all(
        each.attributes["aria-label"] for each in root.all("div") if "tabindex" in each.attributes
    )
    levels = [int(each.tag[1]) for each in root.walk() if re.fullmatch(r"h\d", each.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def run(**facts: Any) -> RunFacts:
    last = LastRun("export", AT, 2.0, {}, complete=True, failed=0, not_tried=0, differing=0)
    return RunFacts(last, rows=100, requests=4, retries=0, throttled=0, fetched=50, **facts)


def test_the_rate_of_a_run_leaves_out_what_an_earlier_one_had_fetched() -> None:
    root = read_html(make_page(figures(history=History((run(),), 7)), AT))
    caption = "1 run, newest first, of 7 whose reports are in the archive"
    assert table_of(root, caption)[1] == [
        *("2026-01-02 03:04", "export", "complete", "100", "4", "0", "0", "2.0", "25")
    ]


def test_unbilled_line_items_have_a_section_of_their_own_and_no_other_number_has_them() -> None:
    snapshot = Snapshot("one_time", "billing_line_items", "current", "EUR", 5, 10, Decimal("7.125"))
    root = read_html(make_page(figures(snapshots=[snapshot]), AT))
    _, row = table_of(root, "Line items that are not on an invoice yet")
    assert row == ["one_time/billing_line_items", "current", "EUR", "5", "7.125"]
    assert "No charges are archived." in root.text
    assert "Not on an invoice yet" not in read_html(make_page(figures(), AT)).text


def test_invoices_that_are_no_longer_listed_are_named() -> None:
    root = read_html(make_page(figures(no_longer_listed=["D1", "<b>"]), AT))
    assert "The service no longer lists 2 invoices: D1, <b>; what is archived of them stays" in (
        root.text
    )


def test_what_could_not_be_read_comes_before_any_number() -> None:
    lost = Finding("_bulkfetch/commits/x.json", "is damaged")
    root = read_html(make_page(figures(findings=[lost], unread=(lost,)), AT))
    body = root.one("body").text
    assert body.index("1 record of this archive could not be read") < body.index("Not complete")
    assert table_of(root, "Could not be read")[1] == [lost.name, lost.what]
    assert not [each for each in root.all("caption") if each.text == "Faults"]


def test_a_run_at_work_or_killed_is_said() -> None:
    at_work = figures()
    for facts, words in (
        ({"being_written": True}, "A run is writing to the archive now"),
        ({"broken_off": AT}, "A run began at 2026-01-02 03:04 UTC and left no report"),
    ):
        found = Figures(shown(**facts), (), {}, 0, 0, (), (), (), History(), ())
        assert words in read_html(make_page(found, AT)).text
        assert words not in read_html(make_page(at_work, AT)).text
