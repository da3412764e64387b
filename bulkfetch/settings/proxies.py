"""Which proxy a request goes through: `--proxy`, or the variables that curl reads as well.

`choose_route` decides it, for one URL, from plain values. The rules are curl's: lower-case names
win over upper-case ones, an empty variable is not set, and NO_PROXY also limits `--proxy`.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from bulkfetch.errors import SettingsError
from bulkfetch.settings.environment import cleaned
from bulkfetch.settings.values import Secret, ValueKind
from bulkfetch.words import given_as

NONE = "none"
"""The word that forces direct connections."""
THE_SETTING = "the setting proxy"
_LIKE = "http://host:port, or http://user:password@host:port"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")
_DIRECT = "http://127.0.0.1:9"
_EVERY_HOST = "*,0.0.0.0/0,::/0"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that speaks HTTP, and where its address was given. Its credentials are not shown."""

    scheme: str
    host: str
    port: int
    source: str
    credentials: tuple[Secret, Secret] | None = None
    """The user name and the password, as they are sent."""

    @property
    def address(self) -> str:
        """The address without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __str__(self) -> str:
        if self.credentials is None:
            return self.address
        return self.address.replace("://", "://***@")

    def reveal(self) -> str:
        """Return the address with its credentials, for the libraries that take it so."""
        if self.credentials is None:
            return self.address
        user, password = (quote(each.reveal(), safe="") for each in self.credentials)
        return self.address.replace("://", f"://{user}:{password}@")

    def authorization(self) -> str | None:
        """Return the value of the header Proxy-Authorization."""
        if self.credentials is None:
            return None
        pair = ":".join(each.reveal() for each in self.credentials)
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def secrets(self) -> Iterator[str]:
        """Yield what nobody may see, in each form that is sent or was given."""
        if self.credentials is not None:
            password = self.credentials[1].reveal()
            yield password
            yield quote(password, safe="")
            yield (self.authorization() or "").removeprefix("Basic ")


@dataclass(frozen=True, slots=True)
class Route:
    """How a host is reached: through a proxy, or directly. `why` says what decided it."""

    host: str
    proxy: Proxy | None
    why: str

    def __str__(self) -> str:
        if self.proxy is None:
            return "direct"
        return str(self.proxy)


@dataclass(frozen=True, slots=True)
class ProxyChoice:
    """The setting `proxy`: an address, or None where the environment decides.

    An empty address forces direct connections. `direct` are servers of this process, as host:port.
    """

    address: Secret | None = None
    direct: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.address is None:
            return "not set"
        if not self.address.reveal():
            return NONE
        return str(parse_proxy(self.address.reveal(), THE_SETTING))


def except_for(choice: ProxyChoice | None, url: str) -> ProxyChoice:
    """Return the same choice, but the server of `url` is asked directly."""
    choice = choice or ProxyChoice()
    return replace(choice, direct=(*choice.direct, urlsplit(url).netloc))


def route_to(url: str, choice: ProxyChoice | None) -> Route:
    """Return how `url` is reached, by the setting and the environment. Raises SettingsError."""
    return choose_route(url, choice, os.environ)


def choose_route(url: str, choice: ProxyChoice | None, environ: Mapping[str, str]) -> Route:
    """Return how `url` is reached. Raises SettingsError if its proxy cannot be used."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if choice is not None and parts.netloc in choice.direct:
        return Route(host, None, "bulkfetch itself serves it")
    given = _given_proxy(parts.scheme, choice, environ)
    if given is None:
        return Route(host, None, _why_none(parts.scheme, environ))
    address, source = given
    if not address:
        return Route(host, None, f"{source} is {NONE}")
    variable = _first_of(environ, "no_proxy", "NO_PROXY")
    entry = matching_entry(host, cleaned(environ[variable])) if variable else None
    if entry is not None:
        return Route(host, None, f"environment variable {variable} has {entry}")
    return Route(host, parse_proxy(address, source), source)


def _given_proxy(
    scheme: str, choice: ProxyChoice | None, environ: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return the address of the proxy for a scheme, and its source; None if none is set."""
    if choice is not None and choice.address is not None:
        return choice.address.reveal(), THE_SETTING
    name = f"{scheme}_proxy"
    names = [name, name.upper(), "all_proxy", "ALL_PROXY"]
    if scheme == "http" and environ.get("REQUEST_METHOD"):
        # in a CGI program HTTP_PROXY is the header Proxy of a request: anybody may send it
        names.remove("HTTP_PROXY")
    variable = _first_of(environ, *names)
    if variable:
        return (cleaned(environ[variable]), f"environment variable {variable}")
    return None


def _why_none(scheme: str, environ: Mapping[str, str]) -> str:
    """Say that no proxy is set, and name a variable that is, but not for this scheme."""
    variable = None
    if scheme == "https":
        variable = _first_of(environ, "http_proxy", "HTTP_PROXY")
    if variable is None:
        return "no proxy is set"
    return f"HTTPS_PROXY is not set; {variable} is not for https"


def _first_of(environ: Mapping[str, str], *names: str) -> str | None:
    return next((name for name in names if cleaned(environ.get(name, ""))), None)


def matching_entry(host: str, no_proxy: str) -> str | None:
    """Return the entry of NO_PROXY that a host matches, or None.

    Commas or blanks separate entries. A name stands for itself and all names below it; an address
    for itself, a CIDR block for its addresses. `*` alone stands for every host. Ports and patterns
    do not count: an entry that has them matches nothing, as with curl.
    """
    if no_proxy == "*":
        return no_proxy
    address = _address_of(host)
    for entry in re.split(r"[ \t,]+", no_proxy):
        if entry and (_is_in(address, entry) if address else _is_below(host, entry)):
            return entry
    return None


def odd_entries(no_proxy: str) -> list[str]:
    """Return the entries of NO_PROXY that match nothing: patterns, ports, wrong addresses."""
    if no_proxy == "*":
        return []
    entries = filter(None, re.split(r"[ \t,]+", no_proxy))
    return [entry for entry in entries if not re.fullmatch(r"[\w.-]+", entry) and not _block(entry)]


def _is_below(name: str, entry: str) -> bool:
    name, domain = (each.lower().removesuffix(".") for each in (name, entry))
    domain = domain.removeprefix(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    block = _block(entry)
    return block is not None and address in block


def _block(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the addresses that an entry names, or None if it is not an address."""
    address, slash, bits = entry.partition("/")
    if slash and not (bits.isascii() and bits.isdigit()):
        return None
    try:
        return ipaddress.ip_network(f"{address.strip('[]')}{slash}{bits}", strict=False)
    except ValueError:
        return None


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def parse_proxy(address: str, source: str) -> Proxy:
    """Read the address of a proxy; without a scheme, it is http.

    Raises SettingsError, which does not repeat the address: it may hold a password.
    """
    try:
        return _parse(address.strip(), source)
    except ValueError as problem:
        raise SettingsError(f"{source}: {problem}") from None


def _parse(text: str, source: str) -> Proxy:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    scheme = scheme.lower()
    if scheme.startswith("socks"):
        raise ValueError(
            f"is a SOCKS proxy, which bulkfetch does not support: give one that speaks HTTP, such "
            f"as {_LIKE}, or `{given_as('proxy', NONE)}`"
        )
    user_info, at, place = rest.rpartition("@")
    host, port = _place(place.removesuffix("/"), _DEFAULT_PORTS.get(scheme, 0))
    has_odd_user_info = re.search(r"[\s/?#\\]", user_info) is not None
    if scheme not in _DEFAULT_PORTS or not port or has_odd_user_info:
        raise ValueError(
            f"must be the address of a proxy, such as {_LIKE}, with the user and the password "
            f"percent-encoded, or {NONE}; its value is not shown here"
        )
    return Proxy(scheme, host, port, source, _credentials(user_info) if at else None)


def _place(text: str, default_port: int) -> tuple[str, int]:
    """Return host and port, or a port of 0 if they are none."""
    match = re.fullmatch(rf"({_HOST.pattern})(?::([0-9]{{1,5}})?)?", text)
    if match is None:
        return "", 0
    host, port = match[1], int(match[2]) if match[2] else default_port
    if host.startswith("[") and _address_of(host.strip("[]")) is None:
        return "", 0
    return host.strip("[]").lower(), port if port < 1 << 16 else 0


def _credentials(user_info: str) -> tuple[Secret, Secret]:
    user, _, password = user_info.partition(":")
    try:
        pair = [unquote_to_bytes(each).decode() for each in (user, password)]
    except UnicodeDecodeError:
        raise ValueError("the user and the password must be percent-encoded UTF-8") from None
    if any(not each.isprintable() for each in pair) or ":" in pair[0]:
        raise ValueError(
            "the user must have no colon, and neither it nor the password control characters; "
            "neither is shown here"
        )
    return Secret(pair[0]), Secret(pair[1])


def _read_choice(value: object) -> ProxyChoice:
    if isinstance(value, ProxyChoice):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be the address of a proxy, such as {_LIKE}, or {NONE}")
    if value.strip().lower() in ("", NONE):
        return ProxyChoice(Secret(""))
    _parse(value.strip(), THE_SETTING)
    return ProxyChoice(Secret(value.strip()))


PROXY = ValueKind("URL|none", _read_choice, takes_empty=True)


def holds_credentials(value: object) -> bool:
    """Return whether the address of a proxy, as it was given, holds credentials."""
    return isinstance(value, str) and "@" in value


def secrets_of_proxies(choice: ProxyChoice | None) -> Iterator[str]:
    """Yield the secrets of every proxy that a run may use, for the mask and the logs."""
    for scheme in ("https", "http"):
        given = _given_proxy(scheme, choice, os.environ)
        if given is not None and given[0]:
            # as it was given, and as it is sent
            yield given[0].rpartition("@")[0].partition("://")[2].partition(":")[2]
            with suppress(SettingsError):  # what would use it refuses it
                yield from parse_proxy(*given).secrets()


def for_requests(route: Route) -> dict[str, str]:
    """Return a route in the form that requests and botocore take."""
    if route.proxy is None:
        return {}
    return dict.fromkeys(("http", "https"), route.proxy.reveal())


def headers_for_requests(proxy: str) -> dict[str, str]:
    """Return what a proxy is told, whose address requests has; it would send credentials as
    Latin-1."""
    credentials = parse_proxy(proxy, THE_SETTING).authorization()
    if credentials:
        return {"Proxy-Authorization": credentials}
    return {}


def for_obstore(route: Route) -> dict[str, Any]:
    """Return a route as options of an obstore client.

    Without options it would read the environment by rules of its own.
    """
    if route.proxy is None:
        return {"proxy_url": _DIRECT, "proxy_excludes": _EVERY_HOST}
    return {"proxy_url": route.proxy.reveal()}
