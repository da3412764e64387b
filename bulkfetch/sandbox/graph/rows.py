"""The rows of Graph's exports as they are documented, and in the other spellings that may come.

Places such as `<row>` and `<last>` are those of `bulkfetch.sandbox.line_items`; `<partner>` is the
tenant, and `<generation>` counts how often the data were made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.graph.columns import MAY_BE_ABSENT, NUMBERS, keys_of
from bulkfetch.sandbox.json_text import array, money, number, obj, text
from bulkfetch.sandbox.line_items import (
    ADJUSTMENTS,
    IMAGES,
    PRODUCTS,
    UNSET_DATE,
    RowStyle,
    RowTemplate,
    customers,
    mpn_id,
    one_time_charge,
    one_time_draws,
)
from bulkfetch.sandbox.pool import POOL_ROWS, TemplatePool

_MIDNIGHT = 'T00:00:00Z"'
_TIMES = (
    _MIDNIGHT,
    'T09:22:40.1767993-08:00"',
    '"',
    'T00:00:00"',
    'T19:53:55.12+00:00"',
)
_METERS = (
    ("Virtual Machines", "Dv3/DSv3 Series", "D4 v3/D4s v3", "EU West", "1 Hour"),
    ("Storage", "Premium SSD Managed Disks", "P10 LRS Disk", "US East 2", "1/Month"),
    ("Bandwidth", "Inter-Region", "Data Transfer In (GB)", "Zone 2", "1 GB"),
    ("SQL Database", "SQL Database Single Standard", "S1 DTUs", "EU North", "1/Day"),
)
Row = dict[str, str]
"""The keys of a row with their values as JSON."""


@cache
def line_pool(
    seed: int, line_item_type: str, style: RowStyle, attribute_set: str, quirks: tuple[str, ...]
) -> TemplatePool:
    """Return the pool of one kind of rows, to be served as JSON lines."""
    keys = keys_of(line_item_type, attribute_set)

    def template(index: int) -> RowTemplate:
        row, cents = _DRAWN[line_item_type](seed, index, style)
        return RowTemplate(obj(_spelled({key: row[key] for key in keys}, index, quirks)), cents)

    return TemplatePool([template(index) for index in range(POOL_ROWS)], separator="\n")


def _day(month: str, day: int) -> str:
    return f'"<{month}>-{day:02d}{_MIDNIGHT}'


def _reconciliation(seed: int, index: int, style: RowStyle) -> tuple[Row, int]:
    charge = one_time_charge(one_time_draws(seed, index), index, style)
    draws = Draws(seed, "reconciliation", index)
    customer = draws.pick(customers(seed))
    product = text(PRODUCTS[index % len(PRODUCTS)][0])
    is_usage = PRODUCTS[index % len(PRODUCTS)][0] == "Azure plan"
    # Both rules that tie the price to the subtotal hold: the exchange rates divide without a rest.
    rate, tenths = draws.pick(((10, 1), (5, 2)))
    if is_usage:
        quantity, times = draws.pick((("0.125", 8), ("0.005", 200), ("2.5", 4)))
        decimals = 3 if quantity == "2.5" else 2
        price = number(charge.subtotal * tenths * times, decimals, plain=True)
    else:
        quantity = str(charge.quantity)
        price = number(charge.effective * tenths, 2, plain=True)
    adjustment = ADJUSTMENTS[index % len(ADJUSTMENTS)]
    row = {
        "PartnerId": '"<partner>"',
        "CustomerId": customer.guid,
        "CustomerName": customer.name,
        "CustomerDomainName": customer.domain,
        "CustomerCountry": customer.country,
        "InvoiceNumber": '"<invoice>"',
        "MpnId": text(mpn_id(seed)),
        "Tier2MpnId": draws.pick(('"6048879"', '""', '"0"')),
        "OrderId": f'"{draws.letters(6, "abcdef0123456789")}<row>"',
        "OrderDate": _day("last", draws.between(1, 28)),
        "ProductId": text(f"CFQ7TTC0{draws.letters(4)}"),
        "SkuId": text(f"{draws.below(99):04d}"),
        "AvailabilityId": text(f"CFQ7TTC0{draws.letters(4)}"),
        "SkuName": product,
        "ProductName": product,
        "ChargeType": text("cancelImmediate" if charge.is_credit else draws.pick(("New", "renew"))),
        "UnitPrice": money(charge.unit, plain=True),
        "Quantity": str(charge.quantity),
        "Subtotal": money(charge.subtotal, plain=index % 2 == 0),
        "TaxTotal": money(charge.tax, plain=index % 2 == 0),
        "Total": money(charge.total, plain=index % 2 == 0),
        "Currency": '"<currency>"',
        "PriceAdjustmentDescription": text(array(map(text, adjustment)) if adjustment else ""),
        "PublisherName": '"Microsoft"',
        "PublisherId": '""',
        "SubscriptionDescription": '"Azure plan"' if is_usage else product,
        "SubscriptionId": text(customer.subscription),
        "ChargeStartDate": _day("last", 1),
        "ChargeEndDate": _day("last", 28),
        "TermAndBillingCycle": '""' if is_usage else '"One-Year commitment for monthly billing"',
        "EffectiveUnitPrice": price,
        "UnitType": '"1 GB/Month"' if is_usage else '"Licenses"',
        "AlternateId": f'"{draws.letters(12, "abcdef0123456789")}-<generation>"',
        "BillableQuantity": quantity,
        "BillingFrequency": '""' if is_usage else '"Monthly"',
        "PricingCurrency": '"USD"',
        "PCToBCExchangeRate": number(rate, 1, plain=True),
        "PCToBCExchangeRateDate": text(UNSET_DATE) if rate == 10 else _day("last", 28),
        "MeterDescription": '"Tables: LRS data stored (GB/month)"' if is_usage else '""',
        "ReservationOrderId": draws.pick(('""', text(draws.guid()))),
        "CreditReasonCode": '"Azure consumption credit"' if charge.is_credit else "null",
        "SubscriptionStartDate": _day("last", 1),
        "SubscriptionEndDate": "null" if is_usage else _day("next", 1),
        "ReferenceId": text(draws.guid()),
        "ProductQualifiers": draws.pick(('""', '"AddOn"')),
        "PromotionId": '""',
        "ProductCategory": '"Azure"' if is_usage else '"Software"',
    }
    return row, charge.total


def _usage(seed: int, index: int, _style: RowStyle) -> tuple[Row, int]:
    draws = Draws(seed, "usage", index)
    customer = draws.pick(customers(seed))
    sku, product = IMAGES[index % len(IMAGES)]
    category, subcategory, meter, region, unit = _METERS[index % len(_METERS)]
    group, entitlement = f"rg-{customer.subscription[:8]}-{index % 20:02d}", draws.guid()
    earned = index % 4 == 1
    percentage = "null" if index % 6 == 2 else "0"
    if earned:
        percentage = "15"
    pretax = number(draws.between(10**12, 10**16), 15, plain=True)
    price = number(draws.between(10**13, 10**15), 16, plain=True)
    info = {
        "UsageType": text(f"ComputeHR{'_SW' if index % 2 else ''}"),
        "ImageType": "null",
        "ServiceType": text(draws.pick(("Standard_B1s", "Standard_D4s_v3", "Premium_LRS"))),
        "VMName": text(f"vm-{draws.letters(8, 'abcdef0123456789')}"),
        "VCPUs": str(draws.pick((1, 2, 4, 8))),
        "ReservationOrderId": text(draws.guid()),
        "ReservationId": text(draws.guid()),
        "VMProperties": "null",
    }
    tags = {
        "costCenter": text(f"CC-{index % 30:04d}"),
        "env": '"prod"',
        "owner": text(f"team-{draws.letters(5, 'abcdefgh')}@customer.example"),
    }
    row = {
        "PartnerId": '"<partner>"',
        "PartnerName": '"Sierra Cloud Solutions"',
        "CustomerId": customer.guid,
        "CustomerName": customer.name,
        "CustomerDomainName": customer.domain,
        "CustomerCountry": customer.country,
        "MpnId": text(mpn_id(seed)),
        "Tier2MpnId": draws.pick(('"6048879"', '""')),
        "InvoiceNumber": '"<invoice>"',
        "ProductId": text(f"DZH318Z0{draws.letters(4)}"),
        "SkuId": text(f"{draws.below(99):04d}"),
        "AvailabilityId": text(f"DZH318Z0{draws.letters(4)}"),
        "SkuName": text(sku),
        "ProductName": text(product),
        "PublisherName": '"Microsoft"',
        "PublisherId": '""',
        "SubscriptionDescription": '"Azure plan"',
        "SubscriptionId": text(customer.subscription),
        "ChargeStartDate": _day("last", 1),
        "ChargeEndDate": _day("last", 28),
        "UsageDate": _day("last", 1 + index % 28),
        "MeterType": text(f"{meter} - {unit}"),
        "MeterCategory": text(category),
        "MeterId": text(f"{1 + index % 4}core" if index % 7 == 0 else draws.guid()),
        "MeterSubCategory": text(subcategory),
        "MeterName": text(meter),
        "MeterRegion": text(region),
        "Unit": text(unit),
        "ResourceLocation": text(draws.pick(("EASTUS2", "WESTEUROPE", "NORTHEUROPE"))),
        "ConsumedService": '"Microsoft.Compute"',
        "ResourceGroup": text(group),
        "ResourceURI": f'"/subscriptions/{entitlement}/resourceGroups/{group}/providers/'
        f'Microsoft.Compute/virtualMachines/vm<row>"',
        "ChargeType": '"new"',
        "UnitPrice": price,
        "Quantity": draws.pick(("24", "-4", number(draws.between(1, 10**8), 6, plain=True))),
        "UnitType": text(unit),
        "BillingPreTaxTotal": pretax,
        "BillingCurrency": '"<currency>"',
        "PricingPreTaxTotal": pretax,
        "PricingCurrency": '"USD"',
        "ServiceInfo1": '""',
        "ServiceInfo2": f'"<generation>/{draws.letters(20, "abcdef0123456789")}"',
        "Tags": text(obj(tags)) if index % 4 else '""',
        "AdditionalInfo": text(obj(info).replace(",", ",  ")),
        "EffectiveUnitPrice": f"0.1{draws.digits(21)}" if index % 9 else "0",
        "PCToBCExchangeRate": draws.pick(("1", "0.9174311926605505")),
        "PCToBCExchangeRateDate": _day("last", 1),
        "EntitlementId": text(entitlement),
        "EntitlementDescription": '"Partner Subscription"',
        "PartnerEarnedCreditPercentage": percentage,
        "CreditPercentage": "100" if index % 10 == 3 else "0",
        "CreditType": '"Partner Earned Credit Applied"' if earned else '"Credit Not Applied"',
        "BenefitOrderID": '""',
        "BenefitID": '""',
        "BenefitType": "null" if index % 2 else '""',
    }
    return row, 0


_DRAWN: Mapping[str, Callable[[int, int, RowStyle], tuple[Row, int]]] = {
    "reconciliation": _reconciliation,
    "usage": _usage,
}


# Spellings, each for some rows.


def _spelled(row: Row, index: int, quirks: tuple[str, ...]) -> Row:
    for quirk in quirks:
        row = _QUIRKS[quirk](row, index)
    return row


def _absent_keys(row: Row, index: int) -> Row:
    if index % 2:
        return row
    return {key: value for key, value in row.items() if key not in MAY_BE_ABSENT}


def _nulls(row: Row, index: int) -> Row:
    if index % 2:
        return row
    return {key: "null" if key in MAY_BE_ABSENT else value for key, value in row.items()}


def _other_case(row: Row, index: int) -> Row:
    if index % 3 != 1:
        return row
    spell = str.upper if index % 2 else str.lower
    return {spell(key): value for key, value in row.items()}


def _unknown_keys(row: Row, index: int) -> Row:
    if index % 5 != 2:
        return row
    benefits = array([obj({"Type": '"Discount"', "Amount": "1.50"})])
    return {**row, "PartnerPrice": "0.0250", "PriceBenefits": benefits, "Note": '"new in 2027"'}


def _text_numbers(row: Row, index: int) -> Row:
    if index % 3 == 0:
        return _with_numbers(row, lambda value: f'"{value}"')
    return row


def _exponents(row: Row, index: int) -> Row:
    if index % 4 == 1:
        return _with_numbers(row, _with_exponent)
    return row


def _with_numbers(row: Row, spell: Callable[[str], str]) -> Row:
    return {
        key: spell(value) if key.casefold() in _NUMBERS and _is_number(value) else value
        for key, value in row.items()
    }


_NUMBERS = frozenset(name.casefold() for name in NUMBERS)


def _is_number(value: str) -> bool:
    return value not in ("null", '""') and not value.startswith('"')


def _with_exponent(value: str) -> str:
    whole, _, fraction = value.partition(".")
    sign, digits = value[: value.startswith("-")], f"{whole}{fraction}".lstrip("-0") or "0"
    return f"{sign}{digits}E-{len(fraction)}"


def _lists(row: Row, index: int) -> Row:
    if index % 5 != 3:
        return row
    lists = {
        "PriceAdjustmentDescription": '["15.0% discount","a \\"list\\""]',
        "ProductQualifiers": '["AddOn","Trial"]',
        "Tags": '{"env":"prod"}',
        "AdditionalInfo": '{"ImageType":null,"VCPUs":4}',
    }
    known = {key.casefold(): value for key, value in lists.items()}
    return {key: known.get(key.casefold(), value) for key, value in row.items()}


def _line_separators(row: Row, index: int) -> Row:
    if index % 4 != 2:
        return row
    name = json.dumps('Zoë\u2028and\u2029 "Söhne" \\ \n end', ensure_ascii=False)
    return {key: name if key.casefold() == "customername" else value for key, value in row.items()}


def _dates(row: Row, index: int) -> Row:
    ending = _TIMES[index % len(_TIMES)]
    return {
        key: value.removesuffix(_MIDNIGHT) + ending if value.endswith(_MIDNIGHT) else value
        for key, value in row.items()
    }


_QUIRKS: Mapping[str, Callable[[Row, int], Row]] = {
    "absent_keys": _absent_keys,
    "nulls": _nulls,
    "other_case": _other_case,
    "unknown_keys": _unknown_keys,
    "text_numbers": _text_numbers,
    "exponents": _exponents,
    "lists": _lists,
    "line_separators": _line_separators,
    "dates": _dates,
}
