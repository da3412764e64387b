"""The proxies of the settings, for the clouds' own libraries that send with requests."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter

from bulkfetch.settings.declared import StorageSettings
from bulkfetch.settings.proxies import for_requests, headers_for_requests, route_to


class _Adapter(HTTPAdapter):
    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        super().__init__()

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return headers_for_requests(proxy)

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._settings.storage_timeout_s
        kwargs["proxies"] = for_requests(route_to(str(request.url), self._settings.proxy))
        return super().send(request, *args, **kwargs)


class _DirectAdapter(HTTPAdapter):
    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(*args, **{**kwargs, "proxies": {}})


def open_store_requests(settings: StorageSettings) -> requests.Session:
    """Return a session of requests to a store, through the proxies of the settings."""
    session = requests.Session()
    send_by_settings(session, settings)
    return session


def send_by_settings(session: requests.Session, settings: StorageSettings) -> None:
    """Let a session send through the proxies of the settings, and wait no longer than they say."""
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(settings))


def open_sign_in_requests(settings: StorageSettings) -> requests.Session:
    """Return a session of requests to find credentials, through the proxies of the settings.

    What is asked over http is on this machine, as its metadata are: no proxy reaches it.
    """
    session = requests.Session()
    session.mount("https://", _Adapter(settings))
    session.mount("http://", _DirectAdapter())
    return session
