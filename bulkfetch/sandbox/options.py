"""Everything that can be chosen about a sandbox: its tenant, its answers and its faults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bulkfetch.sandbox.faults import NO_FAULTS, Faults
from bulkfetch.sandbox.graph.options import GraphOptions

PROVIDERS_AND_TYPES = (
    "office/billing_line_items",
    "azure/billing_line_items",
    "azure/usage_line_items",
    "azure_data_market/billing_line_items",
    "azure_data_market/usage_line_items",
    "one_time/billing_line_items",
    "one_time/usage_line_items",
    "marketplace/billing_line_items",
    "marketplace/usage_line_items",
    "all/billing_line_items",
    "all/usage_line_items",
)
PAST_END = ("empty", "400", "404", "repeat", "stall")
USER_STATES = ("good", "expired", "revoked", "no_consent", "mfa", "declined")
_MONTH = r"[0-9]{4}-(0[1-9]|1[0-2])"
MARKS = ("utf8", "none", "utf16")


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The options of one sandbox. The same options always give the same bytes."""

    # The tenant.
    seed: int = 1
    """The number that every id, name and amount is drawn from."""
    invoices: int = 6
    """Invoices at the top level of the list, without their amendments."""
    line_items: int = 500
    """Line items of each detail of each invoice; an amendment has a tenth of it."""
    line_items_spread: float = 0.0
    """How far those counts vary: 0.5 draws each from half to one and a half times `line_items`."""
    details: tuple[str, ...] = ()
    """The provider/type pairs that every invoice offers; empty for those of real tenants."""
    newest: str = "2021-06"
    """The month of the newest invoice, as `2024-05`; `2024-05-20` says also on which day, up to 28,
    the invoices of new commerce come."""
    unbilled_line_items: int = 60
    """Line items of each type and currency that are on no invoice yet: so many in the current
    period, half as many in the previous one."""
    document_bytes: int = 2000
    """The size of each PDF, about."""
    amendments: int = 1
    """Modern invoices that carry an amendment of their own."""
    unreconciled: int = 0
    """Invoices whose header total is not the sum of their line items."""

    # Who may ask.
    tenant_id: str = "7d1c4a52-93ab-4f0e-8d26-5b0a6c3e9f11"
    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"  # noqa: S105  it opens nothing but this sandbox
    client_certificate: str = ""
    """A PEM file of the certificate that the client may use instead of the secret."""
    refresh_token: str = "sandbox-refresh-token"  # noqa: S105  it opens nothing but this sandbox
    """The refresh token of a user; each use gives a new one, and the old ones stay valid."""
    user_state: str = "good"
    """How a user's sign-in ends: good, expired, revoked, no_consent, mfa or declined."""
    device_polls: int = 1
    """How often the device code flow answers that the user has not signed in yet."""
    identity_header: str = "sandbox-identity"
    """The value of the header that the managed identity endpoint requires."""
    token: str = "sandbox-token"  # noqa: S105  it opens nothing but this sandbox
    """A token that never expires."""
    v1_until: str = "2024-02"
    """The first billing period of new commerce whose billing line items are refused, because only
    Microsoft Graph has them; empty refuses none."""
    v1_usage_until: str = "2022-09"
    """The same for usage line items."""
    v1_refusal: int = 400
    """The status of these refusals; 200 answers with an empty list."""
    app_only_status: int = 403
    """The status for a token without a user where one is needed; 200 answers apps as well."""
    token_lifetime_s: int = 3600
    """How long a token of the token endpoint is valid."""

    # How it answers. Graph and the blobs have the limits and the latency too, each its own.
    port: int = 0
    """The port to listen on; 0 takes a free one."""
    certificate: str = ""
    """A PEM file of a key and its certificate, to serve by TLS."""
    until_stdin_closes: bool = False
    """Whether the command ends when its standard input does."""
    max_size: int = 2000
    """The most line items a page holds, whatever size is asked for."""
    default_size: int = 200
    """The page size of a legacy request without a size, and of every page with `ignore_size`."""
    bom: str = "utf8"
    """The byte-order mark, and thus the encoding, of every success: utf8, none or utf16."""
    gzip: bool = False
    """Compress for clients that accept it."""
    latency_ms: float = 0.0
    """How long every answer of the API takes."""
    max_in_flight: int = 0
    """More requests than this at once are refused with 429; 0 refuses none."""
    requests_per_second: float = 0.0
    """A request above this rate is refused with 429; 0 refuses none."""
    burst: int = 1
    """How many requests may come at once before the rate applies."""

    # What it gets wrong.
    past_end: str = "empty"
    """The answer to an offset after the last line item: empty, 400, 404, repeat or stall."""
    ignore_size: bool = False
    """Every page has `default_size` rows, and links that say so."""
    ignore_offset: bool = False
    """Every legacy page is the first, and links that say so."""
    ignore_offset_echo: bool = False
    """Every legacy page has the rows of the first, but links of the offset asked for."""
    short_page: int | None = None
    """This page of every legacy stream has half its rows, and `next` leads to the other half."""
    short_page_gap: int | None = None
    """This page of every legacy stream has half its rows, and `next` skips the other half."""
    true_total: bool = False
    """`totalCount` counts the stream, not the page."""
    lying_total: bool = False
    """`totalCount` counts the stream, and misses one."""
    faults: Faults = NO_FAULTS
    """What goes wrong on the wire, and when."""

    graph: GraphOptions = field(default_factory=GraphOptions)
    """Microsoft Graph beside it."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict themselves."""
        _check(self)


def _check(options: SandboxOptions) -> None:
    unknown = [pair for pair in options.details if pair not in PROVIDERS_AND_TYPES]
    if unknown:
        raise ValueError(
            f"no such detail: {', '.join(unknown)}; there are {', '.join(PROVIDERS_AND_TYPES)}"
        )
    if options.past_end not in PAST_END:
        raise ValueError(f"past_end is one of {', '.join(PAST_END)}, not {options.past_end!r}")
    until = [month for month in (options.v1_until, options.v1_usage_until) if month]
    if not all(re.fullmatch(_MONTH, month) for month in until):
        raise ValueError("v1_until and v1_usage_until are months such as 2024-02")
    if not re.fullmatch(f"{_MONTH}(-(0[1-9]|1[0-9]|2[0-8]))?", options.newest):
        raise ValueError("newest is a month such as 2024-02, or a day up to 28 such as 2024-02-20")
    if options.user_state not in USER_STATES:
        raise ValueError(
            f"user_state is one of {', '.join(USER_STATES)}, not {options.user_state!r}"
        )
    if options.bom not in MARKS:
        raise ValueError(f"bom is one of {', '.join(MARKS)}, not {options.bom!r}")
    if min(options.max_size, options.default_size, options.burst) < 1:
        raise ValueError("max_size, default_size and burst are at least 1")
    counts = (
        options.invoices,
        options.line_items,
        options.unbilled_line_items,
        options.amendments,
        options.unreconciled,
    )
    if min(counts) < 0:
        raise ValueError(
            "invoices, line_items, unbilled_line_items, amendments and unreconciled "
            "cannot be negative"
        )
    if not 0 <= options.line_items_spread <= 1:
        raise ValueError("line_items_spread is between 0 and 1")
    if options.line_items * (1 + options.line_items_spread) >= 10**9:
        raise ValueError("a detail holds fewer than 1,000,000,000 line items")
