"""The detail table: what is known of each billing provider and line-item type."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.syntax import tree_of

import bulkfetch
from bulkfetch.billing.details import DETAILS, GRAPH, Detail, Paging, api_spelling, detail_of

PACKAGE = Path(bulkfetch.__file__).parent
SPELLINGS = {
    name
    for row in DETAILS.values()
    for name in (row.provider, row.in_query[0][1])
    if name != GRAPH  # the API has that name as well
}
ONE_WORD = {"all", "azure", "office"}
"""Providers that are words of their own, so that they count only where they are a whole text."""
CLOUD = {("storage/addresses.py", "azure"), ("logguard.py", "azure")}
"""Microsoft's cloud and its library, which are not the provider of that name."""


def texts_of(path: Path) -> Iterator[str]:
    """Every text in a module that is neither a docstring nor the description of a name."""
    tree = tree_of(path)
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in described:
            yield str(node.value)  # type: ignore[attr-defined]  # is_text says it is a constant


def test_no_other_module_spells_a_provider() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        # The parser loads no table, so the help text that lists the providers is written there.
        if name.startswith("sandbox/") or name in ("billing/details.py", "cli/parser.py"):
            continue
        for text in texts_of(path):
            words = set(re.findall(r"\w+", text))
            spelled = words & (SPELLINGS - ONE_WORD) | {text} & ONE_WORD
            found += [(name, word) for word in spelled if (name, word) not in CLOUD]
    # A sum of all invoices, and a number that keeps everything: neither is a provider.
    assert set(found) == {("cli/commands/invoices.py", "all"), ("settings/values.py", "all")}


def test_the_help_names_providers_of_the_table_only() -> None:
    help_text = PACKAGE.joinpath("cli", "parser.py").read_text()
    found = re.search(r'"PROVIDER", help="([^"]+)"', help_text)
    assert found is not None
    assert set(re.split(", | or ", found[1])) <= {provider for provider, _ in DETAILS}


@pytest.mark.parametrize("row", DETAILS.values(), ids=lambda row: row.in_path)
def test_each_spelling_of_a_row_leads_to_it(row: Detail) -> None:
    provider, line_item_type = row.in_path.split("/")
    assert (api_spelling(provider), api_spelling(line_item_type)) in DETAILS
    for spelled in ((provider, line_item_type), [value for _, value in row.in_query]):
        assert [*map(api_spelling, spelled)] == [row.provider, row.line_item_type]


@pytest.mark.parametrize("row", DETAILS.values(), ids=lambda row: row.in_path)
def test_what_a_usage_row_explains_is_in_the_table_with_the_columns_to_compare(row: Detail) -> None:
    if row.explains is None:
        return
    billing = DETAILS[row.provider, row.explains.line_item_type]
    for schema in (row.schema, billing.schema):
        assert schema is not None
        names = {field.name for field in schema.fields}
        assert {*row.explains.keys, row.explains.quantity} <= names


def test_a_provider_that_repeats_others_repeats_providers_of_the_table() -> None:
    providers = {provider for provider, _ in DETAILS}
    assert all(providers.issuperset(row.repeats) for row in DETAILS.values())


def test_a_type_that_is_not_in_the_table_is_asked_for_like_the_others_of_its_provider() -> None:
    assert detail_of("one_time", "teapots").paging is Paging.TOKEN
    assert dict(detail_of("one_time", "teapots").in_query)["provider"] == "onetime"
    assert detail_of("office", "teapots").paging is Paging.OFFSET
    assert detail_of("nobody", "billing_line_items").schema is None


def test_of_a_type_that_is_not_in_the_table_billing_rows_count_as_charges() -> None:
    assert detail_of("nobody", "billing_line_items").is_charged
    assert not detail_of("nobody", "usage_line_items").is_charged
