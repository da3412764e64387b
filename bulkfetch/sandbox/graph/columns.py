"""The keys of the rows of Graph's exports, in their order, and what each attribute set has."""

from __future__ import annotations

_RECONCILIATION = """
    PartnerId CustomerId CustomerName CustomerDomainName CustomerCountry InvoiceNumber MpnId
    Tier2MpnId OrderId OrderDate ProductId SkuId AvailabilityId SkuName ProductName ChargeType
    UnitPrice Quantity Subtotal TaxTotal Total Currency PriceAdjustmentDescription PublisherName
    PublisherId SubscriptionDescription SubscriptionId ChargeStartDate ChargeEndDate
    TermAndBillingCycle EffectiveUnitPrice UnitType AlternateId BillableQuantity BillingFrequency
    PricingCurrency PCToBCExchangeRate PCToBCExchangeRateDate MeterDescription ReservationOrderId
    CreditReasonCode SubscriptionStartDate SubscriptionEndDate ReferenceId ProductQualifiers
    PromotionId ProductCategory
"""
_USAGE = """
    PartnerId PartnerName CustomerId CustomerName CustomerDomainName CustomerCountry MpnId
    Tier2MpnId InvoiceNumber ProductId SkuId AvailabilityId SkuName ProductName PublisherName
    PublisherId SubscriptionDescription SubscriptionId ChargeStartDate ChargeEndDate UsageDate
    MeterType MeterCategory MeterId MeterSubCategory MeterName MeterRegion Unit ResourceLocation
    ConsumedService ResourceGroup ResourceURI ChargeType UnitPrice Quantity UnitType
    BillingPreTaxTotal BillingCurrency PricingPreTaxTotal PricingCurrency ServiceInfo1 ServiceInfo2
    Tags AdditionalInfo EffectiveUnitPrice PCToBCExchangeRate PCToBCExchangeRateDate EntitlementId
    EntitlementDescription PartnerEarnedCreditPercentage CreditPercentage CreditType BenefitOrderID
    BenefitID BenefitType
"""
_RECONCILIATION_NOT_BASIC = """
    CustomerDomainName CustomerCountry MpnId Quantity PublisherId SubscriptionDescription UnitType
    AlternateId BillingFrequency PCToBCExchangeRateDate MeterDescription ProductQualifiers
"""
_USAGE_NOT_BASIC = """
    CustomerDomainName CustomerCountry MpnId Tier2MpnId AvailabilityId ProductName PublisherId
    SubscriptionDescription MeterType MeterCategory MeterId MeterSubCategory MeterName MeterRegion
    Unit ResourceLocation ConsumedService ResourceGroup PCToBCExchangeRateDate ServiceInfo1
    ServiceInfo2 Tags EntitlementDescription PartnerEarnedCreditPercentage BenefitID
"""
_NUMBERS = """
    UnitPrice Quantity Subtotal TaxTotal Total EffectiveUnitPrice BillableQuantity
    PCToBCExchangeRate BillingPreTaxTotal PricingPreTaxTotal PartnerEarnedCreditPercentage
    CreditPercentage
"""
_MAY_BE_ABSENT = """
    InvoiceNumber SubscriptionEndDate CreditReasonCode ReferenceId ProductQualifiers PromotionId
    ProductCategory Tags BenefitOrderID BenefitID PCToBCExchangeRateDate EntitlementDescription
"""

KEYS = {"reconciliation": tuple(_RECONCILIATION.split()), "usage": tuple(_USAGE.split())}
"""The keys of the attribute set `full`."""
NOT_BASIC = {
    "reconciliation": frozenset(_RECONCILIATION_NOT_BASIC.split()),
    "usage": frozenset(_USAGE_NOT_BASIC.split()),
}
"""The keys that `basic` lacks."""
NUMBERS = frozenset(_NUMBERS.split())
MAY_BE_ABSENT = frozenset(_MAY_BE_ABSENT.split())
"""The keys that a row may lack."""


def keys_of(line_item_type: str, attribute_set: str) -> tuple[str, ...]:
    """Return the keys of a row of `reconciliation` or `usage`, `full` or `basic`."""
    left_out = NOT_BASIC[line_item_type] if attribute_set == "basic" else frozenset()
    return tuple(key for key in KEYS[line_item_type] if key not in left_out)
