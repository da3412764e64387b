"""Who one is, what that allows, and until when."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.servers.entra import CANARY, TENANT, credentials, entra, of_user

from bulkfetch.client import Client
from bulkfetch.errors import HttpStatusError
from bulkfetch.partnercenter.whoami import check_login
from bulkfetch.sandbox import Fault, Faults, SandboxOptions
from bulkfetch.sandbox.tokens import USER
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import SignIn, token_source


async def test_a_check_says_who_one_is_what_is_allowed_and_until_when_and_shows_no_token(
    tmp_path: Path,
) -> None:
    async with entra(tmp_path) as there:
        there.now = time.time()
        user = await check_login(of_user(there))
        app = await check_login(there.settings())
        opaque = await check_login(there.settings(token=Secret(SandboxOptions().token)))
        token = await credentials(there.settings()).token()
    assert (user.way, user.user, user.kind, user.rights) == (
        "user",
        USER,
        "user",
        ("user_impersonation",),
    )
    assert (user.app, user.tenant, user.multi_factor) == ("Sandbox client", TENANT, True)
    assert (user.invoices, user.users_only) == ("", "")
    assert user.expires_at is not None
    assert user.expires_at.timestamp() == pytest.approx(time.time() + 3600, abs=30)
    lines = "\n".join(user.lines(user.expires_at))
    assert f"user            {USER}" in lines
    assert "for users only  can be read" in lines
    assert "eyJ" not in lines + str(user.to_dict())
    assert (app.kind, app.user, app.invoices) == ("app", None, "")
    assert "the server answered 403" in app.users_only
    assert "`bulkfetch login`" in app.users_only
    assert "none: an app alone" in "\n".join(app.lines(user.expires_at))
    assert (opaque.way, opaque.user, opaque.expires_at) == ("token", None, None)
    assert "not known: the token does not say" in "\n".join(opaque.lines(user.expires_at))
    assert token.split(".")[2] not in str(app)


async def test_a_check_of_a_token_that_opens_nothing_says_so(tmp_path: Path) -> None:
    faults = Faults((Fault("status", status=403, endpoint="invoices"),))
    async with entra(tmp_path, SandboxOptions(faults=faults)) as there:
        report = await check_login(there.settings())
        assert report.to_dict()["invoices"] is False
        assert "403" in report.invoices
    async with entra(tmp_path) as there:
        gone = await check_login(there.settings(token=Secret(CANARY)))
    assert "refuses the bearer token" in gone.invoices
    assert CANARY not in str(gone)


async def test_what_is_for_users_only_is_refused_to_every_app_alone(tmp_path: Path) -> None:
    async with entra(tmp_path) as there, Client(there.settings()) as client:
        with pytest.raises(HttpStatusError, match="403"):
            await client.invoices.by_id("D1").get()


def test_a_sign_in_is_a_token_source() -> None:
    assert isinstance(token_source(Settings(token_command=Secret("az"))), SignIn)
