"""Which way to a token the settings choose."""

from __future__ import annotations

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings, Way, flag_of, variable_of
from bulkfetch.signin.tokens import claims_of


def check_credentials(settings: Settings) -> None:
    """Raise SettingsError unless the settings have what some way to a token takes."""
    way_of(settings)


def way_of(settings: Settings) -> Way:
    """Return the way to a token that is taken: the one that `sign_in` names, or the first whose
    credentials are given.

    What `bulkfetch login` has kept counts where no others are given, and wins where `sign_in` says
    "user". Raises SettingsError, saying what is missing.
    """
    if settings.sign_in != "auto":
        return _checked(Way(settings.sign_in), settings)
    for way in Way:
        if getattr(settings, _GIVES[way]) is not None:
            return _checked(way, settings)
    if _has_login(settings):
        return Way.USER
    missing = [
        name
        for name in ("tenant_id", "client_id", "client_secret")
        if getattr(settings, name) is None
    ]
    raise SettingsError(
        f"no credentials: give {_ways('token')}, or {', '.join(map(_ways, missing))}, or sign in with "
        "`bulkfetch login`; each can also be a key of bulkfetch.toml; `bulkfetch export --sandbox DIR` needs none"
    )


_GIVES = {
    Way.TOKEN: "token",
    Way.COMMAND: "token_command",
    Way.MANAGED_IDENTITY: "managed_identity",
    Way.USER: "refresh_token",
    Way.CERTIFICATE: "client_certificate",
    Way.SECRET: "client_secret",
}
"""The setting that each way cannot do without."""


def _checked(way: Way, settings: Settings) -> Way:
    """Return a way, or raise SettingsError with what it lacks."""
    needed = [_GIVES[way]]
    if way is Way.USER and _has_login(settings):
        needed = []  # the file has it all
    elif way in (Way.USER, Way.CERTIFICATE, Way.SECRET):
        needed += ["tenant_id", "client_id"]
    missing = [name for name in needed if getattr(settings, name) is None]
    if not missing:
        return way
    hint = ", or sign in with `bulkfetch login`" if way is Way.USER else ""
    raise SettingsError(
        f"signing in by {way.value} lacks something: give {', '.join(map(_ways, missing))}{hint}"
    )


def _has_login(settings: Settings) -> bool:
    return settings.login_file is not None and settings.login_file.is_file()


def _ways(name: str) -> str:
    return f"{name} ({flag_of(name)} or {variable_of(name)})"


def has_user(settings: Settings) -> bool:
    """Tell whether the credentials are known to be an app's together with a user; a token in hand
    may say so."""
    way = way_of(settings)
    if way is Way.TOKEN and settings.token is not None:
        return bool(
            claims_of(settings.token.reveal()).get("scp")
        )  # what a user has allowed; an app has roles
    return way is Way.USER
