"""The fields that Microsoft's SDKs and documentation give each line-item resource, and of which
type, by hand.

Written down from the models of the .NET SDK of June 2023 (of the first Java SDK for the Azure data
market), with the API's spelling on the wire; those of Microsoft Graph from its pages on the
attributes of the export. A word before a colon is the type that the model declares.
"""

from __future__ import annotations

_USAGE_BASE = """
text: partnerId partnerName partnerBillableAccountId customerId customerCompanyName invoiceNumber
      domainName billingCycleType subscriptionId subscriptionName subscriptionDescription orderId
      serviceName serviceType resourceGuid resourceName region unit billingProvider
      invoiceLineItemType
int: mpnId tier2MpnId
decimal: consumedQuantity
date: chargeStartDate chargeEndDate
object: attributes
"""
_DATA_MARKET_BASE = """
text: partnerId partnerName customerCompanyName invoiceNumber subscriptionId subscriptionName
      subscriptionDescription orderId serviceName resourceName region billingProvider
      invoiceLineItemType
int: partnerMpnId consumedQuantity
date: chargeStartDate chargeEndDate
object: attributes
"""

_LISTS = {
    "LicenseBasedLineItem": """
text: partnerId customerId customerName orderId subscriptionId subscriptionName
      subscriptionDescription billingCycleType domainName syndicationPartnerSubscriptionNumber
      offerId durableOfferId offerName chargeType currency invoiceLineItemType billingProvider
int: mpnId tier2MpnId quantity
decimal: unitPrice amount totalOtherDiscount subtotal tax totalForCustomer
date: subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate
object: attributes
""",
    "UsageBasedLineItem": _USAGE_BASE
    + """
int: detailLineItemId
text: sku currency chargeType
decimal: includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount
         pretaxCharges taxAmount postTaxTotal pretaxEffectiveRate postTaxEffectiveRate
""",
    "DailyUsageLineItem": _USAGE_BASE
    + """
text: customerBillableAccount meteredService meteredServiceType meteredRegion project serviceInfo
date: usageDate
""",
    "AzureDataMarketLineItem": _DATA_MARKET_BASE
    + """
text: currencyCode chargeType
int: includedQuantity overageQuantity listPrice consumptionPrice consumptionDiscount pretaxCharges
     taxAmount postTaxTotal pretaxEffectiveRate postTaxEffectiveRate
""",
    "AzureDataMarketDailyUsageLineItem": _DATA_MARKET_BASE
    + """
text: meteredServiceName meteredServiceType resourceFriendlyName
date: usageDate
""",
    "OneTimeInvoiceLineItem": """
text: partnerId customerId customerName customerDomainName customerCountry invoiceNumber mpnId
      orderId productId skuId availabilityId productName skuName chargeType unitType currency
      publisherName publisherId subscriptionDescription subscriptionId termAndBillingCycle
      alternateId referenceId billingFrequency reservationOrderId creditReasonCode promotionId
      discountDetails pricingCurrency meterDescription priceAdjustmentDescription
      invoiceLineItemType billingProvider
int: resellerMpnId quantity
decimal: unitPrice effectiveUnitPrice subtotal taxTotal totalForCustomer pcToBCExchangeRate
         billableQuantity
date: orderDate subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate
      pcToBCExchangeRateDate
list: productQualifiers
object: attributes
""",
    "DailyRatedUsageLineItem": """
text: partnerId partnerName customerId customerName customerDomainName customerCountry
      invoiceNumber productId skuId availabilityId skuName productName publisherName publisherId
      subscriptionId subscriptionDescription meterType meterCategory meterId meterSubCategory
      meterName meterRegion unitOfMeasure resourceLocation consumedService resourceGroup
      resourceUri tags additionalInfo serviceInfo1 serviceInfo2 mpnId resellerMpnId chargeType
      unitType billingCurrency pricingCurrency entitlementId entitlementDescription creditType
      invoiceLineItemType billingProvider
decimal: unitPrice quantity billingPreTaxTotal pricingPreTaxTotal effectiveUnitPrice
         pcToBCExchangeRate rateOfPartnerEarnedCredit rateOfCredit
date: chargeStartDate chargeEndDate usageDate pcToBCExchangeRateDate
bool: hasPartnerEarnedCredit
object: attributes
""",
    "billedReconciliation": """
text: PartnerId CustomerId CustomerName CustomerDomainName CustomerCountry InvoiceNumber MpnId
      Tier2MpnId OrderId ProductId SkuId AvailabilityId SkuName ProductName ChargeType Currency
      PriceAdjustmentDescription PublisherName PublisherId SubscriptionDescription SubscriptionId
      TermAndBillingCycle UnitType AlternateId BillingFrequency PricingCurrency MeterDescription
      ReservationOrderId CreditReasonCode ReferenceId ProductQualifiers PromotionId ProductCategory
decimal: UnitPrice Quantity Subtotal TaxTotal Total EffectiveUnitPrice BillableQuantity
         PCToBCExchangeRate
date: OrderDate ChargeStartDate ChargeEndDate PCToBCExchangeRateDate SubscriptionStartDate
      SubscriptionEndDate
""",
    "billedUsage": """
text: PartnerId PartnerName CustomerId CustomerName CustomerDomainName CustomerCountry MpnId
      Tier2MpnId InvoiceNumber ProductId SkuId AvailabilityId SkuName ProductName PublisherName
      PublisherId SubscriptionDescription SubscriptionId MeterType MeterCategory MeterId
      MeterSubCategory MeterName MeterRegion Unit ResourceLocation ConsumedService ResourceGroup
      ResourceURI ChargeType UnitType BillingCurrency PricingCurrency ServiceInfo1 ServiceInfo2
      Tags AdditionalInfo EntitlementId EntitlementDescription CreditType BenefitOrderID BenefitID
      BenefitType
decimal: UnitPrice Quantity BillingPreTaxTotal PricingPreTaxTotal EffectiveUnitPrice
         PCToBCExchangeRate PartnerEarnedCreditPercentage CreditPercentage
date: ChargeStartDate ChargeEndDate UsageDate
""",
}


def _read(listed: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    declared = ""
    for word in listed.split():
        if word.endswith(":"):
            declared = word[:-1]
        else:
            fields[word] = declared
    return fields


FIELD_LISTS = {resource: _read(listed) for resource, listed in _LISTS.items()}
"""The fields of each resource, and the type its model declares."""
