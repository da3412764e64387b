"""What a proxy did wrong, and what the reader can do: in the words of every part that sends."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bulkfetch.settings.proxies import NONE, Proxy, Route
from bulkfetch.words import given_as


@dataclass(frozen=True, slots=True)
class ProxyFault:
    """What a proxy did wrong, and what the reader can do."""

    text: str
    advice: str


def fault_of_status(route: Route, proxy: Proxy, status: int, asks: str = "") -> ProxyFault:
    """Say what it means that a proxy answers with `status` instead of connecting.

    `asks` is its header Proxy-Authenticate.
    """
    shown = f"the proxy {proxy}"
    if status == 407:
        return _fault_of_credentials(shown, proxy, asks)
    text = f"{shown} does not connect to {route.host}: it answers {status}"
    if status in (502, 503, 504):
        return ProxyFault(
            text,
            f"the proxy cannot reach {route.host}: check the name, and run the same command again "
            "later",
        )
    return ProxyFault(
        text,
        f"ask those who run the proxy to allow {route.host}, or name it in NO_PROXY if it can be "
        "reached directly",
    )


def _fault_of_credentials(shown: str, proxy: Proxy, asks: str) -> ProxyFault:
    schemes = re.findall(r"(?:^|,)\s*([A-Za-z-]+)(?=\s|,|$)", asks)
    if schemes and "basic" not in (each.lower() for each in schemes):
        return ProxyFault(
            f"{shown} wants a sign-in by {' or '.join(schemes)[:60]} (407)",
            "bulkfetch signs in to proxies with a user and a password (Basic) only: use another "
            "proxy, or a local one that signs in there",
        )
    if proxy.credentials is None:
        return ProxyFault(
            f"{shown} asks for credentials (407)",
            f"give them in {proxy.source}: http://user:password@host:port, percent-encoded",
        )
    return ProxyFault(
        f"{shown} refuses the credentials (407)",
        f"check the user and the password in {proxy.source}; both must be percent-encoded",
    )


def fault_of_connection(proxy: Proxy, words: str) -> ProxyFault:
    """Say that a proxy cannot be used at all, and why in `words`."""
    return ProxyFault(
        f"the proxy {proxy} {words}",
        f"check the address in {proxy.source}, and that an HTTP proxy runs there, or give "
        f"`{given_as('proxy', NONE)}` to go without",
    )
