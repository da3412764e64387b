"""Every option and every fault of the fake Graph and its blobs, over real sockets."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from support.graph.graphcalls import Answer, Clock, GraphCalls, blob_urls, graph_calls

from bulkfetch.sandbox import Fault, GraphOptions, SandboxOptions, serve
from bulkfetch.sandbox.faults import CHANGES
from bulkfetch.sandbox.graph.columns import KEYS, NUMBERS
from bulkfetch.sandbox.graph.options import QUIRKS

USAGE = "usage/billed/G000700185"
CHARGES = "reconciliation/billed/G000700185"


def fault(kind: str, endpoint: str = "blob", **more: Any) -> Fault:
    return Fault(kind, endpoint, **more)


async def location_of(calls: GraphCalls, name: str = USAGE) -> str:
    submitted = await calls.submit(name)
    assert submitted.status == 202
    return submitted.headers["Location"]


# --- Operations.


async def test_an_operation_may_have_no_retry_after_and_other_words() -> None:
    clock = Clock()
    words = ("NotStarted", "processing", "Completed", "FAILED")
    async with graph_calls(clock=clock, operation_s=10.0, retry_after="", statuses=words) as calls:
        good = await location_of(calls)
        bad = await location_of(calls, "usage/billed/D08001")
        seen, headers = [], []
        for _ in range(3):
            answers = [await calls.ask("GET", each) for each in (good, bad)]
            seen.append([answer.json["status"] for answer in answers])
            headers += [name for answer in answers for name in answer.headers]
            clock.now += 5

    assert seen == [["NotStarted"] * 2, ["processing"] * 2, ["Completed", "FAILED"]]
    assert "Retry-After" not in headers


@pytest.mark.parametrize("location", ["link", "text"])
async def test_an_operation_may_name_its_manifest_by_a_link(location: str) -> None:
    async with graph_calls(location=location) as calls:
        operation = await calls.operation(USAGE)
        key = {"link": "resourceLocation@odata.navigationLink", "text": "resourceLocation"}[
            location
        ]
        manifest = (await calls.ask("GET", operation[key])).json
        lines = await calls.lines(manifest)

    assert operation[key].startswith(f"{calls.billing}/manifests/")
    assert len([name for name in operation if name.startswith("resourceLocation")]) == 1
    assert lines == calls.graph.exporting.rows(USAGE)


async def test_more_open_operations_than_the_limit_are_refused() -> None:
    clock = Clock()
    async with graph_calls(
        clock=clock, operation_s=30.0, retry_after="9", max_operations=2
    ) as calls:
        first = [await calls.submit(USAGE) for _ in range(3)]
        clock.now += 31
        later = await calls.submit(USAGE)

    assert [answer.status for answer in (*first, later)] == [202, 202, 429, 202]
    assert first[2].headers["Retry-After"] == "9"
    assert first[2].json["error"]["code"] == "TooManyRequests"
    assert calls.graph.exporting.operations.most_open == 2
    assert len(calls.graph.exporting.operations.begun) == 3


async def test_an_operation_can_be_forgotten() -> None:
    async with graph_calls(fault("operation_forgotten", "operation", nth=(2,))) as calls:
        location = await location_of(calls)
        found = [(await calls.ask("GET", location)).status for _ in range(3)]

    assert found == [200, 404, 404]


async def test_an_operation_can_fail_for_some_time_or_with_another_code() -> None:
    rules = (
        fault("operation_failed", "operation", path="/usage/*", times=1),
        fault("operation_failed", "export", path="*/reconciliation/*", code="7000", message="Hm."),
    )
    async with graph_calls(*rules) as calls:
        young = await calls.operation(USAGE)
        later = await calls.operation(USAGE)
        other = [await calls.operation(CHARGES) for _ in range(2)]

    assert young["error"]["code"] == "5000"
    assert "Please try again later." in young["error"]["message"]
    assert later["status"] == "succeeded"
    assert [each["error"] for each in other] == [{"code": "7000", "message": "Hm."}] * 2


async def test_an_operation_can_stay_running() -> None:
    async with graph_calls(fault("operation_running", "operation", times=2)) as calls:
        location = await location_of(calls)
        seen = [(await calls.ask("GET", location)).json["status"] for _ in range(3)]

    assert seen == ["running", "running", "succeeded"]


@pytest.mark.parametrize(("empty", "blobs"), [("5000", None), ("no_rows", 2), ("no_blobs", 0)])
async def test_an_export_without_rows_ends_as_chosen(empty: str, blobs: int | None) -> None:
    async with graph_calls(line_items=0, empty=empty, blobs=2) as calls:
        operation = await calls.operation(USAGE)
        if blobs is None:
            assert operation["error"]["code"] == "5000"
            return
        manifest = operation["resourceLocation"]
        bodies = [await calls.blob(manifest, place) for place in range(blobs)]

    assert len(manifest["blobs"]) == manifest["blobCount"] == blobs
    assert [zlib.decompress(body.body, 31) for body in bodies] == [b""] * blobs


# --- Manifests.


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
async def test_blobs_are_listed_in_the_chosen_order(order: str) -> None:
    async with graph_calls(blobs=7, order=order) as calls:
        manifests = [await calls.manifest(name) for name in (USAGE, CHARGES)]
        lines = [await calls.lines(manifest) for manifest in manifests]

    assert lines == [calls.graph.exporting.rows(name) for name in (USAGE, CHARGES)]
    for manifest in manifests:
        names = [blob["name"] for blob in manifest["blobs"]]
        assert len(names) == manifest["blobCount"] == 7
        assert (names == sorted(names)) is (order == "ascending")
        assert (names == sorted(names, reverse=True)) is (order == "descending")


@pytest.mark.parametrize("fresh_sas", ["operation", "manifest", "export"])
async def test_the_chosen_call_renews_the_sas_and_so_do_those_after_it(fresh_sas: str) -> None:
    clock = Clock()
    async with graph_calls(clock=clock, sas_s=60.0, fresh_sas=fresh_sas) as calls:
        location = await location_of(calls)
        manifest = (await calls.ask("GET", location)).json["resourceLocation"]
        clock.now += 61
        late = await calls.blob(manifest)
        by_operation = (await calls.ask("GET", location)).json["resourceLocation"]
        by_manifest = (await calls.ask("GET", f"{calls.billing}/manifests/{manifest['id']}")).json
        by_export = await calls.manifest(USAGE)
        found = [(await calls.blob(each)).status for each in (by_operation, by_manifest, by_export)]

    assert late.status == 403
    renewing = ("operation", "manifest", "export").index(fresh_sas)
    assert found == [403] * renewing + [200] * (3 - renewing)


async def test_a_manifest_can_lie() -> None:
    kinds = "blob_count lost_blob doubled_blob other_tenant other_format no_etag no_sas blob_path"
    found = {}
    for kind in ("", *kinds.split()):
        rules = [fault(kind, "operation")] if kind else []
        async with graph_calls(*rules, blobs=3) as calls:
            found[kind] = await calls.manifest(USAGE)
            root = found[kind]["rootDirectory"]
            found[kind]["rootDirectory"] = root.removeprefix(calls.graph.blob_url)
    true = found.pop("")

    changed = {
        kind: {key for key in true if manifest[key] != true[key]} - {"sasToken"}
        for kind, manifest in found.items()
    }
    assert changed == {
        "blob_count": {"blobCount"},
        "lost_blob": {"blobs"},
        "doubled_blob": {"blobs"},
        "other_tenant": {"partnerTenantId"},
        "other_format": {"dataFormat"},
        "no_etag": {"eTag"},
        "no_sas": set(),
        "blob_path": {"blobs", "blobCount"},
    }
    assert found["blob_count"]["blobCount"] == 4
    assert len(found["lost_blob"]["blobs"]) == 2
    assert found["no_sas"]["sasToken"] == ""
    assert "../" in found["blob_path"]["blobs"][0]["name"]


async def test_a_lying_manifest_may_also_be_asked_for_by_its_id() -> None:
    async with graph_calls(fault("blob_count", "manifest"), location="link") as calls:
        operation = await calls.operation(USAGE)
        link = operation["resourceLocation@odata.navigationLink"]
        manifest = (await calls.ask("GET", link)).json

    assert manifest["blobCount"] == len(manifest["blobs"]) + 1


@pytest.mark.parametrize("endpoint", ["export", "operation", "manifest"])
async def test_foreign_addresses_lead_to_the_honeypot_which_counts_who_comes(endpoint: str) -> None:
    location = "inline" if endpoint == "operation" else "link"
    async with graph_calls(fault("foreign_addresses", endpoint), location=location) as calls:
        url = await location_of(calls)
        if endpoint != "export":
            body = (await calls.ask("GET", url)).json
            url = body.get("resourceLocation@odata.navigationLink") or ""
            manifest = body.get("resourceLocation") or (await calls.ask("GET", url)).json
            url = blob_urls(manifest)[0]
        assert not calls.graph.honeypot_stats.requests
        answer = await calls.ask("GET", url)

    assert url.startswith(calls.graph.honeypot_url)
    assert answer.status == 200
    assert calls.graph.honeypot_stats.requests == calls.graph.honeypot_stats.authorized == 1


@pytest.mark.parametrize("endpoint", ["operation", "blob"])
async def test_a_redirect_may_lead_to_the_honeypot(endpoint: str) -> None:
    rule = fault("redirect", endpoint, location="honeypot", status=307)
    async with graph_calls(rule) as calls:
        if endpoint == "operation":
            answer = await calls.ask("GET", await location_of(calls))
        else:
            answer = await calls.blob(await calls.manifest(USAGE))

    assert answer.status == 307
    assert answer.headers["Location"].startswith(f"{calls.graph.honeypot_url}/")


# --- Data that are made anew.


@pytest.mark.parametrize("change", list(CHANGES))
async def test_data_can_be_made_anew_in_each_way(change: str) -> None:
    async with graph_calls(blobs=2) as calls:
        before = await calls.manifest(USAGE)
        rows = await calls.lines(before)
        etag = (await calls.blob(before)).headers["ETag"]
        calls.graph.exporting.renew(USAGE, change)
        old = await calls.blob(before, If_Match=etag)
        after = await calls.manifest(USAGE)
        new_rows = await calls.lines(after)
        assert new_rows == calls.graph.exporting.rows(USAGE)

    same_rows = Counter(rows) == Counter(new_rows)
    assert same_rows is (change in ("split", "contradiction"))
    assert (rows == new_rows) is False
    assert old.status == {"in_place": 412, "beside": 200}.get(change, 404)
    assert (before["eTag"] == after["eTag"]) is (change == "contradiction")
    assert (before["id"] == after["id"]) is (change == "contradiction")
    assert (before["blobs"] == after["blobs"]) is (change == "in_place")
    assert after["blobCount"] == (3 if change in ("split", "contradiction") else 2)


async def test_new_data_charge_what_the_old_did() -> None:
    async with graph_calls() as calls:
        totals = []
        for change in ("rows", "split", "in_place"):
            rows = await calls.lines(await calls.manifest(CHARGES))
            totals.append(sum(json.loads(row, parse_float=Decimal)["Total"] for row in rows))
            calls.graph.exporting.renew(CHARGES, change)

    assert len(set(totals)) == 1


async def broken_off(url: str) -> bytes:
    """Return what comes of a body that breaks off."""
    found: list[bytes] = []
    with pytest.raises(aiohttp.ClientError):
        await collect(url, found)
    return b"".join(found)


async def collect(url: str, found: list[bytes]) -> None:
    """Add what comes of a body, piece by piece."""
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        assert answer.status == 200
        async for piece in answer.content.iter_any():
            found += [piece]  # at once, so that what came before the end is there


async def test_data_can_be_made_anew_in_mid_body() -> None:
    async with graph_calls(fault("renewed_in_body", times=1), line_items=2000) as calls:
        before = await calls.manifest(USAGE)
        begun = await broken_off(blob_urls(before)[0])
        gone = await calls.blob(before, Range=f"bytes={len(begun)}-")
        after = await calls.manifest(USAGE)
        lines = await calls.lines(after)

    assert len(begun) > 0
    assert gone.status == 404
    assert lines == calls.graph.exporting.rows(USAGE)
    assert before["eTag"] != after["eTag"]


@pytest.mark.parametrize("endpoint", ["operation", "manifest", "blob"])
async def test_data_can_be_made_anew_before_an_answer(endpoint: str) -> None:
    async with graph_calls(fault("new_generation", endpoint, nth=(2,))) as calls:
        location = await location_of(calls)
        before = (await calls.ask("GET", location)).json["resourceLocation"]
        url = f"{calls.billing}/manifests/{before['id']}"
        if endpoint == "operation":
            answer = (await calls.ask("GET", location)).json["resourceLocation"]
            assert answer["eTag"] != before["eTag"]
        elif endpoint == "manifest":
            found = [(await calls.ask("GET", url)).status for _ in range(2)]
            assert found == [200, 404]
        else:
            found = [(await calls.blob(before)).status for _ in range(2)]
            assert found == [200, 404]
        after = await calls.manifest(USAGE)

    assert before["id"] != after["id"]


async def test_a_sas_can_lapse_in_mid_body() -> None:
    async with graph_calls(fault("sas_lapses", share=0.7, times=1), line_items=2000) as calls:
        manifest = await calls.manifest(USAGE)
        begun = await broken_off(blob_urls(manifest)[0])
        late = await calls.blob(manifest, Range=f"bytes={len(begun)}-")
        fresh = await calls.manifest(USAGE)
        rest = await calls.blob(fresh, Range=f"bytes={len(begun)}-")
        rows = zlib.decompress(begun + rest.body, 31).split(b"\n")[:-1]

    assert (late.status, late.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    assert fresh["eTag"] == manifest["eTag"]
    assert rest.status == 206
    assert rows == calls.graph.exporting.rows(USAGE)


# --- Blobs.


async def blob_with(kind: str, **more: Any) -> tuple[Answer, bytes]:
    """Return a blob with a fault, and the text of its rows without it."""
    async with graph_calls(fault(kind, **more)) as calls:
        answer = await calls.blob(await calls.manifest(USAGE))
        return answer, b"\n".join([*calls.graph.exporting.rows(USAGE), b""])


@pytest.mark.parametrize(
    "kind",
    ["blob_members", "blob_trailing", "blob_encoded", "blob_unzipped", "blob_crlf"],
)
async def test_some_forms_of_a_blob_have_all_its_rows(kind: str) -> None:
    answer, text = await blob_with(kind)
    if kind == "blob_unzipped":
        found = answer.body
    else:
        unpacker, found, rest = zlib.decompressobj(31), b"", answer.body
        while rest.startswith(b"\x1f\x8b"):
            unpacker = zlib.decompressobj(31)
            found += unpacker.decompress(rest)
            rest = unpacker.unused_data
        assert bool(rest) is (kind == "blob_trailing")
    assert found.replace(b"\r\n", b"\n") == text
    assert (b"\r\n" in found) is (kind == "blob_crlf")
    assert ("Content-Encoding" in answer.headers) is (kind == "blob_encoded")


@pytest.mark.parametrize(
    "kind",
    [
        *("blob_without_rows", "blob_lost_row", "blob_cut_line", "blob_last_line"),
        *("blob_blank_lines", "blob_not_json", "blob_two_rows"),
    ],
)
async def test_some_forms_change_the_lines_of_a_blob(kind: str) -> None:
    answer, text = await blob_with(kind)
    found = zlib.decompress(answer.body, 31)
    rows = text.split(b"\n")[:-1]
    assert (
        found
        == {
            "blob_without_rows": b"",
            "blob_lost_row": text.removesuffix(rows[-1] + b"\n"),
            "blob_cut_line": text[:-20],
            "blob_last_line": text[:-1],
            "blob_blank_lines": b"\n" + text.replace(b"\n", b"\n\n", 3) + b"\n",
            "blob_not_json": b"The service is busy.\n" + text,
            "blob_two_rows": text.replace(b"\n", b" ", 1),
        }[kind]
    )


async def test_a_blob_can_be_cut_or_broken() -> None:
    cut, text = await blob_with("blob_cut", share=0.9)
    wrong, _ = await blob_with("blob_checksum")
    empty, _ = await blob_with("blob_empty")

    unpacker = zlib.decompressobj(31)
    assert text.startswith(unpacker.decompress(cut.body))
    assert not unpacker.eof
    assert int(cut.headers["Content-Length"]) == len(cut.body)
    with pytest.raises(zlib.error, match="incorrect data check"):
        zlib.decompress(wrong.body, 31)
    assert (empty.status, empty.body) == (200, b"")


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("blob_gone", 404, "BlobNotFound"), ("blob_changed", 412, "ConditionNotMet")],
)
async def test_a_blob_can_be_gone_or_changed(kind: str, status: int, code: str) -> None:
    async with graph_calls(fault(kind, nth=(2,))) as calls:
        manifest = await calls.manifest(USAGE)
        first = await calls.blob(manifest)
        etag = first.headers["ETag"]
        found = [await calls.blob(manifest, If_Match=etag, Range="bytes=10-") for _ in range(2)]

    assert [answer.status for answer in found] == [status, 206]
    assert found[0].headers["x-ms-error-code"] == code


async def test_a_damaged_blob_is_damaged_in_each_range_alike() -> None:
    async with graph_calls(fault("blob_crlf")) as calls:
        manifest = await calls.manifest(USAGE)
        whole = await calls.blob(manifest)
        rest = await calls.blob(manifest, Range="bytes=50-")

    assert whole.body[50:] == rest.body


async def test_a_server_may_know_no_ranges() -> None:
    async with graph_calls(fault("no_ranges")) as calls:
        manifest = await calls.manifest(USAGE)
        found = await calls.blob(manifest, Range="bytes=50-")

    assert found.status == 200
    assert zlib.decompress(found.body, 31).count(b"\n") == 20


@pytest.mark.parametrize(
    ("endpoint", "status", "code"),
    [("export", 429, "TooManyRequests"), ("operation", 503, "ServiceUnavailable")],
)
async def test_graph_refuses_in_its_own_shape(endpoint: str, status: int, code: str) -> None:
    rule = fault("status", endpoint, status=status, retry_after="3", path="/usage/*", times=1)
    async with graph_calls(rule) as calls:
        if endpoint == "export":
            found = await calls.submit(USAGE)
        else:
            found = await calls.ask("GET", await location_of(calls))

    assert (found.status, found.headers["Retry-After"]) == (status, "3")
    assert found.json["error"]["code"] == code


async def test_storage_refuses_in_its_own_shape() -> None:
    async with graph_calls(fault("status", status=503, times=1)) as calls:
        manifest = await calls.manifest(USAGE)
        found = [await calls.blob(manifest) for _ in range(2)]

    assert [answer.status for answer in found] == [503, 200]
    assert found[0].headers["x-ms-error-code"] == "ServerBusy"
    assert b"<Code>ServerBusy</Code>" in found[0].body


async def test_a_range_can_break_off_as_any_body_can() -> None:
    async with graph_calls(fault("reset_body", nth=(1,)), line_items=2000) as calls:
        manifest = await calls.manifest(USAGE)
        begun = await broken_off(blob_urls(manifest)[0])
        rest = await calls.blob(manifest, Range=f"bytes={len(begun)}-")
        whole = await calls.blob(manifest)

    assert begun + rest.body == whole.body


async def test_a_fault_meets_the_exports_that_its_path_names() -> None:
    rule = fault("blob_gone", path="/usage/unbilled/*/EUR/blob/*")
    async with graph_calls(rule) as calls:
        found = {}
        for name in calls.graph.exporting.names():
            found[name] = (await calls.blob(await calls.manifest(name))).status

    gone = {name for name, status in found.items() if status == 404}
    assert gone == {"usage/unbilled/current/EUR", "usage/unbilled/last/EUR"}


# --- Rows.


async def rows_with(quirk: str, name: str) -> tuple[list[Any], list[Any], list[bytes]]:
    """Return rows without and with a quirk, numbers as exact text, and the lines of the latter."""
    lines = []
    for quirks in ((), (quirk,)):
        async with graph_calls(rows=quirks, line_items=60) as calls:
            lines.append(await calls.lines(await calls.manifest(name)))
    plain, quirky = [
        [json.loads(line, parse_float=str, parse_int=str) for line in each] for each in lines
    ]
    return plain, quirky, lines[1]


@pytest.mark.parametrize("name", [USAGE, CHARGES])
@pytest.mark.parametrize("quirk", ["text_numbers", "exponents", "other_case"])
async def test_some_quirks_change_how_a_row_is_spelled_and_not_what_it_says(
    quirk: str, name: str
) -> None:
    plain, quirky, lines = await rows_with(quirk, name)
    spelled = {key.lower() for key in NUMBERS}

    def meaning(row: Any) -> Any:
        known = {key.lower(): value for key, value in row.items()}
        return {
            key: Decimal(value) if key in spelled and value is not None else value
            for key, value in known.items()
        }

    assert [meaning(row) for row in plain] == [meaning(row) for row in quirky]
    text = b"".join(lines)
    marks = {"text_numbers": b'"UnitPrice":"', "exponents": b"E-", "other_case": b'"unitprice":'}
    assert marks[quirk] in text
    assert b'"UnitPrice":' in text


@pytest.mark.slow
@pytest.mark.parametrize("name", [USAGE, CHARGES])
@pytest.mark.parametrize("quirk", ["absent_keys", "nulls", "unknown_keys", "lists", "dates"])
async def test_some_quirks_change_what_a_row_has(quirk: str, name: str) -> None:
    plain, quirky, _ = await rows_with(quirk, name)
    known = set(KEYS[name.partition("/")[0]])
    changed = [(one, other) for one, other in zip(plain, quirky, strict=True) if one != other]
    assert len(changed) > 0
    assert quirk == "dates" or len(changed) < len(plain)
    for one, other in changed:
        assert (other.items() < one.items()) is (quirk == "absent_keys")
        more_nulls = [*other.values()].count(None) > [*one.values()].count(None)
        assert more_nulls is (quirk == "nulls")
        assert bool(other.keys() - known) is (quirk == "unknown_keys")
        structured = any(isinstance(other.get(key), list | dict) for key in known)
        assert structured is (quirk == "lists")
    if quirk == "dates":
        assert len({other["ChargeStartDate"][10:] for _, other in changed}) == 4


async def test_a_text_can_have_unicode_line_separators_and_a_line_is_one_all_the_same() -> None:
    plain, quirky, lines = await rows_with("line_separators", USAGE)
    odd = [line for line in lines if "\u2028".encode() in line]
    assert 0 < len(odd) < len(lines) == len(plain)
    assert all("\u2029" in row["CustomerName"] for row in quirky if "\u2028" in row["CustomerName"])


async def test_all_quirks_go_together_and_the_rows_still_add_up() -> None:
    async with graph_calls(rows=tuple(QUIRKS), line_items=400) as calls:
        lines = await calls.lines(await calls.manifest(CHARGES))
        invoice = calls.sandbox.tenant.find("G000700185")
    total = Decimal()
    for line in lines:
        row = {key.lower(): value for key, value in json.loads(line, parse_float=Decimal).items()}
        total += Decimal(row["total"])

    assert invoice
    assert total == invoice.total_charges


# --- Limits, and options that make no sense.


async def test_graph_and_the_blobs_have_the_limits_of_the_sandbox_each_its_own() -> None:
    options = SandboxOptions(newest="2024-05", line_items=5, requests_per_second=0.001, burst=2)
    async with (
        serve(options, clock=Clock()) as sandbox,
        aiohttp.ClientSession(auto_decompress=False) as client,
    ):
        calls = GraphCalls(sandbox, client)
        manifest = await calls.manifest(USAGE)
        refused = await calls.submit(USAGE)
        blobs = [await calls.blob(manifest) for _ in range(3)]

    assert (refused.status, refused.headers["Retry-After"]) == (429, "1000")
    assert [answer.status for answer in blobs] == [200, 200, 503]
    assert blobs[2].headers["x-ms-error-code"] == "ServerBusy"


@pytest.mark.parametrize(
    "given",
    [
        {"location": "object"},
        {"order": "random"},
        {"fresh_sas": "never"},
        {"empty": "null"},
        {"rows": ("upside_down",)},
        {"statuses": ("a", "b", "c")},
        {"since": "February"},
        {"blobs": 0},
        {"sas_s": -1.0},
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="graph"):
        GraphOptions(**given)


def test_a_fault_of_an_unknown_change_is_refused() -> None:
    with pytest.raises(ValueError, match="change is one of rows"):
        Fault("new_generation", change="nothing")


async def test_faults_can_be_stopped() -> None:
    async with graph_calls(fault("blob_gone")) as calls:
        manifest = await calls.manifest(USAGE)
        before = await calls.blob(manifest)
        calls.sandbox.faults.stop()
        after = await calls.blob(manifest)

    assert (before.status, after.status) == (404, 200)
    assert calls.sandbox.faults.met == {"blob_gone": 1}


async def test_the_rows_of_every_generation_can_be_had() -> None:
    async with graph_calls() as calls:
        first = await calls.lines(await calls.manifest(USAGE))
        calls.graph.exporting.renew(USAGE, "rows")
        second = await calls.lines(await calls.manifest(USAGE))

    assert calls.graph.exporting.exports.history(USAGE) == [first, second]
