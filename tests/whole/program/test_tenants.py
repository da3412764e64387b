"""One archive, one tenant, whichever way the run signs in."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.replay import invoice
from support.servers.wire import Connection, response, wire

from bulkfetch import Selection, export_async, verify_against_server
from bulkfetch.errors import BulkfetchError, OutputError, SettingsError, SignInError
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.walk import plan_only
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore

ONE, TWO = (f"{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}" for digit in "12")
OFFICE = ("office", "billing_line_items")


def token_of(claims: Any) -> str:
    return f"{_encode({'alg': 'none'})}.{_encode(claims)}.c2ln"


def _encode(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def serve(connection: Connection, head: bytes) -> None:
    name = "E" if token_of({"tid": TWO}).encode() in head else "D"
    body: dict[str, Any] = {"items": [invoice(name, OFFICE, totalCharges=1)]}
    if b"/lineitems/" in head.split(b"\r\n")[0]:
        body = {"items": [{"customerName": "D", "totalForCustomer": 1}]}
    await connection.send(response(json.dumps(body).encode()))


async def export_with(output: Path, token: str, **settings: Any) -> None:
    async with wire(serve) as server:
        await export_async(
            output, Settings(base_url=server.base_url, token=Secret(token), **settings)
        )


async def repair_with(output: Path, token: str) -> int:
    async with wire(serve) as server:
        settings = Settings(base_url=server.base_url, token=Secret(token))
        return (await repair_async(output, settings)).exit_code


def tenant_of(output: Path) -> object:
    return json.loads((output / "_bulkfetch" / "archive.json").read_bytes())["tenant"]


def tree(output: Path) -> dict[str, bytes]:
    beside = ("logs", "archive.lock", "lock")
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in _files(output)
        if not set(path.parts) & {*beside}
    }


def _files(output: Path) -> Iterator[Path]:
    return (path for path in sorted(output.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"token": token_of({"tid": ONE})}, {"token": token_of({"tid": TWO})}),
        ({"token": token_of({"tid": ONE})}, {"token": "opaque", "tenant_id": TWO}),
        ({"token": "opaque", "tenant_id": ONE}, {"token": token_of({"tid": TWO})}),
    ],
)
async def test_another_tenant_is_refused_before_any_change(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    await export_with(tmp_path, **first)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=f"of tenant {ONE}, and these .* of tenant {TWO}"):
        await export_with(tmp_path, **second)
    assert tree(tmp_path) == before


async def test_a_tenant_that_a_token_did_not_tell_is_filled_in_by_a_later_run(
    tmp_path: Path,
) -> None:
    await export_with(tmp_path, "opaque")
    assert tenant_of(tmp_path) == "unknown"
    await export_with(tmp_path, token_of({"tid": ONE.upper()}))
    assert tenant_of(tmp_path) == ONE
    await export_with(tmp_path, "opaque")
    assert tenant_of(tmp_path) == ONE
    with pytest.raises(OutputError):
        await export_with(tmp_path, token_of({"tid": TWO}))


@pytest.mark.parametrize(
    "claims", [{}, {"tid": 5}, {"tid": None}, {"tid": ""}, {"tid": "x" * 50}, [], "tid", None]
)
async def test_a_token_with_odd_claims_tells_nothing(tmp_path: Path, claims: Any) -> None:
    await export_with(tmp_path, token_of(claims))
    assert tenant_of(tmp_path) == "unknown"


async def test_a_token_of_another_tenant_than_the_settings_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=f"tenant_id is {ONE}, but the token is of tenant {TWO}"
    ):
        await export_with(tmp_path, token_of({"tid": TWO}), tenant_id=ONE)
    assert [path for path in _files(tmp_path) if path.suffix == ".parquet"] == []


async def test_a_domain_name_in_the_settings_is_not_compared_with_a_tenants_id(
    tmp_path: Path,
) -> None:
    await export_with(tmp_path, token_of({"tid": ONE}), tenant_id="contoso.onmicrosoft.com")
    assert tenant_of(tmp_path) == ONE
    await export_with(tmp_path, token_of({"tid": ONE}))


async def test_a_plan_and_a_comparison_with_the_server_refuse_another_tenant_too(
    tmp_path: Path,
) -> None:
    """They would say that all invoices are gone, and that others are to be fetched."""
    await export_with(tmp_path, token_of({"tid": ONE}))
    report, store = verify(tmp_path), LocalStore(tmp_path)

    async with wire(serve) as server:
        settings = Settings(base_url=server.base_url, token=Secret(token_of({"tid": TWO})))
        for asked in (
            plan_only(settings, Selection(), store=store),
            verify_against_server(report, settings),
        ):
            with pytest.raises(OutputError, match=f"credentials are of tenant {TWO}"):
                await asked


async def test_a_token_of_another_tenant_half_way_ends_the_run_before_it_is_used(
    tmp_path: Path,
) -> None:
    """As where a person signs in to another tenant elsewhere while a token command is in use."""
    own, other = token_of({"tid": ONE}), token_of({"tid": TWO})
    mark, command = tmp_path / "asked", tmp_path / "token.sh"
    command.write_text(
        f"#!/bin/sh\nif [ -e {mark} ]; then echo {other}; else touch {mark}; echo {own}; fi\n"
    )
    command.chmod(0o755)
    heads: list[bytes] = []

    async def expire(connection: Connection, head: bytes) -> None:
        heads.append(head)
        if b"/lineitems/" in head.split(b"\r\n")[0] and own.encode() in head:
            await connection.send(response(b"{}", status="401 Unauthorized"))
        else:
            await serve(connection, head)

    async with wire(expire) as server:
        settings = Settings(base_url=server.base_url, token_command=Secret(str(command)))
        with pytest.raises(SignInError, match=f"of tenant {TWO}, .* before was of tenant {ONE}"):
            await export_async(tmp_path / "lake", settings)

    assert not [head for head in heads if other.encode() in head]
    assert not list(_files(tmp_path / "lake" / "line_items"))


LOST = {
    "the archive file": ["archive.json"],
    "reports too": ["archive.json", "runs"],
    "the table of headers too": ["archive.json", "runs", "headers"],
    "all": [""],
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_repair_of_what_lost_its_archive_file_takes_no_other_tenant(
    lost: list[str], tmp_path: Path
) -> None:
    own, other = token_of({"tid": ONE}), token_of({"tid": TWO})
    await export_with(tmp_path, own)
    remove(tmp_path, lost)
    before = tree(tmp_path)

    with pytest.raises(BulkfetchError, match=r"another tenant|credentials are of tenant"):
        await repair_with(tmp_path, other)

    assert tree(tmp_path) == before
    assert await repair_with(tmp_path, own) == 0
    assert tenant_of(tmp_path) == ONE
    assert verify(tmp_path, deep=True).exit_code == 0
    assert [path.name[0] for path in _files(tmp_path / "line_items")] == ["D"]


def remove(output: Path, names: list[str]) -> None:
    for name in names:
        path = output / "_bulkfetch" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


async def test_a_tenant_that_only_reports_name_is_kept_by_a_repair_whose_token_tells_nothing(
    tmp_path: Path,
) -> None:
    await export_with(tmp_path, token_of({"tid": ONE}))
    tmp_path.joinpath("_bulkfetch/archive.json").write_bytes(b"\0" * 100)

    assert await repair_with(tmp_path, "opaque") == 0

    assert tenant_of(tmp_path) == ONE
