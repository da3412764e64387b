"""The declared schemas: which columns each line-item type has, and of which type.

Field lists are those of the API's resources (`LicenseBasedLineItem`, `UsageBasedLineItem`, `DailyUsageLineItem`,
`OneTimeInvoiceLineItem`, `DailyRatedUsageLineItem` in Microsoft's "Invoice resources" page and the .NET SDK's models),
in the order in which the API writes them. Columns keep the API's own spelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised whenever a declared schema, or the meaning of a column, changes."""

INVOICE_ID = "invoice_id"
LINE_NUMBER = "line_number"
RESCUED = "_rescued"

MONEY = pa.decimal128(38, 24)
"""Money, rates and quantities: 14 digits before the point; 22 behind it occur in real rates."""
INSTANT = pa.timestamp("us", "UTC")
"""Dates: microseconds, because Iceberg and Delta know no nanoseconds and year 1 means unset."""


class Kind(Enum):
    """What a field of the API holds, and the Arrow type of its column."""

    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    DATE = "date"
    BOOLEAN = "boolean"
    TEXT_LIST = "list of text"
    OBJECT_TYPE = "object type"
    JSON = "JSON text"

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of a column of this kind."""
        return _ARROW_TYPES[self]


_ARROW_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.INTEGER: pa.int64(),
    Kind.DECIMAL: MONEY,
    Kind.DATE: INSTANT,
    Kind.BOOLEAN: pa.bool_(),
    Kind.TEXT_LIST: pa.list_(pa.string()),
    Kind.OBJECT_TYPE: pa.struct([("objectType", pa.string())]),
    Kind.JSON: pa.string(),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a resource: its name as the API spells it, and what it holds."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class LineItemSchema:
    """The columns of one line-item type.

    `resource` is Microsoft's name of it, or "" for a type that nobody declared.
    `total` names the column whose sum is the transfer's share of its invoice's `totalCharges`, or is None.
    """

    resource: str
    fields: tuple[Field, ...]
    total: str | None = None

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema on disk: position, the API's own columns, and what they could not hold."""
        return pa.schema(
            [
                pa.field(INVOICE_ID, pa.string(), nullable=False),
                pa.field(LINE_NUMBER, pa.int64(), nullable=False),
                *(pa.field(field.name, field.kind.arrow_type) for field in self.fields),
                pa.field(RESCUED, pa.string()),
            ]
        )


def _declare(order: str, **kinds: str) -> tuple[Field, ...]:
    """Declare fields in the API's order; those that no kind names are text."""
    kind_of = {name: Kind[kind.upper()] for kind, names in kinds.items() for name in names.split()}
    if strangers := kind_of.keys() - set(order.split()):
        raise ValueError(f"a kind is given for fields that are not listed: {strangers}")
    return tuple(Field(name, kind_of.get(name, Kind.TEXT)) for name in order.split())


LICENSE_BASED = LineItemSchema(
    resource="LicenseBasedLineItem",
    total="totalForCustomer",
    fields=_declare(
        """
        partnerId customerId customerName mpnId tier2MpnId orderId subscriptionId
        syndicationPartnerSubscriptionNumber offerId durableOfferId offerName domainName billingCycleType
        subscriptionName subscriptionDescription subscriptionStartDate subscriptionEndDate chargeStartDate
        chargeEndDate chargeType unitPrice quantity amount totalOtherDiscount subtotal tax totalForCustomer
        currency invoiceLineItemType billingProvider attributes
        """,
        integer="mpnId tier2MpnId",
        decimal="unitPrice quantity amount totalOtherDiscount subtotal tax totalForCustomer",
        date="subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

_USAGE_BASE = """
    partnerId partnerName partnerBillableAccountId customerId customerName customerCompanyName domainName mpnId
    tier2MpnId invoiceNumber subscriptionId subscriptionName subscriptionDescription billingCycleType orderId
    serviceName serviceType resourceGuid resourceName region consumedQuantity chargeStartDate chargeEndDate
    unit billingProvider attributes
"""

USAGE_BASED = LineItemSchema(
    resource="UsageBasedLineItem",
    total="postTaxTotal",
    fields=_declare(
        """
        detailLineItemId sku includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount
        currency pretaxCharges taxAmount postTaxTotal pretaxEffectiveRate postTaxEffectiveRate chargeType
        invoiceLineItemType
        """
        + _USAGE_BASE,
        integer="detailLineItemId mpnId tier2MpnId",
        decimal="""
            includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount pretaxCharges taxAmount
            postTaxTotal pretaxEffectiveRate postTaxEffectiveRate consumedQuantity
        """,
        date="chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

DAILY_USAGE = LineItemSchema(
    resource="DailyUsageLineItem",
    fields=_declare(
        """
        customerBillableAccount usageDate meteredService meteredServiceType meteredRegion project serviceInfo
        invoiceLineItemType
        """
        + _USAGE_BASE,
        integer="mpnId tier2MpnId",
        decimal="consumedQuantity",
        date="usageDate chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

ONE_TIME = LineItemSchema(
    resource="OneTimeInvoiceLineItem",
    total="totalForCustomer",
    fields=_declare(
        """
        partnerId customerId customerName customerDomainName customerCountry invoiceNumber quoteId mpnId
        resellerMpnId orderId orderDate productId skuId availabilityId productName skuName productQualifiers
        chargeType unitPrice effectiveUnitPrice unitType quantity subtotal taxTotal totalForCustomer currency
        publisherName publisherId providerName providerId subscriptionDescription subscriptionId
        subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate termAndBillingCycle alternateId
        referenceId priceAdjustmentDescription discountDetails pricingCurrency pcToBCExchangeRate
        pcToBCExchangeRateDate billableQuantity meterDescription billingFrequency reservationOrderId
        creditReasonCode invoiceLineItemType billingProvider promotionId attributes
        """,
        integer="resellerMpnId",
        decimal="""
            unitPrice effectiveUnitPrice quantity subtotal taxTotal totalForCustomer pcToBCExchangeRate
            billableQuantity
        """,
        date="""
            orderDate subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate
            pcToBCExchangeRateDate
        """,
        text_list="productQualifiers",
        object_type="attributes",
    ),
)

DAILY_RATED_USAGE = LineItemSchema(
    resource="DailyRatedUsageLineItem",
    fields=_declare(
        """
        partnerId partnerName customerId customerName customerDomainName customerCountry invoiceNumber productId
        skuId availabilityId skuName productName publisherName publisherId subscriptionDescription subscriptionId
        chargeStartDate chargeEndDate usageDate meterType meterCategory meterId meterSubCategory meterName
        meterRegion unitOfMeasure resourceLocation consumedService resourceGroup resourceUri tags additionalInfo
        serviceInfo1 serviceInfo2 mpnId resellerMpnId chargeType unitPrice quantity unitType billingPreTaxTotal
        billingCurrency pricingPreTaxTotal pricingCurrency entitlementId entitlementDescription
        pcToBCExchangeRate pcToBCExchangeRateDate effectiveUnitPrice rateOfPartnerEarnedCredit
        hasPartnerEarnedCredit rateOfCredit creditType invoiceLineItemType billingProvider attributes
        """,
        decimal="""
            unitPrice quantity billingPreTaxTotal pricingPreTaxTotal pcToBCExchangeRate effectiveUnitPrice
            rateOfPartnerEarnedCredit rateOfCredit
        """,
        date="chargeStartDate chargeEndDate usageDate pcToBCExchangeRateDate",
        boolean="hasPartnerEarnedCredit",
        object_type="attributes",
    ),
)

DECLARED: dict[tuple[str, str], LineItemSchema] = {
    ("office", "billing_line_items"): LICENSE_BASED,
    ("azure", "billing_line_items"): USAGE_BASED,
    ("azure", "usage_line_items"): DAILY_USAGE,
    ("one_time", "billing_line_items"): ONE_TIME,
    ("one_time", "usage_line_items"): DAILY_RATED_USAGE,
    ("marketplace", "usage_line_items"): DAILY_RATED_USAGE,
    ("all", "billing_line_items"): ONE_TIME,
    ("all", "usage_line_items"): DAILY_RATED_USAGE,
}
"""Schema of each (billing provider, line-item type), both in the API's JSON spelling."""

INVOICE = _declare(
    """
    id invoiceDate billingPeriodStartDate billingPeriodEndDate totalCharges paidAmount currencyCode currencySymbol
    pdfDownloadLink taxReceipts invoiceDetails documentType amendsOf invoiceType state links attributes
    """,
    decimal="totalCharges paidAmount",
    date="invoiceDate billingPeriodStartDate billingPeriodEndDate",
    json="taxReceipts invoiceDetails links attributes",
)
"""Fields of an invoice header. Nested ones are kept as exact JSON text; amendments are rows of their own."""

AMENDMENT_OF = "amendment_of"

INVOICE_ARROW = pa.schema(
    [
        *(pa.field(field.name, field.kind.arrow_type, nullable=field.name != "id") for field in INVOICE),
        pa.field(AMENDMENT_OF, pa.string()),
        pa.field(RESCUED, pa.string()),
    ]
)
"""Columns of the table of invoice headers; `amendment_of` is the id of the invoice an amendment came in."""


def schema_of(provider: str, line_item_type: str) -> LineItemSchema | None:
    """Return the declared schema of a detail, or None for a line-item type that nobody declared."""
    return DECLARED.get((provider, line_item_type))
