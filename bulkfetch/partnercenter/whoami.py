"""Signing in as a person, and who a token is: whose, what it allows, and when it ends."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from bulkfetch.errors import BulkfetchError, RequestError
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import get_invoice_page
from bulkfetch.partnercenter.summaries import get_summaries
from bulkfetch.settings.declared import Settings, why_no_graph
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.signin.audiences import rights_of
from bulkfetch.signin.source import (
    SignIn,
    check_graph_token,
    graph_token_source,
    token_source,
)
from bulkfetch.signin.tokens import claims_of
from bulkfetch.signin.ways import way_of
from bulkfetch.stats import RunStats
from bulkfetch.wire.refusals import advice_on
from bulkfetch.wire.session import Session, TokenSource
from bulkfetch.words import printable


@dataclass(frozen=True, slots=True)
class LoginReport:
    """Who the credentials of some settings are, and what they open. None is unknown: a token may be
    opaque.

    `way` is the way to the token. `user` and `app` are whose it is, `rights` what it says it
    allows, `expires_at` when it ends, `multi_factor` whether its user passed a second factor.
    `invoices` says why the list of invoices cannot be read, `users_only` why what the service gives
    to users only cannot; both are "" if it can. `graph` is whether the billing export of Microsoft
    Graph may be asked for, as the claims of its own token say, and `why_not_graph` why not.
    """

    way: str
    user: str | None = None
    app: str | None = None
    tenant: str | None = None
    audience: str | None = None
    kind: str | None = None
    rights: tuple[str, ...] = ()
    multi_factor: bool | None = None
    expires_at: datetime | None = None
    invoices: str = ""
    users_only: str = ""
    graph: bool | None = None
    why_not_graph: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "way": self.way,
            "user": self.user,
            "app": self.app,
            "tenant": self.tenant,
            "audience": self.audience,
            "kind": self.kind,
            "rights": list(self.rights),
            "multi_factor": self.multi_factor,
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
            "invoices": not self.invoices,
            "users_only": not self.users_only,
            "graph": self.graph,
            "why_not_graph": self.why_not_graph or None,
        }

    def lines(self, now: datetime) -> list[str]:
        """Return the report as lines of text."""
        exports = {
            True: "can be asked for",
            False: f"cannot be asked for: {self.why_not_graph}",
            None: "not known: the token for Microsoft Graph does not say what it allows",
        }
        factors = {
            True: "yes",
            False: "no; from April 2026 on the service wants it of users",
            None: None,
        }
        nobody = "not known: the token does not say"
        if self.kind == "app":
            nobody = "none: an app alone"
        facts = [
            ("signed in by", self.way),
            ("user", self.user or nobody),
            ("app", self.app),
            ("tenant", self.tenant),
            ("token is for", self.audience),
            ("allows", ", ".join(self.rights) or None),
            ("second factor", factors[self.multi_factor]),
            ("expires", None if self.expires_at is None else _until(self.expires_at, now)),
            ("invoices", _readable(self.invoices)),
            ("for users only", _readable(self.users_only)),
            ("Graph's exports", exports[self.graph]),
        ]
        return [f"{name:<15} {printable(value)}" for name, value in facts if value is not None]


def _readable(why_not: str) -> str:
    if why_not:
        return f"cannot be read: {why_not}"
    return "can be read"


async def check_login(
    settings: Settings | None = None, **keywords: Unpack[SettingsKeywords]
) -> LoginReport:
    """Sign in by the settings, read the token, and try what it opens, with two small requests; sign
    in to Microsoft Graph too, and read that token.

    Settings come from `settings`, or else from the environment and the TOML file; keyword arguments
    named like settings win over both. Raises SettingsError without credentials, SignInError if they
    give no token, and ServerUnavailableError.
    """
    settings = read_settings(settings, **keywords)
    way, tokens = way_of(settings), token_source(settings)
    token = await tokens.token()
    async with open_session(settings, RunStats(), tokens=tokens) as session:
        invoices = await _refusal_of(_list_one(session))
        users_only = await _refusal_of(get_summaries(session))
    claims = claims_of(token)
    factors = claims.get("amr")
    graph, why_not_graph = await _may_ask_graph(settings)
    return LoginReport(
        way=way.value,
        user=_text(
            claims.get("upn") or claims.get("preferred_username") or claims.get("unique_name")
        ),
        app=_text(claims.get("app_displayname") or claims.get("appid")),
        tenant=_text(claims.get("tid")),
        audience=_text(claims.get("aud")),
        kind=_text(claims.get("idtyp")) or ("user" if claims.get("scp") else None),
        rights=rights_of(claims),
        multi_factor="mfa" in factors if isinstance(factors, list) else None,
        expires_at=_end_of(claims, tokens),
        invoices=invoices,
        users_only=users_only,
        graph=graph,
        why_not_graph=why_not_graph,
    )


async def _may_ask_graph(settings: Settings) -> tuple[bool | None, str]:
    """Return whether the billing export may be asked for, None where the token does not say; and
    why not."""
    if settings.graph_url is None:
        return False, why_no_graph(settings.cloud)
    try:
        token = await graph_token_source(settings).token()
        check_graph_token(settings, token)
    except BulkfetchError as error:
        return False, str(error)
    return (True if claims_of(token) else None), ""


async def _list_one(session: Session) -> object:
    return await get_invoice_page(session, size=1, offset=0)


async def _refusal_of(probe: Awaitable[object]) -> str:
    """Return why a request is refused, "" if it is not."""
    try:
        await probe
    except RequestError as error:
        return f"{error.message}; {advice_on(error)}".removesuffix("; ")
    except BulkfetchError as error:
        return str(error)
    return ""


def _end_of(claims: dict[str, Any], tokens: TokenSource) -> datetime | None:
    """Return when a token ends: by its lifetime and our clock, or else as it says itself."""
    if isinstance(tokens, SignIn) and tokens.lifetime_s < 1e9:
        return datetime.now(UTC) + timedelta(seconds=tokens.lifetime_s)
    end = claims.get("exp")
    if isinstance(end, int) and 0 < end < 1e11:
        return datetime.fromtimestamp(end, UTC)
    return None


def _until(moment: datetime, now: datetime) -> str:
    minutes = (moment - now).total_seconds() / 60
    if minutes < 0:
        return f"{moment:%Y-%m-%d %H:%M} UTC: it has expired, or this machine's clock is wrong"
    return f"{moment:%Y-%m-%d %H:%M} UTC, in {minutes:,.0f} min"


def _text(value: object) -> str | None:
    if isinstance(value, str) and value:
        return str(value)
    return None
