"""No secret in anything that can be seen of a process whose libraries log all they know."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import anyio.to_thread
import pytest
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
from support.canaries import found_of, spellings_of
from support.objectservers import AzureServer, S3Server
from support.storeproxy import FaultyProxy, Seen, Status
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


@pytest.mark.parametrize("way", S3_WAYS)
async def test_an_export_to_s3_shows_no_secret(
    way: Any, s3_server: S3Server, tmp_path: Path
) -> None:
    await try_store(s3_server, way, "s3", f"logs-{way.__name__.replace('_', '-')}", tmp_path)


@pytest.mark.parametrize("way", AZURE_WAYS)
async def test_an_export_to_azure_shows_no_secret(
    way: Any, azure_server: AzureServer, tmp_path: Path
) -> None:
    await try_store(azure_server, way, "az", f"logs-{way.__name__.replace('_', '-')}", tmp_path)


@pytest.mark.parametrize("call", ["main", "export"])
@pytest.mark.parametrize("way", S3_WAYS)
async def test_s3_that_repeats_secrets_in_its_errors_shows_none(
    way: Any, call: str, s3_server: S3Server, tmp_path: Path
) -> None:
    name = f"echo-{call}-{way.__name__.replace('_', '-')}"
    await try_echoes(s3_server, way, "s3", name, tmp_path, call)


@pytest.mark.parametrize("call", ["main", "export"])
@pytest.mark.parametrize("way", AZURE_WAYS)
async def test_azure_that_repeats_secrets_in_its_errors_shows_none(
    way: Any, call: str, azure_server: AzureServer, tmp_path: Path
) -> None:
    name = f"echo-{call}-{way.__name__.replace('_', '-')}"
    await try_echoes(azure_server, way, "az", name, tmp_path, call)
