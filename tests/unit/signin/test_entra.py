"""Every way to a token against a fake Entra over TLS: that it opens the API, what each refusal
says, and no secret."""

from __future__ import annotations

import json
import os
import shlex
import stat
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from aiohttp import web
from support.servers.entra import (
    CANARY,
    REFRESH,
    TENANT,
    Entra,
    credentials,
    entra,
    json_answer,
    of_user,
)

from bulkfetch.client import Client
from bulkfetch.errors import SettingsError, SignInError, StorageError
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.sandbox.tokens import USER
from bulkfetch.settings.declared import CLOUDS, Settings, Way
from bulkfetch.settings.values import Secret
from bulkfetch.signin.device import log_in
from bulkfetch.signin.logins import Login, read_login, write_login
from bulkfetch.signin.source import acquire, token_source
from bulkfetch.signin.tokens import claims_of
from bulkfetch.signin.ways import check_credentials, way_of


async def refusal_of(settings: Settings) -> str:
    """Return what a refused sign-in says, after looking for secrets everywhere in it."""
    with pytest.raises(SignInError) as caught:
        await credentials(settings).token()
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error!s} {error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(caught.value)


# --- An app with a certificate.


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file of a key and its certificate."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    issued = authority.issue_cert("client.example", key_type=trustme.KeyType.RSA)
    file = tmp_path_factory.mktemp("certificate") / "client.pem"
    file.write_bytes(issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes())
    return file


def by_certificate(there: Entra, file: Path) -> Settings:
    return there.settings(client_secret=None, client_certificate=file)


async def test_an_app_signs_in_with_its_certificate(certificate: Path, tmp_path: Path) -> None:
    async with entra(tmp_path, SandboxOptions(client_certificate=str(certificate))) as there:
        there.now = time.time()
        settings = by_certificate(there, certificate)
        async with Client(settings) as client:
            invoices = [each async for each in client.invoices]
        token = acquire_in_thread(settings)
        claims = claims_of(await token)
    assert len(invoices) == 6
    assert (claims["idtyp"], claims["aud"]) == ("app", "https://api.partnercenter.microsoft.com")


async def acquire_in_thread(settings: Settings) -> str:
    return (await anyio.to_thread.run_sync(acquire, settings)).token


async def test_a_certificate_that_is_not_registered_is_named_as_such(
    certificate: Path, tmp_path: Path
) -> None:
    async with entra(tmp_path) as there:
        said = await refusal_of(by_certificate(there, certificate))
    assert "AADSTS700027" in said
    assert said.endswith("; upload this certificate in the app's registration")


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_clock_that_is_far_off_is_named_as_what_is_wrong(
    hours: int, certificate: Path, tmp_path: Path
) -> None:
    async with entra(tmp_path, SandboxOptions(client_certificate=str(certificate))) as there:
        there.now = time.time() + hours * 3600
        plain = await refusal_of(by_certificate(there, certificate))
        assert "AADSTS700024" in plain
        assert plain.endswith("; check this machine's clock")
        body = (
            b'{"error":"invalid_client",'
            b'"error_description":"AADSTS700024: Not within its valid time range."}'
        )
        date = formatdate(there.now, usegmt=True)
        there.meddle = lambda request: (
            web.Response(
                body=body, status=401, content_type="application/json", headers={"Date": date}
            )
            if request.path.endswith("/token")
            else None
        )
        told = await refusal_of(by_certificate(there, certificate))
    direction = "behind" if hours > 0 else "ahead of"
    assert f"; this machine's clock is 120 minutes {direction} that of the server: set it" in told


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAA==\n"]
)
async def test_a_file_that_holds_no_key_and_certificate_is_a_setting_to_correct(
    content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "client.pem"
    file.write_bytes(content)
    async with entra(tmp_path) as there:
        with pytest.raises(SettingsError, match=r"client_certificate .*client\.pem"):
            await acquire_in_thread(by_certificate(there, file))
        assert not there.tokens_asked


# --- An app together with a user: the secure application model.


async def test_a_refresh_token_signs_in_as_a_user_and_the_newest_is_kept_for_the_owner_alone(
    tmp_path: Path,
) -> None:
    file = tmp_path / "private" / "login.json"
    handed: list[Secret] = []
    async with entra(tmp_path) as there:
        settings = of_user(there, login_file=file)
        async with Client(settings, on_refresh_token=handed.append) as client:
            invoice = await anext(aiter(client.invoices))
            assert (await client.invoices.by_id(invoice.id).get()).id == invoice.id
            assert (await client.invoices.by_id(invoice.id).document()).startswith(b"%PDF-")
        login = read_login(file)
        assert login is not None
        assert [login.refresh_token] == handed
        assert login.refresh_token.reveal() not in (REFRESH, repr(login))
        assert (login.username, login.tenant_id, login.authority) == (USER, TENANT, there.origin)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert os.listdir(file.parent) == ["login.json"]

        # From then on the file is enough, also without the one that was given at first.
        later = there.settings(login_file=file, sign_in="user")
        assert claims_of(await acquire_in_thread(later))["upn"] == USER
        newest = read_login(file)
        assert newest is not None
        assert newest.refresh_token != login.refresh_token


async def test_a_token_of_a_user_that_expires_in_mid_run_is_renewed_with_the_rotated_refresh_token(
    tmp_path: Path,
) -> None:
    handed: list[Secret] = []
    async with entra(
        tmp_path, SandboxOptions(token_lifetime_s=60, invoices=4, line_items=5)
    ) as there:
        settings = of_user(there, login_file=tmp_path / "login.json")
        async with Client(settings, on_refresh_token=handed.append) as client:
            assert await client.invoices.summaries()
            there.now += 61
            assert await client.invoices.summaries()
        assert there.tokens_asked == 2
    assert len(set(handed)) == 2
    login = read_login(tmp_path / "login.json")
    assert login is not None
    assert login.refresh_token == handed[-1]


async def test_a_kept_refresh_token_that_is_refused_gives_way_to_the_one_that_is_given(
    tmp_path: Path,
) -> None:
    file = tmp_path / "login.json"
    async with entra(tmp_path) as there:
        write_login(file, Login(TENANT, "sandbox-client", there.origin, Secret(CANARY)))
        token = await credentials(of_user(there, login_file=file)).token()
        login = read_login(file)
    assert claims_of(token)["upn"] == USER
    assert login is not None
    assert login.refresh_token.reveal() != CANARY


@pytest.mark.parametrize("place", ["file", "proc"])
async def test_a_run_whose_login_cannot_be_kept_goes_on_with_a_warning(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a home is a file, or a file system that takes none."""
    (tmp_path / "home").touch()
    file = Path("/proc" if place == "proc" else tmp_path / "home", "bulkfetch", "login.json")
    async with entra(tmp_path) as there:
        token = await credentials(of_user(there, login_file=file)).token()
    assert claims_of(token)["upn"] == USER
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] != []
    assert "the login cannot be kept" in caplog.text
    assert "login_file=" in caplog.text


async def test_a_login_that_cannot_be_read_gives_way_to_the_refresh_token_that_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "login.json"
    file.write_text("{}")
    file.chmod(0o644)
    async with entra(tmp_path) as there:
        token = await credentials(of_user(there, login_file=file)).token()
    assert claims_of(token)["upn"] == USER
    assert "other users may read it" in caplog.text


async def test_nobody_is_asked_to_sign_in_where_the_login_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    said: list[str] = []
    async with entra(tmp_path) as there:
        with pytest.raises(StorageError, match=r"cannot be kept: .*; login_file= names another"):
            await log_in(
                there.settings(login_file=tmp_path / "home" / "login.json"),
                said.append,
                sleep=no_sleep,
            )
        with pytest.raises(SettingsError, match="no file to keep the login in"):
            await log_in(there.settings(login_file=None), said.append, sleep=no_sleep)
    assert said == []


async def test_a_login_does_not_say_where_secrets_are_sent_to(tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
    async with entra(tmp_path / "here") as there, entra(tmp_path / "elsewhere") as elsewhere:
        write_login(file, Login(TENANT, "sandbox-client", elsewhere.origin, Secret(CANARY)))
        settings = there.settings(
            login_file=file, sign_in="user", client_secret=Secret("canary-client-secret")
        )
        with pytest.raises(SettingsError, match=r"is for https://.*: give the same in authority="):
            await acquire_in_thread(settings)
        assert not there.tokens_asked
        assert not elsewhere.tokens_asked
        assert claims_of(await acquire_in_thread(of_user(there, login_file=file)))["upn"] == USER
        assert not elsewhere.tokens_asked


async def test_a_login_of_another_app_or_tenant_is_not_used_for_this_one(tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    async with entra(tmp_path) as there:
        write_login(file, Login(TENANT, "another-app", there.origin, Secret(CANARY)))
        with pytest.raises(SettingsError, match="is for app another-app in tenant"):
            await acquire_in_thread(there.settings(login_file=file, sign_in="user"))
        assert not there.tokens_asked
        assert claims_of(await acquire_in_thread(of_user(there, login_file=file)))["upn"] == USER


@pytest.mark.parametrize(
    ("state", "code", "advice"),
    [
        (
            "expired",
            "AADSTS700082",
            "it was not used for 90 days: sign in again with `bulkfetch login`",
        ),
        ("revoked", "AADSTS50173", "it was revoked, or the password has changed: sign in again"),
        ("no_consent", "AADSTS65001", "the app lacks consent for what it asks for"),
        ("mfa", "AADSTS50076", "a second factor is needed: sign in again with `bulkfetch login`"),
    ],
)
async def test_a_refresh_token_that_is_refused_says_why_and_what_to_do(
    state: str, code: str, advice: str, tmp_path: Path
) -> None:
    async with entra(tmp_path, SandboxOptions(user_state=state)) as there:
        said = await refusal_of(of_user(there))
        assert there.tokens_asked == 1
    assert f"signing in was refused: {code}" in said
    assert f"; {advice}" in said
    assert REFRESH not in said


async def test_a_refresh_token_that_expires_in_mid_run_ends_the_run_and_what_is_committed_stays(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with entra(
        tmp_path, SandboxOptions(invoices=2, line_items=30, token_lifetime_s=60)
    ) as there:
        seen = 0

        def expire(request: web.Request) -> web.StreamResponse | None:
            nonlocal seen
            seen += "/lineitems" in request.path
            if seen == 3:
                there.now += 61
            if seen >= 3 and request.path.endswith("/token"):
                body = b'{"error":"invalid_grant","error_description":"AADSTS700082: Expired."}'
                return web.Response(body=body, status=400, content_type="application/json")
            return None

        there.meddle = expire
        with pytest.raises(
            SignInError, match=r"AADSTS700082: Expired\.; it was not used for 90 days"
        ):
            await export_async(lake, of_user(there, max_in_flight=1), documents=True)
        there.meddle = lambda request: None
        assert verify(lake, deep=True, files_only=True).sound
        report = await export_async(lake, of_user(there), documents=True)
    assert report.complete
    assert report.skipped
    assert verify(lake, deep=True).sound


# --- A person, with a code.


async def no_sleep(_seconds: float) -> None: ...


async def test_a_person_signs_in_with_a_code_and_commands_use_that_from_then_on(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    async with entra(tmp_path, SandboxOptions(device_polls=2)) as there:
        settings = there.settings(client_secret=None, login_file=tmp_path / "login.json")
        with pytest.raises(SettingsError, match="`bulkfetch login`"):
            check_credentials(settings)
        login = await log_in(settings, said.append, sleep=no_sleep)
        assert (login.username, there.tokens_asked) == (USER, 3)
        assert said == [
            f"to sign in, open {there.origin}/device in a browser and enter the code SANDBOX42"
        ]
        assert way_of(settings) is Way.USER
        nothing_else = Settings(
            base_url=settings.base_url,
            authority=settings.authority,
            ca_file=settings.ca_file,
            login_file=settings.login_file,
        )  # the tenant and the app are those of the login
        async with Client(nothing_else) as client:
            assert await client.invoices.summaries()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("declined", "consent was declined: sign in again and grant it"),
        ("expired", "the code was not entered in time: run the command again"),
        ("no_consent", "lacks consent"),
        ("mfa", "a second factor is needed"),
    ],
)
async def test_a_sign_in_that_a_person_does_not_complete_says_why_and_keeps_nothing(
    state: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "login.json"
    async with entra(tmp_path, SandboxOptions(user_state=state)) as there:
        with pytest.raises(SignInError, match=words):
            await log_in(there.settings(login_file=file), lambda said: None, sleep=no_sleep)
    assert not file.exists()


async def test_a_stumble_does_not_make_a_person_sign_in_again(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:

        def stumble(request: web.Request) -> web.StreamResponse | None:
            return (
                web.Response(status=503)
                if request.path.endswith("/token") and there.tokens_asked == 1
                else None
            )

        there.meddle = stumble
        login = await log_in(
            there.settings(login_file=tmp_path / "l"), lambda said: None, sleep=no_sleep
        )
    assert login.username == USER


@pytest.mark.parametrize("unreachable", [False, True])
async def test_a_code_that_nobody_enters_ends_the_wait(unreachable: bool, tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with entra(tmp_path, SandboxOptions(device_polls=10**6)) as there:
        body = json.dumps(
            {"user_code": "X", "device_code": "d", "expires_in": 3, "interval": 1}
        ).encode()
        there.meddle = lambda request: (
            json_answer(body)
            if request.path.endswith("/devicecode")
            else (
                web.Response(status=503)
                if unreachable
                else json_answer(b'{"error":"authorization_pending"}')
            )
            if request.path.endswith("/token")
            else None
        )
        with pytest.raises(SignInError, match="was not entered in time: run the command again"):
            await log_in(there.settings(login_file=tmp_path / "l"), lambda said: None, sleep=sleep)
    assert waits == [1, 1, 1]


async def test_a_sign_in_without_a_refresh_token_says_what_the_app_lacks(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        there.meddle = lambda request: (
            json_answer(b'{"access_token":"t"}') if request.path.endswith("/token") else None
        )
        with pytest.raises(SignInError, match="the app lacks the permission offline_access"):
            await log_in(
                there.settings(login_file=tmp_path / "l"), lambda said: None, sleep=no_sleep
            )


async def test_a_sign_in_needs_to_know_the_tenant_and_the_app() -> None:
    with pytest.raises(SettingsError, match="give tenant_id= and client_id="):
        await log_in(Settings(login_file=Path("l")), lambda said: None, sleep=no_sleep)


# --- A managed identity.


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of an Azure App Service, which msal reads by itself."""
    monkeypatch.setenv("IDENTITY_HEADER", SandboxOptions().identity_header)
    return monkeypatch  # type: ignore[return-value]  # a fixture may return as well


@pytest.mark.parametrize("name", ["system", "sandbox-client"])
async def test_a_managed_identity_signs_in_without_any_secret(
    name: str, identity: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with entra(tmp_path) as there:
        identity.setenv("IDENTITY_ENDPOINT", f"{there.origin}/identity/token")
        there.now = time.time()
        settings = there.settings(managed_identity=name, client_secret=None)
        async with Client(settings) as client:
            assert [each async for each in client.invoices]
        assert there.asked["/identity/token"] == 1


async def test_a_machine_without_that_identity_says_so(
    identity: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with entra(tmp_path) as there:
        identity.setenv("IDENTITY_ENDPOINT", f"{there.origin}/identity/token")
        said = await refusal_of(there.settings(managed_identity="someone-else"))
    assert "signing in was refused: 400, No managed identity found." in said


async def test_no_managed_identity_endpoint_is_named_as_what_cannot_be_reached(
    identity: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    identity.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:9/identity/token")
    said = await refusal_of(Settings(managed_identity="system"))
    assert "signing in at the managed identity endpoint of this machine failed" in said


# --- Clouds.


@pytest.mark.parametrize(
    ("cloud", "base_url", "authority"),
    [
        (
            "public",
            "https://api.partnercenter.microsoft.com/v1",
            "https://login.microsoftonline.com",
        ),
        (
            "china",
            "https://partner.partnercenterapi.microsoftonline.cn/v1",
            "https://login.chinacloudapi.cn",
        ),
        ("usgov", "https://api.partnercenter.microsoft.com/v1", "https://login.microsoftonline.us"),
    ],
)
def test_a_cloud_decides_where_to_ask_and_where_to_sign_in_unless_told_otherwise(
    cloud: Any, base_url: str, authority: str
) -> None:
    settings = Settings(cloud=cloud)
    assert (settings.base_url, settings.authority) == (base_url, authority)
    own = Settings(
        cloud=cloud, base_url="https://proxy.example/v1", authority="https://login.example"
    )
    assert (own.base_url, own.authority) == ("https://proxy.example/v1", "https://login.example")


@pytest.mark.parametrize("cloud", list(CLOUDS))
@pytest.mark.parametrize("user", [False, True])
async def test_a_token_is_asked_for_the_api_of_its_cloud(
    cloud: Any, user: bool, tmp_path: Path
) -> None:
    async with entra(tmp_path) as there:
        settings = of_user(there, cloud=cloud) if user else there.settings(cloud=cloud)
        claims = claims_of(await credentials(settings).token())
    assert claims["aud"] == CLOUDS[cloud].resource
    assert claims.get("scp") == ("user_impersonation" if user else None)


# --- Which way.


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ({"token": "t", "client_secret": "s"}, Way.TOKEN),
        ({"token_command": "az x", "client_secret": "s"}, Way.COMMAND),
        ({"managed_identity": "system", "refresh_token": "r"}, Way.MANAGED_IDENTITY),
        ({"refresh_token": "r", "client_secret": "s"}, Way.USER),
        ({"client_secret": "s"}, Way.SECRET),
        ({"refresh_token": "r", "client_secret": "s", "sign_in": "secret"}, Way.SECRET),
        ({"token": "t", "client_secret": "s", "sign_in": "secret"}, Way.SECRET),
    ],
)
def test_the_first_way_that_is_given_is_taken_or_the_one_that_is_named(
    given: dict[str, Any], way: Way
) -> None:
    assert way_of(Settings(tenant_id="t", client_id="c", **given)) is way


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"refresh_token": "r"},
            "`sign_in='user'` needs a tenant and an app: give tenant_id .*, client_id .*, or sign",
        ),
        ({"client_secret": "s"}, "`sign_in='secret'` needs a tenant and an app: give tenant_id"),
        (
            {"token": "t", "sign_in": "managed-identity"},
            "needs a managed identity: give managed_identity",
        ),
        (
            {"sign_in": "user"},
            "needs a refresh token, a tenant and an app: give refresh_token .*, or sign in with",
        ),
        ({}, "no credentials: give token"),
    ],
)
def test_a_way_that_lacks_something_says_what(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        way_of(Settings(**given))
    with pytest.raises(SettingsError):
        token_source(Settings(**given))


# --- What a refusal says.


async def test_entra_that_quotes_our_secrets_is_not_quoted_with_them(tmp_path: Path) -> None:
    said = f"AADSTS7000215: Invalid client secret {CANARY} provided; refresh_token={CANARY}"
    body = json.dumps({"error": "invalid_client", "error_description": said}).encode()
    async with entra(tmp_path) as there:
        there.meddle = lambda request: (
            web.Response(body=body, status=401, content_type="application/json")
            if request.path.endswith("/token")
            else None
        )
        app = await refusal_of(there.settings(client_secret=Secret(CANARY)))
        user = await refusal_of(there.settings(refresh_token=Secret(CANARY)))
        write_login(
            tmp_path / "login.json", Login(TENANT, "sandbox-client", there.origin, Secret(CANARY))
        )
        kept = await refusal_of(there.settings(login_file=tmp_path / "login.json", sign_in="user"))
    for each in (app, user, kept):
        assert "Invalid client secret *** provided" in each
    assert app.endswith("; give the secret's value, not its id")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"client_secret": Secret(CANARY)}, "give the secret's value, not its id"),
        (
            {"client_id": "someone-else"},
            "check client_id and tenant_id: that tenant has no such app",
        ),
    ],
)
async def test_a_wrong_secret_or_app_says_what_to_do(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    async with entra(tmp_path) as there:
        assert (await refusal_of(there.settings(**given))).endswith(f"; {words}")


@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"{}", b"null", b'{"error_codes":["x"]}', b'{"error":5}']
)
async def test_an_odd_answer_is_a_refusal_and_no_bug(body: bytes, tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        there.meddle = lambda request: (
            json_answer(body) if request.path.endswith("/token") else None
        )
        assert "signing in" in await refusal_of(of_user(there))


# --- Every way, in the middle of a run.


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [way for way in Way if way is not Way.TOKEN], ids=lambda way: way.value
)
async def test_a_token_that_expires_in_mid_run_is_renewed_by_the_way_it_came(
    way: Way, certificate: Path, identity: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = SandboxOptions(client_certificate=str(certificate), token_lifetime_s=90)
    async with entra(tmp_path, options) as there:
        identity.setenv("IDENTITY_ENDPOINT", f"{there.origin}/identity/token")
        there.now = time.time()
        printed = tmp_path / "token"
        given: dict[Way, dict[str, Any]] = {
            Way.COMMAND: {"token_command": Secret(shlex.join(["cat", str(printed)]))},
            Way.MANAGED_IDENTITY: {"managed_identity": "system"},
            Way.USER: {"refresh_token": Secret(REFRESH), "login_file": tmp_path / "login.json"},
            Way.CERTIFICATE: {"client_certificate": certificate, "client_secret": None},
            Way.SECRET: {},
        }
        app = credentials(there.settings())
        printed.write_text(await app.token())
        settings = there.settings(sign_in=way.value, **given[way])
        async with Client(settings) as client:
            assert (await client.invoices.page()).items
            there.now += 91
            printed.write_text(await app.renew(await app.token()))
            assert (await client.invoices.page()).items
            assert client.stats.retries == 1  # the refusal, after which it was renewed
