from __future__ import annotations

from datetime import date
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.details import schema_of
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.options import OPTIONS, check_parts, read_options
from bulkfetch.errors import SettingsError
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import Settings, kind_of, settings_of
from bulkfetch.settings.values import SECRET

OFFICE = {"provider": "office", "lineItemType": "billing_line_items"}


def test_all_options_together_are_a_selection_of_the_export() -> None:
    wanted = read_options(
        {
            "provider": "OneTime",
            "lineItemType": "BillingLineItems",
            "invoice": "D1, G2 ,",
            "since": "2024-01-31",
            "until": "2024-02-29",
            "unbilled": "TRUE",
            "currency": "eur,USD",
            "allowEmpty": "true",
        }
    )

    assert wanted.selection == Selection(
        date(2024, 1, 31),
        date(2024, 2, 29),
        ["D1", "G2"],
        "OneTime",
        "BillingLineItems",
        unbilled=True,
        currencies=["EUR", "USD"],
    )
    assert wanted.allow_empty
    declared = schema_of("one_time", "billing_line_items")
    assert declared is not None
    assert wanted.columns == declared.arrow


@given(st.sampled_from(OPTIONS), st.randoms())
def test_options_are_known_in_any_case(name: str, random: Random) -> None:
    value = {"since": "2024-01-01", "until": "2024-01-01", "unbilled": "true"}.get(name, "")
    plain = {**OFFICE, name: value or OFFICE.get(name, "false")}
    plain.update({"unbilled": "true"} if name == "currency" else {})
    if name == "currency":
        plain[name] = "EUR"
    odd = {
        "".join(random.choice([c.lower(), c.upper()]) for c in each): value
        for each, value in plain.items()
    }

    assert read_options(odd) == read_options(plain)


def test_an_empty_option_is_not_given() -> None:
    assert read_options({**OFFICE, "since": "", "invoice": " ", "unbilled": ""}) == read_options(
        OFFICE
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "option 'provider' is missing: each provider"),
        ({"provider": "office"}, "option 'lineItemType' is missing"),
        ({**OFFICE, "provider": "office,azure"}, "office, azure have columns of their own"),
        ({**OFFICE, "invoice": "['D1']"}, "must be names with commas between"),
        ({**OFFICE, "lineItemTypes": "x"}, "did you mean 'lineItemType'? there are provider, "),
        ({**OFFICE, "path": "/tmp"}, "there is no option 'path': there are provider, "),
        ({**OFFICE, "page_size": "7"}, "register(spark, page_size=…)"),
        ({**OFFICE, "maxInFlight": "7"}, "register(spark, max_in_flight=…)"),
        ({**OFFICE, "since": "yesterday"}, "since: must be a day"),
        ({**OFFICE, "since": "2024-02-01", "until": "2024-01-01"}, "is after"),
        ({**OFFICE, "allowEmpty": "yes"}, "option 'allowEmpty': must be true or false, not 'yes'"),
        ({**OFFICE, "currency": "EUR"}, "option 'currency' is for unbilled line items"),
        ({**OFFICE, "unbilled": "true", "currency": "euros"}, "euros"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(options: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_options(options)

    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


SECRETS = [each.name for each in settings_of("sign_in", "storage") if kind_of(each) is SECRET]
SPELLED = [
    *SECRETS,
    *(name.title().replace("_", "") for name in SECRETS),
    *("password", "apiKey", "Authorization", "sasToken", "accountKey", "pwd", "handleNonce"),
]


@pytest.mark.parametrize("name", SPELLED)
def test_a_secret_is_refused_as_an_option_and_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError, match="looks like a secret") as raised:
        read_options({**OFFICE, name: "hush-hush"})

    assert "hush" not in str(raised.value)


def test_no_option_has_the_name_of_a_setting() -> None:
    settings = {each.replace("_", "") for each in Settings.__dataclass_fields__}
    assert not settings & {each.lower() for each in OPTIONS}


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_is_given_is_taken_or_refused(name: str, value: str) -> None:
    told = ""
    try:
        read_options({**OFFICE, name: value})
    except SettingsError as error:
        told = str(error)

    assert told.isprintable()


def part_of(provider: str, line_item_type: str, day: date | None, name: str = "G1") -> Part:
    return Part(Transfer(name, provider, line_item_type, invoiced_on=day))


def test_line_items_that_microsoft_graph_has_are_not_left_out_unsaid() -> None:
    wanted = read_options({"provider": "one_time", "lineItemType": "billing_line_items"})
    own = part_of("one_time", "billing_line_items", date(2024, 2, 5))
    later = part_of("graph", "reconciliation", date(2024, 4, 5), "G3")
    first = part_of("graph", "reconciliation", date(2024, 3, 5), "G2")
    undated = part_of("graph", "reconciliation", None, "G4")

    check_parts([own], wanted)
    check_parts([first], read_options({"provider": "graph", "lineItemType": "reconciliation"}))
    with pytest.raises(SettingsError) as raised:
        check_parts([own, undated, later, first], wanted)
    with pytest.raises(SettingsError, match="G4 the first"):
        check_parts([undated], wanted)

    assert str(raised.value) == (
        "the one_time/billing_line_items of 3 invoices, G2 the first, come from Microsoft Graph, "
        "in other columns: read them as provider 'graph' and type 'reconciliation'; here, leave "
        "them out: until 2024-03-04"
    )
