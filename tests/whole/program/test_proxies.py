"""The program behind a proxy: a process on loopback that alone knows the names of the servers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread
import pytest
import trustme
from support.forks import run_bulkfetch
from support.servers.entra import REFRESH, SECRET, TENANT, Entra, entra
from support.servers.httpproxy import PASSWORD, USER, RunningProxy, http_proxy
from support.servers.wire import unused_port
from support.stores.objectservers import AzureServer, ObjectServer, S3Server

from bulkfetch.partnercenter.connection import open_session
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings
from bulkfetch.stats import RunStats
from bulkfetch.wire.messages import Request

API, LOGIN = "partnercenter.test", "login.test"
USER_INFO = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
# botocore can send no other
ASCII_PASSWORD = PASSWORD.replace("ü", "u")
ASCII_INFO = f"{quote(USER, safe='')}:{quote(ASCII_PASSWORD, safe='')}"
SMALL = SandboxOptions(invoices=2, line_items=20)


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


def run(folder: Path, *words: str, **environ: str) -> Done:
    """Run bulkfetch in an empty home, with these variables alone."""
    own = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    process = run_bulkfetch(*words, cwd=folder, environ={**own, **environ})
    return Done(process.returncode, process.stdout, process.stderr)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A Partner Center and an Entra that only a proxy can find."""

    folder: Path
    there: Entra

    @property
    def hosts(self) -> dict[str, int]:
        port = int(self.there.origin.rpartition(":")[2])
        return {f"{API}:443": port, f"{LOGIN}:443": port}

    @property
    def variables(self) -> dict[str, str]:
        return {
            "BULKFETCH_BASE_URL": f"https://{API}/v1",
            "BULKFETCH_AUTHORITY": f"https://{LOGIN}",
            "BULKFETCH_CA_FILE": str(self.there.ca_file),
            "BULKFETCH_TENANT_ID": TENANT,
            "BULKFETCH_CLIENT_ID": "sandbox-client",
            "BULKFETCH_CLIENT_SECRET": SECRET,
            "BULKFETCH_MAX_ATTEMPTS": "2",
        }

    async def run(self, *words: str, **environ: str) -> Done:
        variables = self.variables | environ
        return await anyio.to_thread.run_sync(lambda: run(self.folder, *words, **variables))


@asynccontextmanager
async def hidden_tenant(folder: Path) -> AsyncIterator[Tenant]:
    async with entra(folder, SMALL, names=[API, LOGIN]) as there:
        yield Tenant(folder, there)


def everything(folder: Path) -> bytes:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return b"\n".join(path.read_bytes() for path in files)


def assert_no_credentials(*texts: str | bytes) -> None:
    encoded = [info.partition(":")[2] for info in (USER_INFO, ASCII_INFO)]
    secrets = (PASSWORD, ASCII_PASSWORD, *encoded)
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        assert not any(secret.encode() in data for secret in secrets)


def hosts_of(proxy: RunningProxy) -> set[str]:
    return {line.partition(" ")[2] for line in proxy.passed()}


@pytest.mark.parametrize("how", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "flag", "file"])
async def test_an_export_and_its_sign_in_go_through_the_proxy(how: str, tmp_path: Path) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts, credentials=f"{USER}:{PASSWORD}") as proxy:
            address = proxy.with_credentials(USER_INFO)
            words, environ = [], {}
            if how == "flag":
                words = ["--proxy", address]
            elif how == "file":
                (tmp_path / "own.toml").write_text(f"proxy = '{address}'")
                (tmp_path / "own.toml").chmod(0o600)
                words = ["--config", "own.toml"]
            else:
                environ = {how: address}
            done = await tenant.run("export", "lake", "--verbose", "--verbose", *words, **environ)
            assert done.code == 0, done.err
            assert hosts_of(proxy) == {f"{API}:443", f"{LOGIN}:443"}
    assert tenant.there.tokens_asked == 1
    assert sum(tenant.there.asked.values()) >= 4
    assert_no_credentials(done.out, done.err, everything(tmp_path / "lake"))


@pytest.mark.parametrize(
    ("words", "variables"), [([], {"NO_PROXY": ".test"}), (["--proxy", "none"], {})]
)
async def test_without_the_proxy_nothing_is_reached(
    words: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts) as proxy:
            export = ["export", "lake", "--max-attempts", "1", *words]
            done = await tenant.run(*export, HTTPS_PROXY=proxy.address, **variables)
            assert done.code == 1
            assert proxy.lines() == []
            assert variables or "proxy" not in done.err
    assert not tenant.there.asked


async def test_no_proxy_lets_one_host_be_asked_directly(tmp_path: Path) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts) as proxy:
            done = await tenant.run(
                "export",
                "lake",
                "--base-url",
                f"{tenant.there.origin}/v1",
                HTTPS_PROXY=proxy.address,
                no_proxy="localhost",
            )
            assert done.code == 0, done.err
            assert hosts_of(proxy) == {f"{LOGIN}:443"}


async def test_a_person_signs_in_through_the_proxy(tmp_path: Path) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts) as proxy:
            done = await tenant.run("login", HTTPS_PROXY=proxy.address, BULKFETCH_CLIENT_SECRET="")
            assert done.code == 0, done.err
            assert hosts_of(proxy) >= {f"{LOGIN}:443"}
            done = await tenant.run(
                "invoices",
                "list",
                HTTPS_PROXY=proxy.address,
                BULKFETCH_CLIENT_SECRET="",
                BULKFETCH_REFRESH_TOKEN=REFRESH,
            )
            assert done.code == 0, done.err


async def test_a_proxy_that_is_reached_by_tls_works(tmp_path: Path) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            tmp_path / "proxy.pem"
        )
        trusted = tmp_path / "both.pem"
        trusted.write_bytes(tenant.there.ca_file.read_bytes() + authority.cert_pem.bytes())
        with http_proxy(
            tmp_path,
            tenant.hosts,
            credentials=f"{USER}:{PASSWORD}",
            certificate=tmp_path / "proxy.pem",
        ) as proxy:
            assert proxy.address.startswith("https://")
            address = proxy.with_credentials(USER_INFO)
            done = await tenant.run(
                "export", "lake", HTTPS_PROXY=address, BULKFETCH_CA_FILE=str(trusted)
            )
            assert done.code == 0, done.err
            assert hosts_of(proxy) == {f"{API}:443", f"{LOGIN}:443"}
            given = {"HTTPS_PROXY": address, "BULKFETCH_TOKEN": SMALL.token}
            for command in (["invoices", "list"], ["login"]):
                done = await tenant.run(*command, **given)
                assert done.code == 1
                assert "the proxy https://***@localhost" in done.err
                assert_no_credentials(done.err)


FAULTS = [
    ("407 Proxy Authentication Required", "refuses the credentials (407)", "percent-encoded"),
    ("403 Forbidden", "does not connect to {host}: it answers 403", "NO_PROXY"),
    ("502 Bad Gateway", "does not connect to {host}: it answers 502", "check the name"),
    ("504 Gateway Timeout", "does not connect to {host}: it answers 504", "check the name"),
]


@pytest.mark.parametrize(
    ("who", "status", "words", "advice"),
    [
        *(("api", *fault) for fault in FAULTS),
        *(("login", *fault) for fault in FAULTS),
        *(("sign-in", *fault) for fault in FAULTS[:2]),
    ],
)
async def test_what_a_proxy_refuses_is_said_as_its_doing(
    status: str, words: str, advice: str, who: str, tmp_path: Path
) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts, refuses=status) as proxy:
            address = proxy.with_credentials(USER_INFO)
            given = {"BULKFETCH_TOKEN": SMALL.token} if who == "api" else {}
            command = ["login"] if who == "login" else ["invoices", "list"]
            done = await tenant.run(*command, HTTPS_PROXY=address, **given)
            asked = len(proxy.lines())
    host = API if who == "api" else LOGIN
    assert done.code == 1
    assert f"the proxy http://***@localhost:{proxy.port} " in done.err
    assert words.format(host=host) in done.err
    assert done.err.count(advice) == 1
    assert "base URL" not in done.err
    assert_no_credentials(done.out, done.err)
    if status.startswith("4"):
        assert asked == 1  # a refusal is final
    elif who == "api":
        assert asked > 1  # what may pass is tried again


@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Timeout"])
def test_a_proxy_of_plain_http_that_fails_is_said_to(status: str, tmp_path: Path) -> None:
    with http_proxy(tmp_path, refuses=status) as proxy:
        given = ["--base-url", "http://127.0.0.1:9/v1", "--proxy", proxy.address]
        done = run(tmp_path, "invoices", "list", *given, "--token", "t", "--max-attempts", "2")
        assert len(proxy.lines()) == 2
    assert done.code == 1
    assert f"the proxy {proxy.address} does not connect to 127.0.0.1" in done.err
    assert f"it answers {status[:3]}" in done.err
    assert "support" not in done.err


async def test_the_progress_says_that_it_is_the_proxy_that_is_down(tmp_path: Path) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts, refuses="503 twice") as proxy:
            stats = RunStats()
            settings = read_settings(
                Settings(base_url=f"https://{API}/v1", ca_file=tenant.there.ca_file),
                token=SMALL.token,
                proxy=proxy.address,
            )
            async with open_session(settings, stats) as session:
                await session.get(Request("/invoices"), bytes)
    assert stats.retry_of == "the proxy is failing"


async def test_wrong_and_missing_credentials_are_told_apart(tmp_path: Path) -> None:
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts, credentials=f"{USER}:{PASSWORD}") as proxy:
            wrong = proxy.with_credentials("user:wrong-canary")
            for address, words in ((wrong, "refuses the"), (proxy.address, "asks for")):
                for token in ({"BULKFETCH_TOKEN": SMALL.token}, {}):
                    done = await tenant.run("invoices", "list", HTTPS_PROXY=address, **token)
                    assert done.code == 1
                    assert f"{words} credentials (407)" in done.err
                    assert "HTTPS_PROXY" in done.err
                    assert "wrong-canary" not in done.err


@pytest.mark.parametrize("who", ["api", "login"])
@pytest.mark.parametrize("kind", ["down", "unknown", "silent", "closing", "not http"])
async def test_a_proxy_that_does_not_work_is_named(kind: str, who: str, tmp_path: Path) -> None:
    given = {"BULKFETCH_TOKEN": SMALL.token} if who == "api" else {}
    given |= {"BULKFETCH_CONNECT_TIMEOUT_S": "0.5"}
    if kind == "silent" and who == "login":
        pytest.skip("its time-out is half a minute")
    async with hidden_tenant(tmp_path) as tenant:
        refuses = {"silent": "silence", "closing": "close", "not http": "garbage"}.get(kind, "")
        with http_proxy(tmp_path, tenant.hosts, refuses=refuses) as proxy:
            address = proxy.with_credentials(USER_INFO)
            if kind == "down":
                address = f"http://{USER_INFO}@127.0.0.1:{unused_port()}"
            if kind == "unknown":
                address = f"http://{USER_INFO}@no-such-proxy.invalid:1"
            command = ["login"] if who == "login" else ["invoices", "list"]
            done = await tenant.run(*command, HTTPS_PROXY=address, **given)
    assert done.code == 1
    assert f"the proxy {address.replace(USER_INFO, '***')} " in done.err
    assert "check the address in environment variable HTTPS_PROXY" in done.err
    assert "--proxy none" in done.err
    assert_no_credentials(done.out, done.err)


async def test_a_proxy_that_comes_back_is_used_again(tmp_path: Path) -> None:
    """A proxy that is down is tried again, as any connection."""
    async with hidden_tenant(tmp_path) as tenant:
        with http_proxy(tmp_path, tenant.hosts, refuses="503 twice") as proxy:
            given = {"BULKFETCH_TOKEN": SMALL.token, "BULKFETCH_MAX_ATTEMPTS": "6"}
            done = await tenant.run("invoices", "list", HTTPS_PROXY=proxy.address, **given)
            assert done.code == 0, done.err
            assert len(proxy.lines()) > len(proxy.passed()) >= 1


def test_a_proxy_that_ended_is_an_error_and_no_bug(tmp_path: Path) -> None:
    with http_proxy(tmp_path) as proxy:
        os.kill(proxy.pid, signal.SIGTERM)
    done = run(
        tmp_path,
        "invoices",
        "list",
        "--max-attempts",
        "1",
        BULKFETCH_TOKEN="x",
        HTTPS_PROXY=proxy.address,
    )
    assert done.code == 1
    assert "cannot be reached" in done.err


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"socks5h://u:{PASSWORD}@proxy:1080", "is a SOCKS proxy"),
        (f"http://u:{PASSWORD}@proxy:1080", "must be the address of a proxy"),
    ],
)
@pytest.mark.parametrize("how", ["variable", "flag"])
def test_an_address_that_cannot_be_used_is_refused_before_anything(
    how: str, address: str, words: str, tmp_path: Path
) -> None:
    given = {"HTTPS_PROXY": address} if how == "variable" else {}
    flags = ["--proxy", address] if how == "flag" else []
    done = run(tmp_path, "export", "lake", *flags, BULKFETCH_TOKEN="x", **given)
    assert done.code == 2
    assert words in done.err
    assert ("HTTPS_PROXY" if how == "variable" else "--proxy") in done.err
    assert_no_credentials(done.err)
    assert not (tmp_path / "lake").exists()


def test_the_sandbox_of_a_command_is_never_asked_through_a_proxy(tmp_path: Path) -> None:
    down = f"http://127.0.0.1:{unused_port()}"
    for flags in ([], ["--proxy", down]):
        words = ("export", "lake", "--sandbox-invoices", "2", "--sandbox-line-items", "9")
        done = run(tmp_path, *words, "--sandbox", *flags, HTTP_PROXY=down)
        assert done.code == 0, done.err


def test_config_shows_the_proxies_and_hides_their_credentials(tmp_path: Path) -> None:
    given = {
        "HTTPS_PROXY": f"http://{USER_INFO}@proxy.corp:3128",
        "no_proxy": ".microsoftonline.com,*.corp",
    }
    done = run(tmp_path, "config", **given)
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert (
        "api.partnercenter.microsoft.com http://***@proxy.corp:3128 "
        "environment variable HTTPS_PROXY" in lines
    )
    assert (
        "login.microsoftonline.com direct environment variable no_proxy has .microsoftonline.com"
        in lines
    )
    assert "no host matches *.corp" in done.err
    assert_no_credentials(done.out, done.err)
    facts = json.loads(run(tmp_path, "config", "--json", **given).out)["proxies"]
    assert facts["any other host"]["source"] == "environment variable HTTPS_PROXY"
    done = run(tmp_path, "config", "--proxy", f"{USER_INFO}@other:1", **given)
    assert "http://***@other:1" in done.out
    assert "--proxy" in done.out
    assert_no_credentials(done.out)
    done = run(tmp_path, "config", BULKFETCH_PROXY="", **given)
    assert done.out.count("environment variable BULKFETCH_PROXY is none") == 4
    done = run(tmp_path, "config", HTTPS_PROXY=f"socks5://{USER_INFO}@proxy:1")
    assert done.code == 0
    assert "is a SOCKS proxy" in done.out
    assert_no_credentials(done.out)


def test_a_file_with_a_password_in_it_should_be_readable_by_its_owner_alone(
    tmp_path: Path,
) -> None:
    for user_info, warns in ((f"{USER_INFO}@", True), ("", False)):
        (tmp_path / "own.toml").write_text(f"proxy = 'http://{user_info}proxy:1'")
        (tmp_path / "own.toml").chmod(0o644)
        done = run(tmp_path, "config", "--config", "own.toml")
        assert ("holds proxy" in done.err) == warns
        assert_no_credentials(done.out, done.err)


AWS, AZURE = "s3.us-east-1.amazonaws.com", f"{AzureServer.account}.blob.core.windows.net"


def of_store(server: ObjectServer, *, tls: bool) -> dict[str, str]:
    """Return the settings for a store on loopback, or for one with the name that clouds have."""
    if isinstance(server, S3Server):
        return {
            "BULKFETCH_STORAGE_ENDPOINT": f"https://{AWS}" if tls else server.endpoint,
            "BULKFETCH_STORAGE_KEY_ID": server.account,
            "BULKFETCH_STORAGE_KEY": "moto-secret",
        }
    assert isinstance(server, AzureServer)
    return {
        "BULKFETCH_STORAGE_ENDPOINT": f"https://{AZURE}" if tls else server.endpoint,
        "BULKFETCH_STORAGE_ACCOUNT": server.account,
        "BULKFETCH_STORAGE_KEY": server.key,
    }


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
def test_an_archive_in_an_object_store_is_written_through_the_proxy(
    tls: bool, object_server: ObjectServer, container: str, tmp_path: Path
) -> None:
    scheme = "s3" if isinstance(object_server, S3Server) else "az"
    address = f"{scheme}://{container}/lake"
    words = ["--sandbox", "--sandbox-invoices", "2", "--sandbox-line-items", "20"]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert(AWS, AZURE).private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "store.pem"
    )
    place = f"127.0.0.1:{object_server.port}"
    given = of_store(object_server, tls=tls)
    if tls:
        place = f"{AWS if scheme == 's3' else AZURE}:443"
        given["BULKFETCH_CA_FILE"] = str(tmp_path / "ca.pem")
    with http_proxy(
        tmp_path,
        {place: 0 if tls else object_server.port},
        credentials=f"{USER}:{ASCII_PASSWORD}",
        certificate=tmp_path / "store.pem",
        front=object_server.port,
    ) as proxy:
        given["HTTPS_PROXY" if tls else "HTTP_PROXY"] = proxy.with_credentials(ASCII_INFO)
        done = run(tmp_path, "export", address, *words, **given)
        assert done.code == 0, done.err
        passed = proxy.passed()
        assert len(passed) > (1 if tls else 20)
        done = run(tmp_path, "verify", address, **given)
        assert done.code == 0, done.err
        assert len(proxy.passed()) > len(passed)
        passed = proxy.passed()
        done = run(tmp_path, "tables", "sync", address, "--format", "delta", **given)
        assert done.code == 0, done.err
        assert "IMDS" not in done.err
        assert len(proxy.passed()) > len(passed)
        assert all(line.startswith(("200", "2")) for line in proxy.lines())
        # the same store without the proxy: what the environment says is not asked behind our back
        seen = len(proxy.lines())
        done = run(tmp_path, "verify", address, "--proxy", "none", **given, **QUICK)
        assert (done.code == 0) == (not tls)
        assert len(proxy.lines()) == seen
        wrong = given | {"HTTPS_PROXY": proxy.with_credentials("user:wrong-canary")}
        wrong["HTTP_PROXY"] = wrong["HTTPS_PROXY"]
        done = run(tmp_path, "verify", address, **wrong)
        assert done.code in (1, 2)
        assert "407" in done.err
        assert "proxy" in done.err
        assert "wrong-canary" not in done.err
    assert_no_credentials(done.err)
    down = given | {"HTTPS_PROXY": proxy.with_credentials(ASCII_INFO)}
    done = run(tmp_path, "verify", address, **down, **QUICK)
    assert done.code in (1, 2)
    assert "proxy" in done.err if tls else "cannot be used" in done.err
    assert_no_credentials(done.err)


QUICK: Mapping[str, str] = {"BULKFETCH_STORAGE_PATIENCE_S": "1"}


def test_credentials_that_botocore_cannot_send_are_refused(tmp_path: Path) -> None:
    with http_proxy(tmp_path) as proxy:
        given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        given["HTTPS_PROXY"] = proxy.with_credentials(USER_INFO)
        done = run(tmp_path, "verify", "s3://b/lake", **given)
    assert done.code == 2
    assert "the proxy in environment variable HTTPS_PROXY must be ASCII" in done.err
    assert_no_credentials(done.err)
