"""The fake Graph over real sockets: the calls of the export, and whose token opens what."""

from __future__ import annotations

import base64
import json
import zlib
from decimal import Decimal
from typing import Any

import pytest
from support.graph.graphcalls import Clock, GraphCalls, blob_urls, graph_calls

NEW, OLD = "G000700185", "G000700037"
"""Invoices of April 2024 and December 2023; their billing periods are a month before."""
USAGE = f"usage/billed/{NEW}"


def row_of(line: bytes) -> dict[str, Any]:
    """Return a row with exact numbers; a key that is repeated is an error."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return dict(json.loads(line, parse_float=Decimal, object_pairs_hook=once))


async def test_every_export_gives_its_rows_and_each_row_once() -> None:
    async with graph_calls(blobs=3, line_items=2100) as calls:
        names = calls.graph.exporting.names()
        for name in names:
            lines = await calls.lines(await calls.manifest(name))
            assert lines == calls.graph.exporting.rows(name)
            assert len(set(lines)) == len(lines) > 0

    kinds = {name.rpartition("/")[0] for name in names}
    assert kinds >= {"reconciliation/billed", "usage/billed", "usage/unbilled/last"}
    assert f"usage/billed/{OLD}" in names
    assert f"reconciliation/billed/{OLD}" not in names
    assert not calls.graph.blob_stats.authorized
    assert not calls.graph.honeypot_stats.requests


async def test_the_rows_of_an_invoice_add_up_to_its_header_and_to_themselves() -> None:
    async with graph_calls(line_items=1500) as calls:
        checked = 0
        for invoice in calls.sandbox.tenant.all_invoices():
            name = f"reconciliation/billed/{invoice.id}"
            if name not in calls.graph.exporting.names():
                continue
            rows = [row_of(line) for line in await calls.lines(await calls.manifest(name))]
            assert sum(row["Total"] for row in rows) == invoice.total_charges
            assert all(row["Total"] == row["Subtotal"] + row["TaxTotal"] for row in rows)
            checked += 1

    assert checked == 2


@pytest.mark.parametrize("name", [USAGE, f"reconciliation/billed/{NEW}"])
async def test_rows_have_the_documented_keys_in_their_order(name: str) -> None:
    async with graph_calls() as calls:
        full = [row_of(line) for line in await calls.lines(await calls.manifest(name))]
        basic = await calls.lines(await calls.manifest(name, attributeSet="basic"))

    assert {len(row) for row in full} == {55 if "usage" in name else 47}
    assert {tuple(row) for row in full} == {tuple(full[0])}
    for line, row in zip(basic, full, strict=True):
        found = row_of(line)
        assert len(found) == (30 if "usage" in name else 35)
        assert found.items() <= row.items()


async def test_an_operation_says_what_the_documentation_has() -> None:
    clock = Clock()
    async with graph_calls(clock=clock, operation_s=100.0, retry_after="7") as calls:
        submitted = await calls.submit(USAGE)
        location = submitted.headers["Location"]
        asked = []
        for _ in range(3):
            asked.append(await calls.ask("GET", location))
            clock.now += 50

    assert (submitted.status, submitted.body) == (202, b"")
    assert location.startswith(f"{calls.billing}/operations/")
    assert [answer.json["status"] for answer in asked] == ["notStarted", "running", "succeeded"]
    assert [answer.headers.get("Retry-After") for answer in asked] == ["7", "7", None]
    assert {answer.json["id"] for answer in asked} == {location.rpartition("/")[2]}
    assert set(asked[2].json["resourceLocation"]) == {
        *("id", "createdDateTime", "schemaVersion", "dataFormat", "partitionType", "eTag"),
        *("partnerTenantId", "rootDirectory", "sasToken", "blobCount", "blobs"),
    }


async def test_a_manifest_belongs_to_the_data_and_only_its_sas_to_the_request() -> None:
    async with graph_calls(blobs=2) as calls:
        first, second = [await calls.manifest(USAGE) for _ in range(2)]
        alone = await calls.ask("GET", f"{calls.billing}/manifests/{first['id']}")
        calls.graph.exporting.renew(USAGE)
        renewed = await calls.manifest(USAGE)
        other = await calls.manifest(f"usage/billed/{OLD}")

    tokens = [manifest.pop("sasToken") for manifest in (first, second)]
    assert first == second
    assert tokens[0] != tokens[1]
    assert {key: alone.json[key] for key in first} == first
    for key in ("id", "eTag", "rootDirectory", "blobs"):
        assert len({str(each[key]) for each in (first, renewed, other)}) == 3
    assert set(tokens) <= set(calls.graph.exporting.sas.tokens)


async def test_the_same_options_give_the_same_manifest_and_bytes() -> None:
    found = []
    for _ in range(2):
        async with graph_calls(blobs=2) as calls:
            manifest = await calls.manifest(USAGE)
            bodies = [(await calls.blob(manifest, place)).body for place in range(2)]
            root = manifest["rootDirectory"].removeprefix(calls.graph.blob_url)
            found.append((manifest["id"], manifest["eTag"], root, manifest["blobs"], bodies))

    assert found[0] == found[1]


# --- Who may ask.


async def test_each_token_opens_its_own_origin_only() -> None:
    async with graph_calls() as calls:
        sandbox = calls.sandbox
        invoices = f"{sandbox.base_url}/invoices"
        graph = f"{calls.billing}/operations/x"
        found = [
            await calls.ask("GET", invoices, token=sandbox.token),
            await calls.ask("GET", graph, token=sandbox.graph.token),
            await calls.ask("GET", invoices, token=sandbox.graph.token),
            await calls.ask("GET", graph, token=sandbox.token),
            await calls.send("GET", graph),
        ]

    assert [answer.status for answer in found] == [200, 404, 401, 401, 401]
    assert found[3].json["error"]["message"].endswith("Invalid audience.")
    error = found[4].json["error"]
    assert error["code"] == "InvalidAuthenticationToken"
    assert error["innerError"]["request-id"] == found[4].headers["request-id"]


async def token_for(calls: GraphCalls, **form: str) -> str:
    sandbox = calls.sandbox
    fields = {"client_id": "sandbox-client", "client_secret": "sandbox-secret", **form}
    url = f"{sandbox.authority}/{sandbox.tenant_id}/oauth2/v2.0/token"
    answer = await calls.send("POST", url, data=fields)
    return str(answer.json.get("access_token") or answer.json["error_codes"])


APP = {"grant_type": "client_credentials", "scope": "https://graph.microsoft.com/.default"}
PERSON = {"grant_type": "refresh_token", "refresh_token": "sandbox-refresh-token"}


def claims_of(token: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "===")))


@pytest.mark.parametrize(("permission", "status"), [("PartnerBilling.Read.All", 404), ("", 403)])
async def test_a_token_needs_the_permission_and_says_whether_it_has_it(
    permission: str, status: int
) -> None:
    async with graph_calls(permission=permission) as calls:
        tokens = [
            await token_for(calls, **APP),
            await token_for(calls, **PERSON, scope=APP["scope"]),
        ]
        url = f"{calls.billing}/operations/x"
        found = [await calls.ask("GET", url, token=token) for token in (*tokens, calls.graph.token)]

    app, person = map(claims_of, tokens)
    assert {answer.status for answer in found} == {status}
    assert app["aud"] == person["aud"] == "https://graph.microsoft.com"
    assert app.get("roles", []) == ([permission] if permission else [])
    assert (permission in person["scp"].split()) is bool(permission)


async def test_a_permission_asked_for_by_name_needs_consent() -> None:
    scope = "https://graph.microsoft.com/PartnerBilling.Read.All offline_access"
    async with graph_calls(permission="User.Read") as calls:
        refused = await token_for(calls, **PERSON, scope=scope)
    async with graph_calls() as calls:
        given = await token_for(calls, **PERSON, scope=scope)

    assert refused == "[65001]"
    assert "PartnerBilling.Read.All" in claims_of(given)["scp"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "required"),
        ({"invoiceId": ""}, "required"),
        ({"invoiceId": NEW, "attributeSet": "some"}, "attributeSet"),
        ({"invoiceId": NEW, "billingPeriod": "last"}, "billingPeriod"),
        ([], "JSON"),
    ],
)
async def test_a_bad_request_is_refused(body: Any, words: str) -> None:
    async with graph_calls() as calls:
        answer = await calls.ask("POST", f"{calls.billing}/usage/billed/export", json=body)

    assert answer.status == 400
    assert words in answer.json["error"]["message"]


async def test_a_bad_period_and_a_body_without_its_type_are_refused() -> None:
    async with graph_calls() as calls:
        period = await calls.submit("usage/unbilled/previous/EUR")
        url = f"{calls.billing}/usage/billed/export"
        untyped = await calls.ask("POST", url, data=json.dumps({"invoiceId": NEW}))
        nowhere = await calls.ask("GET", f"{calls.graph.url}/v1.0/users")

    assert [period.status, untyped.status, nowhere.status] == [400, 400, 400]


@pytest.mark.parametrize(
    "name",
    [
        f"reconciliation/billed/{OLD}",
        "usage/billed/D08001XO9",
        "usage/billed/G999999999",
        "usage/unbilled/current/JPY",
    ],
)
async def test_what_graph_does_not_have_is_accepted_and_fails_with_5000(name: str) -> None:
    async with graph_calls() as calls:
        found = await calls.operation(name)

    assert found["status"] == "failed"
    assert found["error"]["code"] == "5000"
    assert "resourceLocation" not in found


async def test_a_legacy_invoice_fails_too() -> None:
    async with graph_calls() as calls:
        legacy = calls.sandbox.tenant.invoices[0]
        found = await calls.operation(f"reconciliation/billed/{legacy.id}")

    assert legacy.id.startswith("D")
    assert found["error"]["message"] == (
        f"No reconciliation data available currently for Invoice {legacy.id}. "
        "Please try again later."
    )


async def test_the_invoice_api_refuses_what_graph_has() -> None:
    async with graph_calls() as calls:
        statuses = {}
        for number in (NEW, OLD):
            for kind in ("billinglineitems", "usagelineitems"):
                url = f"{calls.sandbox.base_url}/invoices/{number}/lineitems"
                query = f"?provider=onetime&invoicelineitemtype={kind}"
                answer = await calls.ask("GET", url + query, token=calls.sandbox.token)
                statuses[number, kind] = answer.status

    assert statuses == {
        (NEW, "billinglineitems"): 400,
        (NEW, "usagelineitems"): 400,
        (OLD, "billinglineitems"): 200,
        (OLD, "usagelineitems"): 400,
    }


# --- Blobs.


async def test_a_blob_comes_in_ranges_under_one_etag() -> None:
    async with graph_calls() as calls:
        manifest = await calls.manifest(USAGE)
        whole = await calls.blob(manifest)
        middle = await calls.blob(manifest, Range="bytes=100-199")
        rest = await calls.blob(manifest, Range="bytes=200-", If_Match=whole.headers["ETag"])
        beyond = await calls.blob(manifest, Range=f"bytes={len(whole.body)}-")
        changed = await calls.blob(manifest, If_Match='"other"')
        head = await calls.send("HEAD", blob_urls(manifest)[0])

    size = len(whole.body)
    assert (whole.status, middle.status, rest.status) == (200, 206, 206)
    assert whole.body == whole.body[:100] + middle.body + rest.body
    assert middle.headers["Content-Range"] == f"bytes 100-199/{size}"
    assert {whole.headers["ETag"], middle.headers["ETag"], rest.headers["ETag"]} == {
        head.headers["ETag"]
    }
    assert (beyond.status, beyond.headers["x-ms-error-code"]) == (416, "InvalidRange")
    assert (changed.status, changed.headers["x-ms-error-code"]) == (412, "ConditionNotMet")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(size))
    assert zlib.decompress(whole.body, 31).count(b"\n") == 20


async def test_a_blob_needs_its_own_sas_in_its_time_and_no_bearer() -> None:
    clock = Clock()
    async with graph_calls(clock=clock, sas_s=60.0) as calls:
        manifest = await calls.manifest(USAGE)
        other = await calls.manifest(f"usage/billed/{OLD}")
        url = blob_urls(manifest)[0]
        bare = await calls.send("GET", url.partition("?")[0])
        foreign = await calls.send("GET", f"{url.partition('?')[0]}?{other['sasToken']}")
        longer = await calls.send("GET", url.replace("se=2024", "se=2025"))
        bearer = await calls.ask("GET", url)
        absent = await calls.send("GET", url.replace("part-", "port-"))
        clock.now += 61
        late = await calls.send("GET", url)
        again = await calls.lines(await calls.manifest(USAGE))

    assert [each.status for each in (bare, foreign, longer, bearer)] == [403, 403, 403, 400]
    assert (absent.status, absent.headers["x-ms-error-code"]) == (404, "BlobNotFound")
    assert late.status == 403
    assert late.body.startswith(b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><Error>')
    assert b"Signature not valid in the specified time frame: Start [" in late.body
    assert again == calls.graph.exporting.rows(USAGE)
    assert calls.graph.blob_stats.authorized == 1
    assert [each.authorized for each in calls.graph.blob_stats.exchanges].count(True) == 1
