"""No secret in anything that can be seen of a process whose libraries log all they know."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import anyio.to_thread
import pytest
from aiohttp import web
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.canaries import found_of, spellings_of
from support.samples import crossed
from support.servers.entra import TENANT, Meddle, entra
from support.servers.httpproxy import http_proxy
from support.stores.gcsstandin import gcs_before
from support.stores.objectservers import AzureServer, S3Server
from support.stores.storeproxy import FaultyProxy, Seen, Status
from support.watched import CONTROL, Watched, watch

from bulkfetch.sandbox import SandboxOptions, serve

TOKEN = "canary+token/0123456789~abcdef=="
S3_KEY, S3_TOKEN = "canary/secret+key/0123456789", "canary/session+token/0123456789=="
QUICK = {"BULKFETCH_STORAGE_PATIENCE_S": "1", "BULKFETCH_MAX_ATTEMPTS": "1"}


def sas_of(server: AzureServer) -> str:
    return generate_account_sas(
        server.account,
        server.key,
        resource_types=ResourceTypes(service=True, container=True, object=True),
        permission=AccountSasPermissions(
            read=True, write=True, delete=True, list=True, add=True, create=True
        ),
        expiry=datetime.now(UTC) + timedelta(hours=1),
        protocol="https,http",
    )


def s3_by_key(server: S3Server) -> tuple[dict[str, str], list[str]]:
    return {"BULKFETCH_STORAGE_KEY_ID": "canary-id", "BULKFETCH_STORAGE_KEY": S3_KEY}, [S3_KEY]


def s3_by_session(server: S3Server) -> tuple[dict[str, str], list[str]]:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return dict(zip(names, ("id", S3_KEY, S3_TOKEN), strict=True)), [S3_KEY, S3_TOKEN]


def azure_by_key(server: AzureServer) -> tuple[dict[str, str], list[str]]:
    return {"BULKFETCH_STORAGE_KEY": server.key}, [server.key]


def azure_by_sas(server: AzureServer) -> tuple[dict[str, str], list[str]]:
    sas = sas_of(server)
    return {"BULKFETCH_STORAGE_SAS": sas}, [parse_qs(sas)["sig"][0]]


def azure_by_connection_string(server: AzureServer) -> tuple[dict[str, str], list[str]]:
    text = f"DefaultEndpointsProtocol=http;AccountName={server.account};AccountKey={server.key};"
    return {"AZURE_STORAGE_CONNECTION_STRING": text}, [server.key]


def azure_by_connection_string_with_sas(server: AzureServer) -> tuple[dict[str, str], list[str]]:
    sas = sas_of(server)
    text = f"AccountName={server.account};SharedAccessSignature={sas}"
    return {"AZURE_STORAGE_CONNECTION_STRING": text}, [parse_qs(sas)["sig"][0]]


S3_WAYS = (s3_by_key, s3_by_session)
AZURE_WAYS = (
    azure_by_key,
    azure_by_sas,
    azure_by_connection_string,
    azure_by_connection_string_with_sas,
)


def of_store(server: S3Server | AzureServer, port: int) -> dict[str, str]:
    return {
        "BULKFETCH_STORAGE_ENDPOINT": server.options(port)["endpoint"],
        "BULKFETCH_STORAGE_ACCOUNT": server.account,
        "BULKFETCH_STORAGE_REGION": "us-east-1",
        "BULKFETCH_TOKEN": TOKEN,
        **QUICK,
    }


def signatures_in(proxy: FaultyProxy) -> set[str]:
    """Return every signature that was sent to a store."""
    found = set()
    for each in proxy.log:
        sent = each.seen.headers.get("authorization", "")
        found.add(sent.rpartition("Signature=")[2] if "Signature=" in sent else "")
        found.add(sent.rpartition(":")[2] if sent.startswith("SharedKey") else "")
        found.add(each.seen.query.get("sig", ""))
    return {each for each in found if each}


def assert_nothing_shows(done: Watched, secrets: list[str], *more: str) -> None:
    """Fail if any spelling of a secret is anywhere, or if the search finds none where one is."""
    for where in (done.streams, done.seen):
        assert CONTROL in where
    text = "\n".join((done.said, *more))
    for spelling in spellings_of(secrets[0]):
        assert found_of(secrets[:1], f"{text} {spelling} {text}")
    assert found_of(secrets, text) == []


async def export_to(
    address: str, folder: Path, environ: Mapping[str, str], call: str = "export", **given: Any
) -> Watched:
    options = SandboxOptions(invoices=2, line_items=20, token=TOKEN)
    async with serve(options) as sandbox:
        variables = {"BULKFETCH_BASE_URL": sandbox.base_url, **environ}
        if call == "main":
            given = {"words": ["export", address, "--verbose", "--verbose", *given["words"]]}
        else:
            given |= {"output": address}
        return await anyio.to_thread.run_sync(lambda: watch(folder, call, variables, **given))


async def try_store(
    server: S3Server | AzureServer, way: Any, scheme: str, container: str, folder: Path
) -> None:
    credentials, secrets = way(server)
    server.create(container)
    with FaultyProxy(server.port) as proxy:
        environ = of_store(server, proxy.port) | credentials
        address = f"{scheme}://{container}/lake"
        done = await export_to(address, folder, environ, "main", words=["--json"])
        assert done.code == 0, done.streams
        signatures = signatures_in(proxy)
    assert signatures
    stored = "".join(
        server.read(container, name).decode("latin-1") for name in server.names(container)
    )
    assert_nothing_shows(done, [TOKEN, *secrets, *signatures], stored)


def echo(secrets: list[str], status: int) -> Any:
    """Decide on errors that repeat all that the store was sent, and the secrets beside it."""

    def decide(seen: Seen) -> Status | None:
        if seen.method != "PUT" and seen.number < 4:
            return None
        sent = [seen.headers.get("authorization", ""), seen.path, str(dict(seen.query))]
        said = " ".join([*secrets, *map(quote, secrets), *sent]).replace("&", "&amp;")
        body = f"<Error><Code>Odd</Code><Message>{said.replace('<', '')}</Message></Error>"
        return Status(status, body.encode(), headers={"x-ms-error-code": secrets[0]})

    return decide


async def try_echoes(
    server: S3Server | AzureServer, way: Any, scheme: str, container: str, folder: Path, call: str
) -> None:
    credentials, secrets = way(server)
    server.create(container)
    for status in (403, 500):
        with FaultyProxy(server.port, echo(secrets, status)) as proxy:
            environ = of_store(server, proxy.port) | credentials
            address = f"{scheme}://{container}/lake"
            given: dict[str, Any] = {"words": []} if call == "main" else {}
            done = await export_to(address, folder, environ, call, **given)
            signatures = signatures_in(proxy)
        assert done.code == 1, done.streams
        assert "***" in done.said
        assert_nothing_shows(done, [TOKEN, *secrets, *signatures])


@pytest.mark.slow
@pytest.mark.parametrize("way", S3_WAYS)
async def test_an_export_to_s3_shows_no_secret(
    way: Any, s3_server: S3Server, tmp_path: Path
) -> None:
    await try_store(s3_server, way, "s3", f"logs-{way.__name__.replace('_', '-')}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", AZURE_WAYS)
async def test_an_export_to_azure_shows_no_secret(
    way: Any, azure_server: AzureServer, tmp_path: Path
) -> None:
    await try_store(azure_server, way, "az", f"logs-{way.__name__.replace('_', '-')}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["main", "export"])
@pytest.mark.parametrize("way", S3_WAYS)
async def test_s3_that_repeats_secrets_in_its_errors_shows_none(
    way: Any, call: str, s3_server: S3Server, tmp_path: Path
) -> None:
    name = f"echo-{call}-{way.__name__.replace('_', '-')}"
    await try_echoes(s3_server, way, "s3", name, tmp_path, call)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["main", "export"])
@pytest.mark.parametrize("way", AZURE_WAYS)
async def test_azure_that_repeats_secrets_in_its_errors_shows_none(
    way: Any, call: str, azure_server: AzureServer, tmp_path: Path
) -> None:
    name = f"echo-{call}-{way.__name__.replace('_', '-')}"
    await try_echoes(azure_server, way, "az", name, tmp_path, call)


# --- Signing in, through a proxy that wants credentials.

CLIENT_SECRET, REFRESH_TOKEN = (
    "canary~client-secret/0123456789+x",
    "canary.refresh-token_0123456789",
)
PROXY_PASSWORD = "canary:proxy/pass@word-0123456789"
WAYS = {
    "secret": {"BULKFETCH_CLIENT_SECRET": CLIENT_SECRET},
    "refresh token": {
        "BULKFETCH_CLIENT_SECRET": CLIENT_SECRET,
        "BULKFETCH_REFRESH_TOKEN": REFRESH_TOKEN,
    },
    "token": {"BULKFETCH_TOKEN": TOKEN},
    "command": {"BULKFETCH_TOKEN_COMMAND": f"printf %s {TOKEN}"},
    "device code": {},
}
PAIR = base64.b64encode(f"user:{PROXY_PASSWORD}".encode()).decode()


def secrets_of(way: str) -> list[str]:
    """Return the secrets that a process knows; of a command, the token that it prints."""
    given = [TOKEN] if way == "command" else list(WAYS[way].values())
    return [*given, PROXY_PASSWORD]


def repeat(way: str, status: int, where: str) -> Meddle:
    """Return what answers with all secrets in an error, to requests whose path has `where`."""
    secrets = secrets_of(way)

    def answer(request: web.Request) -> web.Response | None:
        if where not in request.path:
            return None
        said = " ".join([*secrets, *map(quote, secrets), str(dict(request.headers))])
        body: dict[str, object] = {
            "error": "invalid_client",
            "error_description": said,
            "code": said,
        }
        body |= {"correlation_id": said, "error_codes": [said], "access_token_of": said}
        return web.json_response(body, status=status)

    return answer


async def watch_sign_in(
    folder: Path, way: str, call: str, given: dict[str, Any], meddle: Meddle = lambda request: None
) -> tuple[Watched, set[str]]:
    """Run a call behind the proxy; return what was seen, and each token that came with it."""
    api, login = "api.example", "login.example"
    options = SandboxOptions(
        invoices=2,
        line_items=20,
        token=TOKEN,
        client_secret=CLIENT_SECRET,
        refresh_token=REFRESH_TOKEN,
    )
    issued: set[str] = set()

    def look(request: web.Request) -> web.StreamResponse | None:
        issued.add(request.headers.get("Authorization", "").removeprefix("Bearer "))
        return meddle(request)

    async with entra(folder, options, names=[api, login]) as there:
        there.meddle = look
        port = int(there.origin.rpartition(":")[2])
        hosts = {f"{api}:443": port, f"{login}:443": port}
        with http_proxy(folder, hosts, credentials=f"user:{PROXY_PASSWORD}") as proxy:
            environ = {
                "BULKFETCH_BASE_URL": f"https://{api}/v1",
                "BULKFETCH_AUTHORITY": f"https://{login}",
                "BULKFETCH_CA_FILE": str(there.ca_file),
                "BULKFETCH_TENANT_ID": TENANT,
                "BULKFETCH_CLIENT_ID": "sandbox-client",
                "HTTPS_PROXY": proxy.with_credentials(f"user:{quote(PROXY_PASSWORD, safe='')}"),
                **QUICK,
                **WAYS[way],
            }
            done = await anyio.to_thread.run_sync(lambda: watch(folder, call, environ, **given))
            assert proxy.passed()
    return done, issued - {""}


def left_behind(folder: Path) -> str:
    """Return all that is in the archive, and in the home without the login, which has a token."""
    files = [path for path in (folder / "work").rglob("*") if path.is_file()]
    return "\n".join(
        path.read_bytes().decode("latin-1") for path in files if path.name != "login.json"
    )


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "export": ("export", {"output": "lake"}),
    "main": ("main", {"words": ["export", "lake", "--json", "--verbose", "--verbose"]}),
    "check": ("check_login", {}),
}


@pytest.mark.parametrize(
    ("way", "call"), crossed([way for way in WAYS if WAYS[way]], ["export", "main"])
)
async def test_no_way_to_sign_in_shows_a_secret(way: str, call: str, tmp_path: Path) -> None:
    name, given = CALLS[call]
    done, issued = await watch_sign_in(tmp_path, way, name, given)
    assert done.code == 0, done.streams
    assert issued
    assert_nothing_shows(done, [*secrets_of(way), PAIR, *issued], left_behind(tmp_path))


ECHOES = [
    *(("export", "secret", status, "/token") for status in (200, 400, 401, 500)),
    *(("export", "refresh token", status, "/token") for status in (200, 400, 401, 500)),
    *(("export", "token", status, "/invoices") for status in (200, 401, 403, 500)),
    *(("main", "token", status, "/lineitems/") for status in (200, 404)),
    ("check", "refresh token", 400, "/token"),
    ("check", "token", 401, "/invoices"),
    ("check", "command", 403, "/invoices"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "way", "status", "where"), ECHOES)
async def test_a_server_that_repeats_secrets_shows_none(
    call: str, way: str, status: int, where: str, tmp_path: Path
) -> None:
    name, given = CALLS[call]
    done, issued = await watch_sign_in(tmp_path, way, name, given, repeat(way, status, where))
    assert done.code == (0 if call == "check" and where != "/token" else 1), done.streams
    assert_nothing_shows(done, [*secrets_of(way), PAIR, *issued], left_behind(tmp_path))


async def test_a_person_who_signs_in_with_a_code_leaves_the_login_alone(tmp_path: Path) -> None:
    login = tmp_path / "work" / "login.json"
    given = {"words": ["login", "--login-file", str(login)]}
    done, _ = await watch_sign_in(tmp_path, "device code", "main", given)
    assert done.code == 0, done.streams
    kept = json.loads(login.read_bytes())["refresh_token"]
    assert_nothing_shows(done, [kept, PROXY_PASSWORD, PAIR], left_behind(tmp_path))


# --- A service account of Google, which signs a request for a token with its private key.

GOOGLE_TOKEN = "ya29.canary-access_token/0123456789"


@dataclass
class TokenServer:
    """What answers as Google's token endpoint does: with a token, or with an error that repeats all
    that it was sent."""

    status: int = 200
    url: str = ""
    assertions: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        (assertion,) = parse_qs(await request.text())["assertion"]
        self.assertions.append(assertion)
        if self.status == 200:
            token = {"access_token": GOOGLE_TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return web.json_response(token)
        said = f"{assertion} {quote(assertion)} {dict(request.headers)}"
        body = {"error": "invalid_grant", "error_description": said}
        return web.json_response(body, status=self.status)


@asynccontextmanager
async def token_server(status: int) -> AsyncIterator[TokenServer]:
    served = TokenServer(status)
    app = web.Application()
    app.router.add_post("/token", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.url = "http://{}:{}/token".format(*runner.addresses[0][:2])
        yield served
    finally:
        await runner.cleanup()


def write_service_account(path: Path, token_url: str) -> list[str]:
    """Write a key file; return the lines of its private key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    facts = {
        "type": "service_account",
        "project_id": "canary-project",
        "private_key_id": "canary-key-id",
        "private_key": pem,
        "client_email": "canary@canary-project.iam.gserviceaccount.com",
        "token_uri": token_url,
    }
    path.write_text(json.dumps(facts))
    return pem.splitlines()[1:-1]


@pytest.mark.parametrize("call", ["main", "export"])
async def test_an_export_to_google_by_a_service_account_shows_no_secret(
    call: str, s3_server: S3Server, tmp_path: Path
) -> None:
    container = f"logs-google-{call}"
    s3_server.create(container)
    with gcs_before(s3_server.port) as store:
        async with token_server(200) as google:
            lines = write_service_account(tmp_path / "key.json", google.url)
            environ = of_google(store.endpoint, tmp_path / "key.json")
            given: dict[str, Any] = {"words": ["--json"]} if call == "main" else {}
            done = await export_to(f"gs://{container}/lake", tmp_path, environ, call, **given)
    assert done.code == 0, done.streams
    assert store.authorizations == {f"Bearer {GOOGLE_TOKEN}"}
    (assertion,) = google.assertions
    stored = "".join(
        s3_server.read(container, name).decode("latin-1") for name in s3_server.names(container)
    )
    assert_nothing_shows(done, [TOKEN, GOOGLE_TOKEN, *signed(assertion), *lines], stored)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["main", "export"])
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_google_that_refuses_a_service_account_and_repeats_its_request_shows_no_secret(
    status: int, call: str, tmp_path: Path
) -> None:
    async with token_server(status) as google:
        lines = write_service_account(tmp_path / "key.json", google.url)
        environ = of_google("http://127.0.0.1:1", tmp_path / "key.json")
        given: dict[str, Any] = {"words": []} if call == "main" else {}
        done = await export_to("gs://bucket/lake", tmp_path, environ, call, **given)
    assert done.code in (1, 2), done.streams
    assert "Google Cloud Storage: no credentials" in done.said
    assert google.assertions
    secrets = [part for each in google.assertions for part in signed(each)]
    assert_nothing_shows(done, [TOKEN, *secrets, *lines])


def signed(assertion: str) -> list[str]:
    """Return what must not be seen of a signed request for a token: all of it, and its
    signature."""
    return [assertion, assertion.rpartition(".")[2]]


def of_google(endpoint: str, key: Path) -> dict[str, str]:
    return {
        "BULKFETCH_STORAGE_ENDPOINT": endpoint,
        "BULKFETCH_STORAGE_CREDENTIALS": str(key),
        "BULKFETCH_TOKEN": TOKEN,
        **QUICK,
    }
