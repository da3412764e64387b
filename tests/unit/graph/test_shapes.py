"""Shapes for a bug report: names and kinds, and never a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.graph.graphlakes import settings_for, tenant

from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.jsontext import loads
from bulkfetch.graph.exports import open_exports
from bulkfetch.graph.shapes import find_shapes, shape_of, write_shapes
from bulkfetch.stats import RunStats


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('"Contoso"', "text"),
        ('""', "empty text"),
        ("null", "null"),
        ("true", "true"),
        ("12.50", "number 00.00"),
        ("-1.5E-7", "number -0.0E-0"),
        ('"0.03825"', "text 0.00000"),
        ('"2024-09-17T00:38:17.625Z"', "text 0000-00-00T00:00:00.000Z"),
        ('"9/17/2024"', "text 0/00/0000"),
        ('"{\\"a\\": 1}"', "text that begins like JSON"),
        ('"Succeeded"', "text Succeeded"),
        ('{"sasToken": "sv=1&sig=x", "eTag": "abc"}', {"sasToken": "removed", "eTag": "text"}),
        ('{"SASTOKEN": {"a": 1}}', {"SASTOKEN": "removed"}),
        ('{"https://x": 1}', {"a name of other characters": "number 0"}),
        ("[]", ["of none"]),
        ('[{"name": "a"}, 5]', ["of 2", {"name": "text"}]),
    ],
)
def test_a_shape_says_the_kind_and_how_numbers_and_dates_are_spelled(text: str, shape: Any) -> None:
    assert shape_of(loads(text.encode())) == shape


@given(st.from_regex(r"[A-Za-z]{3,12}[0-9]{5,20}[a-z]", fullmatch=True), st.integers(11111, 10**12))
def test_no_value_is_in_a_shape(text: str, number: int) -> None:
    row = {"CustomerName": text, "Total": number, "Tags": [text], "More": {"Deep": text}}
    shown = json.dumps(shape_of(loads(json.dumps(row).encode())))
    assert text not in shown
    assert not any(digit in shown for digit in "23456789")


@pytest.mark.parametrize("location", ["inline", "link", "text"])
async def test_the_shapes_of_an_export_have_no_value_of_it_and_no_sas(
    location: str, tmp_path: Path
) -> None:
    async with tenant(graph={"location": location}) as sandbox:
        names = sandbox.graph.exporting.names()
        name = next(each for each in names if each.startswith("usage/billed/"))
        transfer = Transfer(name.rpartition("/")[2], GRAPH, "usage")
        async with open_exports(settings_for(sandbox), RunStats()) as exports:
            shapes = await find_shapes(exports, transfer)
        row = json.loads(sandbox.graph.exporting.rows(name)[0])
        assert sandbox.graph.blob_stats.authorized == 0
    write_shapes(tmp_path / "shapes.json", shapes)
    text = (tmp_path / "shapes.json").read_text()
    assert set(json.loads(text)["first_row"]) == set(row)
    assert set(shapes["manifest"]) >= {"sasToken", "eTag", "blobs", "dataFormat"}
    assert "sig=" not in text
    values = [str(each) for each in row.values() if isinstance(each, str) and len(each) > 4]
    assert [each for each in values if each in text] == []
    assert transfer.invoice_id not in text
