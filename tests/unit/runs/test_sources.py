from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.details import DETAILS, Paging
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.sources import rank

TRANSFERS = st.builds(
    lambda names, charged: Transfer("D1", names[0], names[1], charged=charged),
    st.sampled_from(sorted(DETAILS)),
    st.none() | st.decimals("-1000", "1000", places=2),
)


@given(st.lists(TRANSFERS))
def test_chains_come_first_then_what_charges_most_then_usage(transfers: list[Transfer]) -> None:
    ranked = sorted(transfers, key=rank)

    for one, other in pairwise(ranked):
        chains = [each.detail.paging is Paging.TOKEN for each in (one, other)]
        amounts = [abs(each.charged or Decimal(0)) for each in (one, other)]
        assert chains[0] >= chains[1]
        if chains[0] == chains[1]:
            assert amounts[0] >= amounts[1]
            if amounts[0] == amounts[1]:
                assert one.detail.is_charged <= other.detail.is_charged
