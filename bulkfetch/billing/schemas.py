"""The declared schemas: which columns each line-item type has, and of which type.

Field lists are those of the API's resources (`LicenseBasedLineItem`, `UsageBasedLineItem`,
`DailyUsageLineItem`, `OneTimeInvoiceLineItem`, `DailyRatedUsageLineItem` in Microsoft's "Invoice
resources" page and the .NET SDK's models; `AzureDataMarketLineItem` and
`AzureDataMarketDailyUsageLineItem` in the first Java SDK), in the order in which the API writes
them. Columns keep the API's own spelling. Fields that newer or older documentation names, and those
that only other programs read, come before `invoiceLineItemType` or at the end of their group.

Amounts, prices and quantities are decimals. `quantity` of licences and of one-time purchases is a
whole number in the models and in all public rows, so it is an integer: a query can multiply it with
a price, which no reader can do exactly with two columns of 24 decimals each. A quantity that is not
whole is rescued like every value that its column cannot hold.

The rows of Microsoft Graph's export are not public, only their names are. So names are matched
without case, each amount and quantity is a decimal, and each id is text.
"""

from __future__ import annotations

import pyarrow as pa

from bulkfetch.decoding.fields import RESCUED, Field, Kind, LineItemSchema, Source

SCHEMA_VERSION = 2
"""Raised whenever a declared schema, or the meaning of a column, changes."""


def _declare(
    order: str,
    source: Source,
    *,
    sampled: str = "",
    modelled: str = "",
    read_by_others: str = "",
    **kinds: str,
) -> tuple[Field, ...]:
    """Declare fields in the API's order; those that no kind names are text.

    All are known from `source`, except those that are only `sampled`, only `modelled` or only
    `read_by_others`.
    """
    kind_of = {name: Kind[kind.upper()] for kind, names in kinds.items() for name in names.split()}
    source_of = {
        **dict.fromkeys(sampled.split(), Source.SAMPLED),
        **dict.fromkeys(modelled.split(), Source.MODELLED),
        **dict.fromkeys(read_by_others.split(), Source.READ_BY_OTHERS),
    }
    if strangers := (kind_of.keys() | source_of.keys()) - set(order.split()):
        raise ValueError(f"kinds or sources are given for fields that are not listed: {strangers}")
    return tuple(
        Field(name, kind_of.get(name, Kind.TEXT), source_of.get(name, source))
        for name in order.split()
    )


LICENSE_BASED = LineItemSchema(
    resource="LicenseBasedLineItem",
    total="totalForCustomer",
    fields=_declare(
        """
        partnerId customerId customerName mpnId tier2MpnId orderId subscriptionId
        syndicationPartnerSubscriptionNumber offerId durableOfferId offerName domainName
        billingCycleType subscriptionName subscriptionDescription subscriptionStartDate
        subscriptionEndDate chargeStartDate chargeEndDate chargeType unitPrice quantity amount
        totalOtherDiscount subtotal tax totalForCustomer currency invoiceLineItemType
        billingProvider invoiceNumber attributes
        """,
        Source.RECORDED,
        sampled="domainName billingCycleType subscriptionName subscriptionDescription",
        read_by_others="invoiceNumber",
        integer="mpnId tier2MpnId quantity",
        decimal="unitPrice amount totalOtherDiscount subtotal tax totalForCustomer",
        date="subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

_USAGE_BASE = """
    partnerId partnerName partnerBillableAccountId customerId customerName customerCompanyName
    domainName mpnId tier2MpnId invoiceNumber subscriptionId subscriptionName
    subscriptionDescription billingCycleType orderId serviceName serviceType resourceGuid
    resourceName region consumedQuantity chargeStartDate chargeEndDate unit billingProvider
    attributes
"""

USAGE_BASED = LineItemSchema(
    resource="UsageBasedLineItem",
    total="postTaxTotal",
    fields=_declare(
        """
        detailLineItemId sku includedQuantity overageQuantity listPrice consumptionPrice
        consumptionDiscount currency pretaxCharges taxAmount postTaxTotal pretaxEffectiveRate
        postTaxEffectiveRate chargeType invoiceLineItemType
        """
        + _USAGE_BASE,
        Source.RECORDED,
        sampled="customerId domainName billingCycleType unit",
        modelled="customerName",
        integer="detailLineItemId mpnId tier2MpnId",
        decimal="""
            includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount
            pretaxCharges taxAmount postTaxTotal pretaxEffectiveRate postTaxEffectiveRate
            consumedQuantity
        """,
        date="chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

DAILY_USAGE = LineItemSchema(
    resource="DailyUsageLineItem",
    fields=_declare(
        """
        customerBillableAccount usageDate meteredService meteredServiceType meteredRegion project
        serviceInfo invoiceLineItemType
        """
        + _USAGE_BASE,
        Source.RECORDED,
        modelled="serviceInfo customerId customerName domainName billingCycleType unit",
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
        partnerId customerId customerName customerDomainName customerCountry invoiceNumber quoteId
        mpnId resellerMpnId orderId orderDate productId skuId availabilityId productName skuName
        productQualifiers chargeType unitPrice effectiveUnitPrice unitType quantity subtotal
        taxTotal totalForCustomer currency publisherName publisherId providerName providerId
        subscriptionDescription subscriptionId subscriptionStartDate subscriptionEndDate
        chargeStartDate chargeEndDate termAndBillingCycle alternateId referenceId
        priceAdjustmentDescription discountDetails pricingCurrency pcToBCExchangeRate
        pcToBCExchangeRateDate billableQuantity meterDescription billingFrequency reservationOrderId
        creditReasonCode invoiceLineItemType billingProvider promotionId providerSource
        discountDescriptions attributes
        """,
        Source.SAMPLED,
        modelled="creditReasonCode providerSource discountDescriptions",
        integer="resellerMpnId quantity",
        decimal="""
            unitPrice effectiveUnitPrice subtotal taxTotal totalForCustomer pcToBCExchangeRate
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
        partnerId partnerName customerId customerName customerDomainName customerCountry
        invoiceNumber productId skuId availabilityId skuName productName publisherName publisherId
        subscriptionDescription subscriptionId chargeStartDate chargeEndDate usageDate meterType
        meterCategory meterId meterSubCategory meterName meterRegion unitOfMeasure resourceLocation
        consumedService resourceGroup resourceUri tags additionalInfo serviceInfo1 serviceInfo2
        mpnId resellerMpnId chargeType unitPrice quantity unitType billingPreTaxTotal
        billingCurrency pricingPreTaxTotal pricingCurrency entitlementId entitlementDescription
        pcToBCExchangeRate pcToBCExchangeRateDate effectiveUnitPrice rateOfPartnerEarnedCredit
        hasPartnerEarnedCredit rateOfCredit creditType benefitOrderId benefitId benefitType
        customerCompanyName invoiceLineItemType billingProvider attributes
        """,
        Source.SAMPLED,
        modelled="""
            hasPartnerEarnedCredit benefitOrderId benefitId benefitType customerCompanyName
        """,
        decimal="""
            unitPrice quantity billingPreTaxTotal pricingPreTaxTotal pcToBCExchangeRate
            effectiveUnitPrice rateOfPartnerEarnedCredit rateOfCredit
        """,
        date="chargeStartDate chargeEndDate usageDate pcToBCExchangeRateDate",
        boolean="hasPartnerEarnedCredit",
        object_type="attributes",
    ),
)

_DATA_MARKET_BASE = """
    partnerId partnerName customerCompanyName partnerMpnId invoiceNumber chargeStartDate
    chargeEndDate subscriptionId subscriptionName subscriptionDescription orderId serviceName
    resourceName region consumedQuantity billingProvider attributes
"""

DATA_MARKET_BILLING = LineItemSchema(
    resource="AzureDataMarketLineItem",
    total="postTaxTotal",
    fields=_declare(
        """
        includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount
        pretaxCharges taxAmount postTaxTotal currencyCode pretaxEffectiveRate postTaxEffectiveRate
        chargeType invoiceLineItemType
        """
        + _DATA_MARKET_BASE,
        Source.MODELLED,
        integer="partnerMpnId",
        decimal="""
            includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount
            pretaxCharges taxAmount postTaxTotal pretaxEffectiveRate postTaxEffectiveRate
            consumedQuantity
        """,
        date="chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

DATA_MARKET_USAGE = LineItemSchema(
    resource="AzureDataMarketDailyUsageLineItem",
    fields=_declare(
        """
        usageDate meteredServiceName meteredServiceType resourceFriendlyName invoiceLineItemType
        """
        + _DATA_MARKET_BASE,
        Source.MODELLED,
        integer="partnerMpnId",
        decimal="consumedQuantity",
        date="usageDate chargeStartDate chargeEndDate",
        object_type="attributes",
    ),
)

RECONCILIATION = LineItemSchema(
    resource="billedReconciliation",
    total="Total",
    any_case=True,
    null_fits=True,
    fields=_declare(
        """
        PartnerId CustomerId CustomerName CustomerDomainName CustomerCountry InvoiceNumber MpnId
        Tier2MpnId OrderId OrderDate ProductId SkuId AvailabilityId SkuName ProductName ChargeType
        UnitPrice Quantity Subtotal TaxTotal Total Currency PriceAdjustmentDescription PublisherName
        PublisherId SubscriptionDescription SubscriptionId ChargeStartDate ChargeEndDate
        TermAndBillingCycle EffectiveUnitPrice UnitType AlternateId BillableQuantity
        BillingFrequency PricingCurrency PCToBCExchangeRate PCToBCExchangeRateDate MeterDescription
        ReservationOrderId CreditReasonCode SubscriptionStartDate SubscriptionEndDate ReferenceId
        ProductQualifiers PromotionId ProductCategory
        """,
        Source.MODELLED,
        decimal="""
            UnitPrice Quantity Subtotal TaxTotal Total EffectiveUnitPrice BillableQuantity
            PCToBCExchangeRate
        """,
        date="""
            OrderDate ChargeStartDate ChargeEndDate PCToBCExchangeRateDate SubscriptionStartDate
            SubscriptionEndDate
        """,
    ),
)
"""Line items of Microsoft Graph's export, as the pages on its attributes name them."""

EXPORTED_USAGE = LineItemSchema(
    resource="billedUsage",
    any_case=True,
    null_fits=True,
    fields=_declare(
        """
        PartnerId PartnerName CustomerId CustomerName CustomerDomainName CustomerCountry MpnId
        Tier2MpnId InvoiceNumber ProductId SkuId AvailabilityId SkuName ProductName PublisherName
        PublisherId SubscriptionDescription SubscriptionId ChargeStartDate ChargeEndDate UsageDate
        MeterType MeterCategory MeterId MeterSubCategory MeterName MeterRegion Unit ResourceLocation
        ConsumedService ResourceGroup ResourceURI ChargeType UnitPrice Quantity UnitType
        BillingPreTaxTotal BillingCurrency PricingPreTaxTotal PricingCurrency ServiceInfo1
        ServiceInfo2 Tags AdditionalInfo EffectiveUnitPrice PCToBCExchangeRate
        PCToBCExchangeRateDate EntitlementId EntitlementDescription PartnerEarnedCreditPercentage
        CreditPercentage CreditType BenefitOrderID BenefitID BenefitType
        """,
        Source.MODELLED,
        read_by_others="PCToBCExchangeRateDate",
        decimal="""
            UnitPrice Quantity BillingPreTaxTotal PricingPreTaxTotal EffectiveUnitPrice
            PCToBCExchangeRate PartnerEarnedCreditPercentage CreditPercentage
        """,
        date="ChargeStartDate ChargeEndDate UsageDate PCToBCExchangeRateDate",
    ),
)
"""Daily-rated usage of Microsoft Graph's export; two of its names end in `ID` or in `Id`."""

INVOICE = _declare(
    """
    id invoiceDate billingPeriodStartDate billingPeriodEndDate totalCharges paidAmount currencyCode
    currencySymbol pdfDownloadLink taxReceipts invoiceDetails documentType amendsOf invoiceType
    state links attributes
    """,
    Source.RECORDED,
    sampled="billingPeriodStartDate billingPeriodEndDate taxReceipts amendsOf",
    modelled="state",
    decimal="totalCharges paidAmount",
    date="invoiceDate billingPeriodStartDate billingPeriodEndDate",
    json="taxReceipts invoiceDetails links attributes",
)
"""Fields of an invoice header. Nested fields are kept as exact JSON text; amendments are rows of
their own."""

AMENDMENT_OF = "amendment_of"

INVOICE_ARROW = pa.schema(
    [
        *(
            pa.field(field.name, field.kind.arrow_type, nullable=field.name != "id")
            for field in INVOICE
        ),
        pa.field(AMENDMENT_OF, pa.string()),
        pa.field(RESCUED, pa.string()),
    ]
)
"""Columns of the table of invoice headers; `amendment_of` is the id of the invoice an amendment
came in."""
