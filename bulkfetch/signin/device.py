"""A person signs in with a code in a browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.to_thread

from bulkfetch.errors import ConnectionFailedError, HttpStatusError, SettingsError, SignInError
from bulkfetch.logguard import forgets_frames
from bulkfetch.settings.declared import SignInSettings
from bulkfetch.signin.audiences import partner_center
from bulkfetch.signin.entra import (
    HttpClient,
    entra_client,
    public_client,
    refusal_of,
    token_of_answer,
)
from bulkfetch.signin.logins import Login, prepare_login_file, write_login
from bulkfetch.signin.tokens import Issued, claims_of
from bulkfetch.words import called, printable


async def log_in(
    settings: SignInSettings,
    tell: Callable[[str], object],
    *,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> Login:
    """Sign in with a code that a person enters in a browser, and keep the refresh token.

    `tell` is given the sentence that says where, and with which code. The login is written to
    `login_file`. Raises SignInError if the sign-in is declined, refused or too late,
    ConnectionFailedError or HttpStatusError if Entra cannot be reached at the beginning,
    SettingsError, and StorageError if the login cannot be kept.
    """
    device = await anyio.to_thread.run_sync(begin_device_sign_in, settings)
    tell(device.message)
    waited_s = 0.0
    while waited_s < device.lifetime_s:
        waited_s += device.interval_s
        await sleep(device.interval_s)
        # a failed poll is not the end: the next one follows
        with suppress(ConnectionFailedError, HttpStatusError):
            issued = await anyio.to_thread.run_sync(device.poll, abandon_on_cancel=True)
            if issued is not None:
                return await anyio.to_thread.run_sync(keep_login, settings, issued)
    raise SignInError("the code was not entered in time: run the command again")


@dataclass(slots=True)
class DeviceSignIn:
    """A sign-in that a person completes in a browser."""

    message: str
    """Says where, and with which code."""
    interval_s: float
    """How long to wait before each `poll`."""
    lifetime_s: float
    """For how long the code is valid."""
    _settings: SignInSettings = field(repr=False)
    _flow: dict[str, Any] = field(repr=False)

    @forgets_frames
    def poll(self) -> Issued | None:
        """Return the token if the person has signed in, None if not yet; it blocks.

        Raises SignInError if the sign-in was declined or the code has expired, and what `sign_in`
        raises.
        """
        settings = self._settings
        with entra_client(settings) as http:
            application = _open_application(settings, http)
            answer = application.acquire_token_by_device_flow(
                self._flow, exit_condition=lambda flow: True
            )
            self.interval_s = float(self._flow.get("interval", self.interval_s))
            if isinstance(answer, Mapping) and answer.get("error") in (
                "authorization_pending",
                "slow_down",
            ):
                return None
            return token_of_answer(answer, settings, http)


@forgets_frames
def begin_device_sign_in(settings: SignInSettings) -> DeviceSignIn:
    """Ask Entra for a code for a person to enter; it blocks. Raises what `sign_in` raises."""
    needed = ("tenant_id", "client_id")
    missing = [called(name) for name in needed if getattr(settings, name) is None]
    if missing:
        raise SettingsError(
            f"signing in needs the tenant and the app: give {' and '.join(missing)}"
        )
    prepare_login_file(_login_file(settings))
    with entra_client(settings) as http:
        application = _open_application(settings, http)
        flow = application.initiate_device_flow(scopes=[partner_center(settings).user_scope])
        if "user_code" not in flow:
            raise SignInError(refusal_of(flow, settings, http))
        code = printable(str(flow["user_code"]))
        where = printable(str(flow.get("verification_uri", "")))
        return DeviceSignIn(
            f"to sign in, open {where} in a browser and enter the code {code}",
            float(flow.get("interval", 5)),
            float(flow.get("expires_in", 900)),
            settings,
            flow,
        )


def _open_application(settings: SignInSettings, http: HttpClient) -> Any:
    return public_client(
        http,
        client_id=settings.client_id,
        tenant_id=settings.tenant_id,
        authority=settings.authority,
    )


def keep_login(settings: SignInSettings, issued: Issued) -> Login:
    """Keep the refresh token of a sign-in in `login_file`, and return the login.

    Raises SignInError, SettingsError, StorageError.
    """
    if issued.refresh_token is None:
        raise SignInError(
            "Entra gave no refresh token: the app lacks the permission offline_access"
        )
    username = str(claims_of(issued.token).get("upn") or "")
    login = Login(
        str(settings.tenant_id),
        str(settings.client_id),
        settings.authority,
        issued.refresh_token,
        username,
    )
    write_login(_login_file(settings), login)
    return login


def _login_file(settings: SignInSettings) -> Path:
    if settings.login_file is None:
        raise SettingsError(f"there is no file to keep the login in: give {called('login_file')}")
    return settings.login_file
