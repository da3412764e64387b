"""The line items of each type, field by field as Partner Center sends them, quirks included.

A row is text with a few places left open, which are filled for the invoice and the place it stands
at: `<row>` (its nine-digit number, once in each row), `<invoice>`, `<currency>`, and the months
`<last>`, `<this>` and `<next>` around the invoice date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.json_text import array, money, number, obj, object_type, text

ROW_DIGITS = 9
CUSTOMERS = 40
ROWS_OF_A_RESOURCE = 8
UNSET_DATE = "0001-01-01T00:00:00"

NAMES = (
    "CONTOSO",
    "FABRIKAM RESIDENCES",
    "A. DATUM CORPORATION",
    "Müller & Söhne GmbH",
    "株式会社サンプル",
    "Ателье «Север»",
    "CAFÉ DE L'ÎLE",
    'The "Quoted" Company',
    "Back\\slash & Sons",
    "Blue Yonder Airlines 🛫",
    "TAILSPIN TOYS",
    "Łódź Logistyka Sp. z o.o.",
    "WINGTIP TOYS",
    "PROSEWARE, INC.",
)
OFFERS = (
    ("OFFICE 365 ENTERPRISE E1", 640),
    ("OFFICE 365 ENTERPRISE E3", 1600),
    ("OFFICE 365 BUSINESS PREMIUM", 1000),
    ("OFFICE 365 BUSINESS", 660),
    ("AZURE ACTIVE DIRECTORY BASIC", 0),
    ("AZURE ACTIVE DIRECTORY PREMIUM", 480),
    ("EXCHANGE ONLINE (PLAN 2)", 635),
    ("PROJECT ONLINE PREMIUM", 4415),
)
METERS = (
    ("VIRTUAL MACHINES", "A1 VM", "COMPUTE HOURS", "US WEST", "1 Hour"),
    ("STORAGE", "GEO REDUNDANT", "STANDARD IO - PAGE BLOB/DISK (GB)", "", "1 GB/Month"),
    ("NETWORKING", "PUBLIC IP ADDRESSES", "IP ADDRESS HOURS", "", "1 Hour"),
    ("DATA MANAGEMENT", "", "STORAGE TRANSACTIONS (IN 10,000S)", "", "10,000s"),
    ("DATA MANAGEMENT", "", "DATA TRANSFER OUT (GB)", "ZONE 1", "1 GB"),
    ("SQL DATABASE", "STANDARD", "S1 DATABASE DAYS", "EU NORTH", "1/Day"),
)
PRODUCTS = (
    ("Microsoft 365 Phone System - Virtual User", 0),
    ("Power BI Premium Per User", 1600),
    ("Office 365 E3", 2000),
    ("Dynamics 365 Sales Enterprise – Édition Europe", 8550),
    ("Reserved VM Instance, Standard_D1, AP East, 3 years", 144700),
    ("Azure plan", 2635),
)
ADJUSTMENTS = (
    (),
    ("100.0% Tier 1 Discount",),
    ("15.0% Partner earned credit for services managed",),
    ("1 month billing", "You are getting a discount for being a partner.", "Yearly Duration"),
    (
        "Price for given billing period",
        "You are getting a discount due to a pre-determined override.",
        "You are getting a price guarantee for your price.",
    ),
)
IMAGES = (
    ("Test Server on Windows 2019 (WebHost)", "Test Server on Windows"),
    ("Test Server on Ubuntu 20.04 (WebHost)", "Test Server on Linux"),
    ("VM-Series Next-Generation Firewall (Bundle 2 PAYG)", "VM-Series Next Generation Firewall"),
)


@dataclass(frozen=True, slots=True)
class RowStyle:
    """What the rows of one invoice share: the keys of 2016 or the later ones, and charges or
    credits."""

    early: bool = False
    credit: bool = False

    @property
    def sign(self) -> int:
        """1 for charges, -1 for credits."""
        if self.credit:
            return -1
        return 1


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """One row with its open places, and what it adds to the invoice's total."""

    text: str
    cents: int


@dataclass(frozen=True, slots=True)
class Customer:
    """Whom the partner sells to. Its texts are JSON already."""

    number: str
    guid: str
    name: str
    domain: str
    country: str
    subscription: str


@dataclass(frozen=True, slots=True)
class Consumption:
    """What one subscription used of one resource: the same in a billing row and in its usage
    row."""

    customer: Customer
    order: str
    account: str
    resource_guid: str
    meter: tuple[str, str, str, str, str]
    tier: int
    units: int
    decimals: int

    def quantity(self, *, plain: bool) -> str:
        """The quantity as a number."""
        return number(self.units, self.decimals, plain=plain)


def row_template(seed: int, kind: str, style: RowStyle, index: int) -> RowTemplate:
    """The row at `index` of the pool of `kind` (a provider/type pair)."""
    return _ROWS[kind](seed, index, style)


@cache
def customers(seed: int) -> tuple[Customer, ...]:
    """The tenant's customers."""
    return tuple(_customer(seed, index) for index in range(CUSTOMERS))


def _customer(seed: int, index: int) -> Customer:
    draws = Draws(seed, "customer", index)
    name = NAMES[index % len(NAMES)] + (f" {index}" if index >= len(NAMES) else "")
    return Customer(
        number=text(draws.digits(10)),
        guid=text(draws.guid()),
        name=text(name, escaped=index % 2 == 1),
        domain=text(f"customer{index:02d}.onmicrosoft.com"),
        country=text(draws.pick(("US", "DE", "FR", "JP", "PL"))),
        subscription=draws.guid(),
    )


@cache
def _partner(seed: int) -> str:
    return Draws(seed, "partner").guid()


@cache
def mpn_id(seed: int) -> str:
    """The partner's own id in Microsoft's programme."""
    return Draws(seed, "mpn").digits(7)


def _day(month: str, day: int) -> str:
    return f'"<{month}>-{day:02d}T00:00:00"'


def _utc_day(month: str, day: int) -> str:
    return f'"<{month}>-{day:02d}T00:00:00Z"'


def _office(seed: int, index: int, style: RowStyle) -> RowTemplate:
    draws = Draws(seed, "office", index)
    customer, (offer, unit_cents) = draws.pick(customers(seed)), draws.pick(OFFERS)
    quantity, prorated = draws.between(1, 40), index % 7 == 3
    amount = style.sign * unit_cents * quantity
    discount = -(abs(amount) // 10) * style.sign if index % 5 == 1 else 0
    subtotal = amount + discount
    tax = subtotal * 95 // 1000
    total = subtotal + tax
    charge, start, end = "CYCLE FEE", _day("this", 5), _day("next", 4)
    if prorated:
        charge, start, end = "PRORATE FEE WHEN RENEW", _day("last", 12), _day("this", 4)
    if not unit_cents:
        charge = "PURCHASE FEE"
    if style.credit and not style.early:
        charge = "CANCEL"
    offer_text = text(offer)
    plain = index % 3 == 2
    row = {
        "partnerId": text(_partner(seed)),
        "customerId": customer.number if style.early else customer.guid,
        "customerName": customer.name,
        "mpnId": mpn_id(seed),
        "tier2MpnId": "-1" if index % 9 else draws.digits(7),
        "orderId": '"567453564<row>"',
        "subscriptionId": text(
            draws.letters(4, "abcdefghijkmnopqrstuvwxyzABCDEFGH") + "JgEAAAAAAAEA"
        ),
        "syndicationPartnerSubscriptionNumber": text(draws.guid().upper()),
        "offerId": text(draws.guid().upper()),
        "durableOfferId": text(draws.guid().upper()),
        "offerName": offer_text,
    }
    if not style.early:
        row |= {
            "domainName": customer.domain,
            "billingCycleType": '"MONTHLY"',
            "subscriptionName": offer_text,
            "subscriptionDescription": offer_text,
        }
    row |= {
        "subscriptionStartDate": _day("last", 5),
        "subscriptionEndDate": _day("next", 5),
        "chargeStartDate": start,
        "chargeEndDate": end,
        "chargeType": text(charge),
        "unitPrice": money(unit_cents, plain=plain),
        "quantity": str(quantity),
        "amount": money(amount, plain=plain),
        "totalOtherDiscount": money(discount, plain=plain),
        "subtotal": money(subtotal, plain=plain),
        "tax": money(tax, plain=plain),
        "totalForCustomer": money(total, plain=plain),
        "currency": '"<currency>"',
        "invoiceLineItemType": '"billing_line_items"',
        "billingProvider": '"office"',
        "attributes": object_type("LicenseBasedLineItem"),
    }
    return RowTemplate(obj(row), total)


def _consumption(seed: int, index: int) -> Consumption:
    resource = Draws(seed, "resource", index // ROWS_OF_A_RESOURCE)
    draws = Draws(seed, "consumption", index)
    units, decimals = draws.pick(
        (
            (draws.between(1, 31) * 24, 0),
            (draws.between(1, 99_999_999), 6),
            (draws.between(1, 9_999_999), 4),
            (13_111_679_999_999_999 + draws.below(10**12), 16),
        )
    )
    return Consumption(
        customer=resource.pick(customers(seed)),
        order=f"567{resource.digits(6)}",
        account=resource.digits(10),
        resource_guid=resource.guid(),
        meter=resource.pick(METERS),
        tier=index % ROWS_OF_A_RESOURCE + 1,
        units=units,
        decimals=decimals,
    )


def _azure_base(seed: int, used: Consumption, style: RowStyle, *, plain: bool) -> dict[str, str]:
    service, service_type, resource_name, region, unit = used.meter
    row = {
        "partnerId": text(_partner(seed).upper()),
        "partnerName": '"SIERRA CLOUD SOLUTIONS"',
        "partnerBillableAccountId": '"3154764530"',
    }
    if not style.early:
        row |= {"customerId": used.customer.guid, "domainName": used.customer.domain}
    row |= {
        "customerCompanyName": used.customer.name,
        "mpnId": mpn_id(seed),
        "tier2MpnId": "-1",
        "invoiceNumber": '"<invoice>"',
        "subscriptionId": text(
            used.customer.subscription.upper() if style.early else used.customer.subscription
        ),
        "subscriptionName": '"MICROSOFT AZURE"',
        "subscriptionDescription": '"MICROSOFT AZURE"',
    }
    if not style.early:
        row["billingCycleType"] = '"Monthly"'
    row |= {
        "orderId": f'"{used.order}<row>"',
        "serviceName": text(service),
        "serviceType": text(service_type),
        "resourceGuid": text(used.resource_guid.upper() if style.early else used.resource_guid),
        "resourceName": text(resource_name),
        "region": text(region),
        "consumedQuantity": used.quantity(plain=plain),
        "chargeStartDate": _day("last", 5),
        "chargeEndDate": _day("this", 4),
    }
    if not style.early:
        row["unit"] = text(unit)
    return row | {"billingProvider": '"azure"'}


def _azure_billing(seed: int, index: int, style: RowStyle) -> RowTemplate:
    used, draws, plain = _consumption(seed, index), Draws(seed, "azure", index), index % 3 == 1
    list_price = draws.between(10, 5000)
    discount = draws.between(-700_000, 200_000)
    rate = max(list_price * 10_000 - discount, 0)
    pretax = style.sign * (used.units * rate // 10 ** (used.decimals + 6))
    tax = pretax * 95 // 1000
    row = {
        "detailLineItemId": str(used.tier),
        "sku": '"7UD-00001"',
        "includedQuantity": number(0, 0, plain=plain),
        "overageQuantity": used.quantity(plain=plain),
        "listPrice": number(list_price, 4, plain=plain),
        "consumptionPrice": number(rate, 8, plain=plain),
        "consumptionDiscount": number(discount, 8, plain=plain),
        "currency": '"<currency>"',
        "pretaxCharges": money(pretax, plain=plain),
        "taxAmount": money(tax, plain=plain),
        "postTaxTotal": money(pretax + tax, plain=plain),
        "pretaxEffectiveRate": number(rate, 8, plain=plain),
        "postTaxEffectiveRate": number(rate * 1095 // 1000, 8, plain=plain),
        "chargeType": '"ASSESS USAGE FEE FOR CURRENT CYCLE"',
        "invoiceLineItemType": '"billing_line_items"',
    }
    row |= _azure_base(seed, used, style, plain=plain)
    return RowTemplate(obj(row | {"attributes": object_type("UsageBasedLineItem")}), pretax + tax)


def _azure_usage(seed: int, index: int, style: RowStyle) -> RowTemplate:
    used = _consumption(seed, index)
    row = {
        "customerBillableAccount": text(used.account),
        "usageDate": _day("last", 5 + index % 24),
    }
    if style.early:
        row |= {
            "meteredService": text(used.meter[0]),
            "meteredServiceType": '"EXTERNAL"',
            "meteredRegion": '"NORTH EUROPE"',
            "project": text(f"ITSTORE{index // ROWS_OF_A_RESOURCE:04d}"),
        }
    row["invoiceLineItemType"] = '"usage_line_items"'
    row |= _azure_base(seed, used, style, plain=index % 2 == 1)
    return RowTemplate(obj(row | {"attributes": object_type("DailyUsageLineItem")}), 0)


def _data_market_base(seed: int, used: Consumption, *, plain: bool) -> dict[str, str]:
    service, _, resource_name, region, _ = used.meter
    return {
        "partnerId": text(_partner(seed).upper()),
        "partnerName": '"SIERRA CLOUD SOLUTIONS"',
        "customerCompanyName": used.customer.name,
        "partnerMpnId": mpn_id(seed),
        "invoiceNumber": '"<invoice>"',
        "chargeStartDate": _day("last", 5),
        "chargeEndDate": _day("this", 4),
        "subscriptionId": text(used.customer.subscription),
        "subscriptionName": '"AZURE DATA MARKET"',
        "subscriptionDescription": '"AZURE DATA MARKET"',
        "orderId": f'"{used.order}<row>"',
        "serviceName": text(service),
        "resourceName": text(resource_name),
        "region": text(region),
        "consumedQuantity": used.quantity(plain=plain),
        "billingProvider": '"azure_data_market"',
    }


def _data_market_billing(seed: int, index: int, style: RowStyle) -> RowTemplate:
    used, draws, plain = (
        _consumption(seed, index),
        Draws(seed, "data market", index),
        index % 2 == 0,
    )
    pretax = style.sign * draws.between(1, 250_000)
    tax = pretax * 95 // 1000
    row = {
        "includedQuantity": number(0, 0, plain=plain),
        "overageQuantity": used.quantity(plain=plain),
        "listPrice": number(draws.between(10, 5000), 4, plain=plain),
        "consumptionPrice": number(draws.between(10, 5000), 4, plain=plain),
        "consumptionDiscount": number(0, 0, plain=plain),
        "pretaxCharges": money(pretax, plain=plain),
        "taxAmount": money(tax, plain=plain),
        "postTaxTotal": money(pretax + tax, plain=plain),
        "currencyCode": '"<currency>"',
        "pretaxEffectiveRate": number(draws.between(10, 50_000_000), 8, plain=plain),
        "postTaxEffectiveRate": number(draws.between(10, 50_000_000), 8, plain=plain),
        "chargeType": '"ASSESS USAGE FEE FOR CURRENT CYCLE"',
        "invoiceLineItemType": '"billing_line_items"',
    }
    row |= _data_market_base(seed, used, plain=plain)
    return RowTemplate(
        obj(row | {"attributes": object_type("AzureDataMarketLineItem")}), pretax + tax
    )


def _data_market_usage(seed: int, index: int, _style: RowStyle) -> RowTemplate:
    used = _consumption(seed, index)
    row = {
        "usageDate": _day("last", 5 + index % 24),
        "meteredServiceName": text(used.meter[0]),
        "meteredServiceType": text(used.meter[1]),
        "resourceFriendlyName": text(f"ITDATA{index // ROWS_OF_A_RESOURCE:04d}"),
        "invoiceLineItemType": '"usage_line_items"',
    }
    row |= _data_market_base(seed, used, plain=index % 2 == 1)
    return RowTemplate(
        obj(row | {"attributes": object_type("AzureDataMarketDailyUsageLineItem")}), 0
    )


@dataclass(frozen=True, slots=True)
class _OneTimeShape:
    """Which of the documented shapes a one-time row has."""

    as_text: bool
    pacific: bool
    anonymous: bool
    azure_plan: bool
    flat_key: bool

    def spelled(self, value: str) -> str:
        if self.as_text:
            return f'"{value}"'
        return value

    def instant(self, month: str, day: int, ticks: str) -> str:
        if self.pacific:
            return f'"<{month}>-{day:02d}T09:22:40.{ticks}-08:00"'
        if self.azure_plan:
            return f'"<{month}>-{day:02d}T19:53:55.{ticks}+00:00"'
        return _utc_day(month, day)


def _one_time_shape(index: int) -> _OneTimeShape:
    return _OneTimeShape(
        as_text=index % 4 == 1,
        pacific=index % 12 in (3, 6),
        anonymous=index % 12 == 3,
        azure_plan=index % 4 == 2,
        flat_key=index % 50 == 7,
    )


def _one_time(seed: int, index: int, style: RowStyle) -> RowTemplate:
    draws, shape = one_time_draws(seed, index), _one_time_shape(index)
    charge = one_time_charge(draws, index, style)
    row = _charge_fields(draws, index, shape, charge)
    row = _one_time_head(seed, draws, index, shape) | row | _one_time_tail(draws, index, shape)
    return RowTemplate(obj(row), charge.total)


def _one_time_head(seed: int, draws: Draws, index: int, shape: _OneTimeShape) -> dict[str, str]:
    customer, product = (
        draws.pick(customers(seed)),
        text(PRODUCTS[index % len(PRODUCTS)][0], escaped=index % 4 == 0),
    )
    row = {
        "partnerId": text(_partner(seed)),
        "customerId": f'"org:{customer.guid[1:]}' if shape.azure_plan else customer.guid,
        "customerName": customer.name,
        "customerDomainName": customer.domain,
        "customerCountry": customer.country,
        "invoiceNumber": '"<invoice>"',
        "mpnId": text(mpn_id(seed)),
        "resellerMpnId": draws.pick(('"4649221"', '"0"')) if shape.as_text else "0",
        "orderId": f'"{draws.letters(4, "abcdef0123456789")}<row>"',
        "orderDate": f'"<last>-{draws.between(1, 28):02d}T18:30:06.{draws.digits(7)}Z"',
        "productId": text(f"CFQ7TTC0{draws.letters(4)}"),
        "skuId": text(f"{draws.below(99):04d}"),
        "availabilityId": text(f"CFQ7TTC0{draws.letters(4)}"),
        "productName": product,
        "skuName": product,
    }
    if shape.as_text or index % 8 == 0:
        row["productQualifiers"] = draws.pick(("[]", '["AddOn"]', '["AddOn","Trial"]'))
    return row


@dataclass(frozen=True, slots=True)
class OneTimeCharge:
    """What one row of new commerce charges, in cents; the same in both APIs."""

    unit: int
    effective: int
    quantity: int
    is_credit: bool

    @property
    def subtotal(self) -> int:
        """The charge before tax."""
        return self.effective * self.quantity

    @property
    def tax(self) -> int:
        """The tax on it."""
        return self.subtotal * 1006 // 10_000

    @property
    def total(self) -> int:
        """What it adds to the invoice."""
        return self.subtotal + self.tax


def one_time_draws(seed: int, index: int) -> Draws:
    """Return the draws of a row of new commerce; its charge is drawn first."""
    return Draws(seed, "one_time", index)


def one_time_charge(draws: Draws, index: int, style: RowStyle) -> OneTimeCharge:
    """Return the charge of the row at `index` of the pool."""
    refund, unit = index % 11 == 5, PRODUCTS[index % len(PRODUCTS)][1]
    return OneTimeCharge(
        unit=unit,
        effective=unit - unit // 10 if index % 3 == 0 else unit,
        quantity=draws.between(1, 50) * (-1 if refund else 1) * style.sign,
        is_credit=refund or style.credit,
    )


def _charge_fields(
    draws: Draws, index: int, shape: _OneTimeShape, charge: OneTimeCharge
) -> dict[str, str]:
    plain = index % 6 != 0
    kind = "new" if shape.as_text else "New"
    if charge.is_credit:
        kind = "cancelImmediate"
    return {
        "chargeType": text(kind),
        "unitPrice": shape.spelled(money(charge.unit, plain=plain)),
        "effectiveUnitPrice": shape.spelled(money(charge.effective, plain=plain)),
        "unitType": text(draws.pick(("", "Licenses", "1 Hour"))),
        "quantity": shape.spelled(str(charge.quantity)),
        "subtotal": shape.spelled(money(charge.subtotal, plain=plain)),
        "taxTotal": shape.spelled(money(charge.tax, plain=plain)),
        "totalForCustomer": shape.spelled(money(charge.total, plain=plain)),
        "currency": '"<currency>"',
    }


def _one_time_tail(draws: Draws, index: int, shape: _OneTimeShape) -> dict[str, str]:
    own = draws.pick(("Microsoft Corporation", "Microsoft Corporation", "Test Networks, Inc."))
    adjustment = ADJUSTMENTS[index % len(ADJUSTMENTS)]
    row = {
        "publisherName": text(own),
        "publisherId": '""' if own.startswith("Microsoft") else '"21223810"',
        "subscriptionDescription": '""',
        "subscriptionId": text(draws.guid()),
    }
    if index % 8 != 4:
        row |= {
            "subscriptionStartDate": shape.instant("last", 1, draws.digits(7)),
            "subscriptionEndDate": shape.instant("next", 1, draws.digits(7)),
        }
    row |= {
        "chargeStartDate": shape.instant("last", 1, draws.digits(7)),
        "chargeEndDate": shape.instant("this", 1, draws.digits(7)),
        "termAndBillingCycle": text(
            draws.pick(("One-Year commitment for monthly/yearly billing", "1 Month Subscription"))
        ),
        "alternateId": text(draws.letters(12, "abcdef0123456789")),
    }
    if shape.as_text:
        row["referenceId"] = text(draws.guid())
    row |= {
        "priceAdjustmentDescription": text(array(map(text, adjustment)) if adjustment else ""),
        "discountDetails": '""',
        "pricingCurrency": '"USD"',
        "pcToBCExchangeRate": shape.spelled(draws.pick(("1", "1", "0.9174311926605505"))),
        "pcToBCExchangeRateDate": text(UNSET_DATE) if index % 8 == 4 else _day("last", 1),
        "billableQuantity": shape.spelled(
            number(draws.below(10**10), 10, plain=True)
            if shape.azure_plan
            else str(draws.between(1, 50))
        ),
        "meterDescription": '"Bandwidth - Data Transfer In (GB) - Zone 2"'
        if shape.azure_plan
        else '""',
        "billingFrequency": '""' if index % 5 == 0 else '"Monthly"',
        "reservationOrderId": text(draws.guid()),
    }
    if not shape.anonymous:
        row |= {"invoiceLineItemType": '"billing_line_items"', "billingProvider": '"one_time"'}
    if shape.as_text:
        row["promotionId"] = draws.pick(('""', text(draws.guid())))
    if shape.flat_key:
        row["attributes/objectType"] = '"OneTimeInvoiceLineItem"'
    return row | {"attributes": object_type("OneTimeInvoiceLineItem")}


def _daily_rated(seed: int, index: int, style: RowStyle) -> RowTemplate:
    draws = Draws(seed, "daily_rated", index)
    row = _daily_rated_head(seed, draws, index) | _daily_rated_meter(draws, index)
    row |= _daily_rated_charge(seed, draws, index)
    row |= {
        "invoiceLineItemType": '"usage_line_items"',
        "billingProvider": '"marketplace"',
        "attributes": object_type("DailyRatedUsageLineItem"),
    }
    return RowTemplate(obj(row), 0)


def _daily_rated_head(seed: int, draws: Draws, index: int) -> dict[str, str]:
    customer, (sku, product), named = (
        draws.pick(customers(seed)),
        IMAGES[index % len(IMAGES)],
        index % 3 > 0,
    )
    return {
        "partnerId": text(_partner(seed)),
        "partnerName": '"Sierra Cloud Solutions"' if named else '""',
        "customerId": customer.guid if named else '""',
        "customerName": customer.name if named else '""',
        "customerDomainName": customer.domain if named else '""',
        "invoiceNumber": '"<invoice>"',
        "productId": text(f"DZH318Z0{draws.letters(4)}") if named else '""',
        "skuId": text(f"{draws.below(99):04d}") if named else '""',
        "availabilityId": '""',
        "skuName": text(sku),
        "productName": text(product),
        "publisherName": '"Test"',
        "publisherId": '"28503520"' if index % 2 else '""',
        "subscriptionId": text(customer.subscription),
        "subscriptionDescription": '"Subscription 10"',
    }


def _daily_rated_meter(draws: Draws, index: int) -> dict[str, str]:
    sku, product = IMAGES[index % len(IMAGES)]
    cores, group = draws.pick((1, 2, 4)), f"TestRG{index % 20}"
    info = {
        "ImageType": "null",
        "ServiceType": '"Standard_B1s"',
        "VMName": "null",
        "VMProperties": "null",
        "UsageType": '"ComputeHR_SW"',
    }
    return {
        "chargeStartDate": _utc_day("last", 1),
        "chargeEndDate": _utc_day("this", 1),
        "usageDate": _utc_day("last", 1 + index % 28),
        "meterType": text(f"1 Compute Hour - {cores}core"),
        "meterCategory": '"Virtual Machine Licenses"',
        "meterId": text(f"{cores}core") if index % 2 else text(draws.guid()),
        "meterSubCategory": text(product),
        "meterName": text(f"{product} - {sku} - {cores} Core Hours"),
        "meterRegion": '""',
        "unitOfMeasure": '"1 Hour"',
        "resourceLocation": text(draws.pick(("EASTUS2", "EASTUS", "WESTEUROPE"))),
        "consumedService": '"Microsoft.Compute"',
        "resourceGroup": text(group),
        "resourceUri": f'"/subscriptions/{draws.guid()}/resourceGroups/{group}/providers/'
        'Microsoft.Compute/virtualMachines/vm<row>"',
        "tags": text(obj({"costCenter": text(f"CC-{index % 30}"), "env": '"prod"'}))
        if index % 4 == 0
        else '""',
        "additionalInfo": text(obj(info).replace(",", ",  ")) if index % 5 else '""',
        "serviceInfo1": '""',
        "serviceInfo2": '""',
    }


def _daily_rated_charge(seed: int, draws: Draws, index: int) -> dict[str, str]:
    total = number(draws.between(10**12, 10**16), 15, plain=True)
    customer = draws.pick(customers(seed))
    row = {
        "customerCountry": customer.country if index % 3 else '""',
        "mpnId": text(mpn_id(seed)),
        "resellerMpnId": '"4649221"' if index % 10 == 0 else '""',
        "chargeType": '"new"',
        "unitPrice": number(draws.between(10**13, 10**15), 16, plain=True),
        "quantity": draws.pick(("24", "24.0", number(draws.between(1, 99_999_999), 6, plain=True))),
        "unitType": '"1 Hour"',
        "billingPreTaxTotal": total,
        "billingCurrency": '"<currency>"',
        "pricingPreTaxTotal": total,
        "pricingCurrency": '"USD"',
    }
    if index % 4 == 3:
        return row | {"creditType": '"Credit Not Applied"'}
    rate = "0.1999968000511991808131" if index % 10 == 1 else f"0.1{draws.digits(21)}"
    earned = index % 4 == 1
    row |= {
        "entitlementId": text(draws.guid()),
        "entitlementDescription": '"Partner Subscription"',
        "pcToBCExchangeRate": "1" if index % 2 else "0.9174311926605505",
        "pcToBCExchangeRateDate": _utc_day("last", 1),
        "effectiveUnitPrice": rate if index % 9 else "0",
        "rateOfPartnerEarnedCredit": "0.15" if earned else "0",
    }
    if index % 2:
        row |= {
            "rateOfCredit": "0.15" if earned else "1",
            "creditType": '"Partner Earned Credit Applied"' if earned else '"Azure Credit Applied"',
        }
    if earned:
        row["hasPartnerEarnedCredit"] = "true"
    return row


_ROWS: Mapping[str, Callable[[int, int, RowStyle], RowTemplate]] = {
    "office/billing_line_items": _office,
    "azure/billing_line_items": _azure_billing,
    "azure/usage_line_items": _azure_usage,
    "azure_data_market/billing_line_items": _data_market_billing,
    "azure_data_market/usage_line_items": _data_market_usage,
    "one_time/billing_line_items": _one_time,
    "one_time/usage_line_items": _daily_rated,
    "marketplace/billing_line_items": _one_time,
    "marketplace/usage_line_items": _daily_rated,
    "all/billing_line_items": _one_time,
    "all/usage_line_items": _daily_rated,
}
