"""Archives in Google Cloud Storage, as far as a stand-in on loopback can show them; see
gcsstandin.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from support.archived import plain
from support.replay import Served
from support.stores.gcsstandin import StandIn, gcs_before
from support.stores.objectservers import S3Server
from whole.durability.lakes import Lake, run_killed
from whole.durability.trial import CUT

import bulkfetch
from bulkfetch.errors import OutputError, SettingsError


class GcsLake(Lake):
    """A bucket behind the stand-in."""

    @property
    def address(self) -> str:
        return f"gs://{self.container}/{self.prefix}"

    def flags(self, port: int | None = None) -> dict[str, Any]:
        return {"storage_timeout_s": 20.0}


@pytest.fixture
def google(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with gcs_before(s3_server.port) as stand_in:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", stand_in.endpoint)
        yield stand_in


@pytest.fixture
def lake(google: StandIn, s3_server: S3Server) -> GcsLake:
    lake = GcsLake(s3_server)
    s3_server.create(lake.container)
    return lake


@pytest.mark.parametrize("piece_bytes", [1000, 8 << 20])
async def test_an_archive_has_the_bytes_that_it_has_on_a_disk(
    piece_bytes: int, lake: GcsLake, invoices: Served, clean: dict[str, bytes]
) -> None:
    await lake.run_into(invoices, piece_bytes=piece_bytes)
    report = await lake.run_into(invoices, piece_bytes=piece_bytes)

    assert len(report.skipped) == 4
    assert lake.differences(clean) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", [25])
async def test_a_killed_run_is_gone_on_with_and_its_uploads_are_ended(
    step: int, lake: GcsLake, invoices: Served, clean: dict[str, bytes]
) -> None:
    code, said = await run_killed(lake, invoices, step)
    assert code == -9, said

    await lake.run_into(invoices)

    assert lake.differences(clean) == []


@pytest.mark.slow
async def test_what_is_altered_is_found_and_mended(
    lake: GcsLake, invoices: Served, clean: dict[str, bytes]
) -> None:
    settings = invoices.settings(**{**CUT, **lake.flags()})
    await bulkfetch.export_async(lake.address, settings)
    part = next(name for name in lake.names() if plain(name).endswith("A-00001.parquet"))
    lake.write(part, b"PAR1")

    report = await anyio.to_thread.run_sync(
        lambda: bulkfetch.verify(lake.address, deep=True, settings=settings)
    )

    assert [finding.name for finding in report.findings] == [part]
    assert (await bulkfetch.repair_async(lake.address, settings)).sound
    assert lake.differences(clean) == []


async def test_a_bucket_that_is_not_there_is_told(lake: GcsLake, invoices: Served) -> None:
    with pytest.raises(OutputError, match="there is no bucket or container 'no-such-bucket'"):
        await bulkfetch.export_async("gs://no-such-bucket/a", invoices.settings(**lake.flags()))


def test_credentials_that_are_missing_or_wrong_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    wrong = tmp_path / "key.json"
    wrong.write_text(
        json.dumps({"type": "service_account", "private_key": "CANARY", "client_email": "a@b"})
    )

    for settings in (bulkfetch.Settings(), bulkfetch.Settings(storage_credentials=wrong)):
        with pytest.raises(
            SettingsError, match="Google Cloud Storage: no credentials: sign in with `gcloud"
        ) as caught:
            bulkfetch.verify("gs://bucket/a", settings=settings)
        assert "CANARY" not in str(caught.value)
