"""Operations and manifests: real ones byte for byte, and everything that they may get wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.payloads import body_of

from bulkfetch.errors import ForeignLinkError, MalformedBodyError
from bulkfetch.graph.manifests import Blob, Failure, path_on_graph, read_manifest, read_operation

GRAPH = "https://graph.microsoft.com"
OBSERVED = [
    "manifest-billed-usage-2024-09-17",
    "manifest-unbilled-usage-2024-09-17",
    "manifest-unbilled-usage-2024-10-08",
]
BILLED = "graph/observed-2024/manifest-billed-usage-2024-09-17"
LINK = "/v1.0/reports/partners/billing/manifests/8fe347d7-1e0f-4bd6-9091-4672691f32db"


def manifest(**changes: Any) -> bytes:
    """A real manifest with changes; None leaves a key out."""
    facts = {**json.loads(body_of(BILLED)), **changes}
    return json.dumps({name: value for name, value in facts.items() if value is not None}).encode()


def succeeded(**more: Any) -> bytes:
    return json.dumps({"status": "succeeded", **more}).encode()


@pytest.mark.parametrize("name", OBSERVED)
def test_manifests_of_the_real_service_are_read_as_they_are(name: str) -> None:
    body = body_of(f"graph/observed-2024/{name}")
    said = json.loads(body)
    read = read_manifest(body, GRAPH)
    assert (read.id, read.etag, read.created) == (said["id"], said["eTag"], said["createdDateTime"])
    assert (read.schema_version, read.attribute_set) == ("2", "full")
    assert read.invoice_version == ("202409080713" if "-billed-" in name else "")
    assert read.tenant == said["partnerTenantId"]
    assert read.sas.reveal() == said["sasToken"]
    (blob,) = read.blobs
    assert f"{read.server}{read.path_of(blob)}" == f"{said['rootDirectory']}/{blob.name}"
    assert read_operation(succeeded(resourceLocation=said), GRAPH).manifest == read


def test_the_manifest_of_the_documentation_is_read_and_a_body_that_is_not_json_is_not() -> None:
    read = read_manifest(body_of("graph/docs-2024/manifest"), GRAPH)
    assert (read.schema_version, read.attribute_set, read.invoice_version) == (
        "1",
        "basic",
        "202311",
    )
    with pytest.raises(MalformedBodyError, match="not JSON"):
        read_manifest(body_of("graph/docs/manifest-resource.malformed"), GRAPH)


@pytest.mark.parametrize("name", ["docs-2024/operation-succeeded", "docs/operation-succeeded-beta"])
def test_a_link_leads_to_the_manifest(name: str) -> None:
    version = "beta" if "beta" in name else "v1.0"
    state = read_operation(body_of(f"graph/{name}"), GRAPH)
    assert state.link == LINK.replace("v1.0", version)
    assert state.is_ready


def test_a_plain_text_leads_to_the_manifest_too() -> None:
    assert read_operation(succeeded(resourceLocation=GRAPH + LINK), GRAPH).link == LINK
    assert read_operation(succeeded(resourceLocation=LINK), GRAPH).link == LINK


@pytest.mark.parametrize("body", ["docs-2024/operation-failed", "observed/legacy"])
def test_a_failure_says_why(body: str) -> None:
    if body == "observed/legacy":
        said = body_of("graph/observed-2024/operation-failed-legacy-invoice")
        expected = (
            "No reconciliation data available currently for Invoice D.... Please try again later."
        )
    else:
        said, expected = body_of(f"graph/{body}"), "No data available"
    state = read_operation(said, GRAPH)
    assert state.failure == Failure("5000", expected)
    assert state.is_ready


@pytest.mark.parametrize("status", ["notStarted", "NotStarted", "running", "RUNNING", "processing"])
def test_any_other_status_is_not_ready(status: str) -> None:
    state = read_operation(json.dumps({"status": status}).encode(), GRAPH)
    assert not state.is_ready


@pytest.mark.parametrize("status", ["Succeeded", "completed", "COMPLETED"])
def test_statuses_count_in_any_case(status: str) -> None:
    body = json.dumps({"Status": status, "ResourceLocation": json.loads(manifest())}).encode()
    assert read_operation(body, GRAPH).manifest is not None


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"status":5}', succeeded(), succeeded(resourceLocation="")],
)
def test_what_is_not_an_operation_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        read_operation(body, GRAPH)


@pytest.mark.parametrize("spelled", ["compressedJSON", "compressedJSONLines", "CompressedJson"])
def test_both_data_formats_are_read(spelled: str) -> None:
    assert read_manifest(manifest(dataFormat=spelled), GRAPH).blobs


BLOB = {"name": "part-1.json.gz", "partitionValue": "default"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataFormat": "parquet"}, "data format 'parquet'"),
        ({"dataFormat": None}, "data format ''"),
        ({"blobCount": 2}, "says that it has 2 blobs, and lists 1"),
        ({"blobCount": None}, "no number blobs, and lists 1"),
        ({"blobs": []}, "says that it has 1 blobs, and lists 0"),
        ({"blobs": None}, "no `blobs`"),
        ({"blobs": [BLOB, BLOB], "blobCount": 2}, "comes twice"),
        ({"blobs": ["part-1"]}, "no file of an export can have"),
        ({"eTag": ""}, "no `eTag`"),
        ({"sasToken": None}, "no `sasToken`"),
        ({"sasToken": "sig=a b"}, "cannot be part of an address"),
        ({"sasToken": "sig=a#b"}, "cannot be part of an address"),
        ({"sasToken": "sig=a\r\nHost: x"}, "cannot be part of an address"),
        ({"rootDirectory": 5}, "no `rootDirectory`"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MalformedBodyError, match=words) as refused:
        read_manifest(manifest(**changes), GRAPH)
    assert "sig=" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/a", "a//b", "a?x", "a#x", "a\\b", "a\nb", "%2e%2e/x", "a/"],
)
def test_a_name_that_may_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(MalformedBodyError, match="no file of an export can have"):
        read_manifest(manifest(blobs=[{"name": name}]), GRAPH)


@pytest.mark.parametrize(
    "directory",
    [
        "http://account.blob.core.windows.net/a",
        "https://account.blob.core.windows.net.evil.example/a",
        "https://evil.example/a",
        "https://blob.core.windows.net/a",
        "https://user@account.blob.core.windows.net/a",
        "https://account.blob.core.windows.net@evil.example/a",
        "https://account.blob.core.windows.net:8443/a",
        "https://account.blob.core.windows.net/a?x=y",
        "https://account.blob.core.windows.net/a#b",
        "https://account.blob.core.windows.net/a/../b",
        "https://account.blob.core.windows.net/",
        "http://127.0.0.1:1/a",
        "https://[::1/a",
        "file:///a",
        "a/b",
    ],
)
def test_files_anywhere_but_in_azure_storage_are_refused(directory: str) -> None:
    with pytest.raises(ForeignLinkError, match="not a directory of Azure Storage"):
        read_manifest(manifest(rootDirectory=directory), GRAPH)


@pytest.mark.parametrize(
    "directory",
    [
        "https://a.dfs.core.windows.net/x/v1/",
        "https://a.blob.core.windows.net:443/x",
        "https://A.BLOB.core.windows.net/x",
    ],
)
def test_files_in_azure_storage_are_accepted(directory: str) -> None:
    assert not read_manifest(manifest(rootDirectory=directory), GRAPH).directory.endswith("/")


def test_files_on_this_machine_are_for_a_graph_on_this_machine_only() -> None:
    body = manifest(rootDirectory="http://127.0.0.1:8/a")
    assert read_manifest(body, "http://127.0.0.1:7").server == "http://127.0.0.1:8"
    with pytest.raises(ForeignLinkError):
        read_manifest(body, "https://graph.example.com")


@pytest.mark.parametrize(
    "link",
    [
        "https://graph.microsoft.com.evil.example/v1.0/a",
        "http://graph.microsoft.com/v1.0/a",
        "https://graph.microsoft.com:8443/v1.0/a",
        "https://user:x@graph.microsoft.com/v1.0/a",
        "//evil.example/v1.0/a",
        "https://graph.microsoft.com/v1.0/a?redirect=x",
        "https://graph.microsoft.com/v1.0/a#b",
        "https://graph.microsoft.com/",
        "/v2.0/a",
        "operations/5",
        "https://[::1/v1.0/a",
        "file:///v1.0/a",
    ],
)
def test_a_link_that_leads_away_from_graph_is_not_followed(link: str) -> None:
    with pytest.raises(ForeignLinkError, match="not followed"):
        path_on_graph(link, GRAPH)


def test_files_are_read_in_the_order_of_their_partitions_and_names() -> None:
    pairs = [("b", "2"), ("a", "3"), ("b", "1"), ("b", "10"), ("a", "0")]
    blobs = [{"name": f"part-{name}", "partitionValue": value} for value, name in pairs]
    read = read_manifest(manifest(blobs=blobs, blobCount=5), GRAPH)
    assert read.blobs == tuple(Blob(f"part-{name}", value) for value, name in sorted(pairs))


def test_an_export_without_files_needs_no_way_to_them() -> None:
    read = read_manifest(manifest(blobs=[], blobCount=0, sasToken=None, rootDirectory=None), GRAPH)
    assert (read.blobs, read.etag) == ((), "8UwOGIikpmtH3gxpD")


def test_the_sas_is_never_shown() -> None:
    read = read_manifest(manifest(sasToken="?se=2024-09-17T12%3A41%3A03Z&sig=canary-1"), GRAPH)
    assert "canary" not in repr(read) + str(read) + f"{read.sas}"
    assert read.expires == datetime(2024, 9, 17, 12, 41, 3, tzinfo=UTC)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *json.loads(manifest()),
                        "status",
                        "error",
                        "code",
                        "resourceLocation",
                        "resourceLocation@odata.navigationLink",
                        "name",
                    ]
                ),
                inner,
                max_size=8,
            )
        ),
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    body = json.dumps(value).encode()
    for read in (read_operation, read_manifest):
        try:
            read(body, GRAPH)
        except (MalformedBodyError, ForeignLinkError):
            continue
