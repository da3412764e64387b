"""Which way to a token the settings choose, and what it lacks."""

from __future__ import annotations

import os

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import SignInSettings, Way, variable_of
from bulkfetch.signin.tokens import claims_of
from bulkfetch.words import called, given_as

_SETTING_OF = {
    Way.TOKEN: "token",
    Way.COMMAND: "token_command",
    Way.MANAGED_IDENTITY: "managed_identity",
    Way.USER: "refresh_token",
    Way.CERTIFICATE: "client_certificate",
    Way.SECRET: "client_secret",
}
"""The setting that each way needs first."""
_NOUNS = {
    "token": "a token",
    "token_command": "a command",
    "managed_identity": "a managed identity",
    "refresh_token": "a refresh token",
    "client_certificate": "a certificate",
    "client_secret": "a secret",
    "tenant_id": "a tenant",
    "client_id": "an app",
}


def check_credentials(settings: SignInSettings) -> None:
    """Raise SettingsError unless the settings have all that some way to a token needs."""
    way_of(settings)


def way_of(settings: SignInSettings) -> Way:
    """Return the way that `sign_in` names, or the first one whose credentials are given.

    The login that `bulkfetch login` kept is used if no credentials are given, or if `sign_in` is
    "user". Raises SettingsError, which says what is missing.
    """
    if settings.sign_in != "auto":
        return _check(Way(settings.sign_in), settings)
    for way in Way:
        if getattr(settings, _SETTING_OF[way]) is not None:
            return _check(way, settings)
    if _has_login(settings):
        return Way.USER
    missing = _missing(["tenant_id", "client_id", "client_secret"], settings)
    raise SettingsError(
        f"no credentials: give {_how_to_give('token')}, or {', '.join(map(_how_to_give, missing))},"
        " or sign in with `bulkfetch login`; each can also be a key of a file that "
        f"{called('config')} names; `bulkfetch export --sandbox DIR` needs none"
    )


def has_user(settings: SignInSettings) -> bool:
    """Return whether the credentials are known to be those of an app together with a user."""
    way = way_of(settings)
    if way is Way.TOKEN and settings.token is not None:
        # a token has the claim scp if a user granted it; the token of an app has roles
        return bool(claims_of(settings.token.reveal()).get("scp"))
    return way is Way.USER


def _check(way: Way, settings: SignInSettings) -> Way:
    """Return the way, or raise SettingsError with what it lacks."""
    needed = [_SETTING_OF[way]]
    if way is Way.USER and _has_login(settings):
        needed = []  # the login file has everything
    elif way in (Way.USER, Way.CERTIFICATE, Way.SECRET):
        needed += ["tenant_id", "client_id"]
    missing = _missing(needed, settings)
    if not missing:
        return way
    nouns = ", ".join(_NOUNS[name] for name in missing)
    nouns = " and ".join(nouns.rsplit(", ", 1))
    hint = ""
    if way is Way.USER:
        hint = ", or sign in with `bulkfetch login`"
    choice, ways_to_give = given_as("sign_in", way.value), ", ".join(map(_how_to_give, missing))
    raise SettingsError(f"`{choice}` needs {nouns}: give {ways_to_give}{hint}")


def _missing(names: list[str], settings: SignInSettings) -> list[str]:
    return [name for name in names if getattr(settings, name) is None]


def _has_login(settings: SignInSettings) -> bool:
    # of a home that may not be looked into, is_file raises
    return settings.login_file is not None and os.path.isfile(settings.login_file)


def _how_to_give(name: str) -> str:
    return f"{name} ({called(name)} or {variable_of(name)})"
