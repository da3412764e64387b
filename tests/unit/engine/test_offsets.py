from __future__ import annotations

import json
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.offsets import beginning, changed_between, offset_of
from bulkfetch.errors import SettingsError

AMOUNTS = st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=4)
TENANTS = st.dictionaries(st.text(min_size=1, max_size=5), AMOUNTS, max_size=6)


def parts_of(charges: dict[str, Decimal | None]) -> list[Part]:
    return [
        Part(Transfer(name, "office", "billing_line_items", charged=charged))
        for name, charged in charges.items()
    ]


@given(TENANTS, TENANTS)
def test_what_changed_is_what_is_new_or_charges_something_else(
    before: dict[str, Decimal | None], after: dict[str, Decimal | None]
) -> None:
    start = json.loads(json.dumps(offset_of(parts_of(before))))
    end = json.loads(json.dumps(offset_of(parts_of(after))))

    expected = {name for name in after if name not in before or before[name] != after[name]}
    assert changed_between(start, end) == expected


@given(TENANTS)
def test_everything_is_new_at_the_beginning(charges: dict[str, Decimal | None]) -> None:
    assert changed_between(beginning(), offset_of(parts_of(charges))) == charges.keys()


@given(TENANTS, st.randoms())
def test_an_offset_has_the_same_text_in_whatever_order_invoices_are_listed(
    charges: dict[str, Decimal | None], random: Random
) -> None:
    parts = parts_of(charges)
    shuffled = random.sample(parts, len(parts))

    assert json.dumps(offset_of(shuffled)) == json.dumps(offset_of(parts))


@pytest.mark.parametrize("spelled", ["12.50", "12.5", "1.25E+1", "0012.500"])
def test_an_offset_is_the_same_however_an_amount_is_written(spelled: str) -> None:
    assert offset_of(parts_of({"D1": Decimal(spelled)})) == {"known": {"D1": "12.5"}}


@pytest.mark.parametrize("offset", [{}, {"known": None}, {"known": ["D1"]}, {"index": 3}])
def test_the_checkpoint_of_another_source_is_refused(offset: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="give the stream a checkpointLocation of its own"):
        changed_between(offset, beginning())
