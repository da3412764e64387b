"""Archives in object stores that run on loopback: everything as on a local disk, with the same
bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pyarrow.parquet as pq
import pytest
from support.archived import plain
from support.replay import Served, serving
from support.stores.objectservers import ObjectServer
from whole.durability.lakes import Lake, Trials
from whole.durability.trial import CUT, proved, tenant

import bulkfetch
from bulkfetch.archive.layout import LOCK
from bulkfetch.errors import DeadlineError, OutputError, OutputLockedError, SettingsError
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.sandbox.options import PROVIDERS_AND_TYPES
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.opening import prepare_output


def settings_of(lake: Lake, invoices: Served, **settings: Any) -> Settings:
    return invoices.settings(**{**CUT, **lake.flags(), **settings})


async def exported(lake: Lake, invoices: Served, **settings: Any) -> bulkfetch.ExportReport:
    return await bulkfetch.export_async(lake.address, settings_of(lake, invoices, **settings))


async def verified(lake: Lake, invoices: Served) -> bulkfetch.VerifyReport:
    settings = settings_of(lake, invoices)
    return await anyio.to_thread.run_sync(
        lambda: bulkfetch.verify(lake.address, deep=True, settings=settings)
    )


def part_of(lake: Lake) -> str:
    return next(name for name in lake.names() if plain(name).endswith("A-00001.parquet"))


async def test_an_archive_has_the_bytes_that_it_has_on_a_disk(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    report = await exported(lake, invoices)

    assert report.complete
    assert lake.differences(clean) == []
    assert (await verified(lake, invoices)).sound
    assert lake.read("_bulkfetch/lock") == b""


@pytest.mark.slow
async def test_parts_that_are_uploaded_in_pieces_have_them_too(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    await lake.run_into(invoices, piece_bytes=1000)

    assert lake.differences(clean) == []


async def test_everything_there_is_to_export_is_as_on_a_disk(lake: Lake, tmp_path: Path) -> None:
    async with serve(
        SandboxOptions(invoices=3, line_items=40, details=PROVIDERS_AND_TYPES, token="t0ken")
    ) as sandbox:
        here, there = tmp_path / "here", lake.address
        for output in (here, there):
            report = await bulkfetch.export_async(
                output,
                Settings(
                    base_url=sandbox.base_url, token=bulkfetch.Secret(sandbox.token), **lake.flags()
                ),
                selection=bulkfetch.Selection(unbilled=True),
                documents=True,
            )
            assert report.complete, report.failures

    assert lake.differences(proved(here)) == []
    assert any(name.startswith("documents/") for name in lake.names())
    assert any(name.startswith("unbilled_line_items/") for name in lake.names())


async def test_a_second_run_fetches_nothing_and_changes_nothing(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    await exported(lake, invoices)
    invoices.requests.clear()

    report = await exported(lake, invoices)

    assert (len(report.committed), len(report.skipped)) == (0, 4)
    assert invoices.line_item_requests == []
    assert lake.differences(clean) == []


@pytest.mark.slow
async def test_a_run_that_breaks_off_is_gone_on_with(lake: Lake, clean: dict[str, bytes]) -> None:
    staged: list[str] = []
    deadline_s = 0.6
    async with serving(tenant(0.1)) as slow:
        while not staged:  # a busy machine may take longer to begin
            with pytest.raises(DeadlineError):
                await lake.run_into(slow, deadline_s=deadline_s, max_in_flight=1)
            staged = [name for name in lake.names() if name.startswith("_bulkfetch/staging/")]
            deadline_s *= 1.5

    async with serving(tenant()) as invoices:
        report = await exported(lake, invoices)

    assert report.rows_resumed >= 10
    assert lake.differences(clean) == []


@pytest.mark.slow
async def test_runs_that_are_killed_end_in_the_archive_of_an_undisturbed_one(
    object_server: ObjectServer, clean: dict[str, bytes]
) -> None:
    async with serving(tenant()) as prompt:
        tally = await Trials(object_server, prompt, clean, Random(1)).kills_at_steps(every=40)

    assert tally.faults == []
    assert tally.kills > 1
    assert tally.reads > 0


@pytest.mark.slow
async def test_a_second_writer_is_refused_while_the_first_one_writes(
    lake: Lake, invoices: Served, clean: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = lake.open(settings_of(lake, invoices))
    second = lake.open(settings_of(lake, invoices))
    for store in (first, second):
        object.__setattr__(store._policy, "renewed_s", 0.5)

    def write_too() -> None:
        with second.locked(LOCK):
            raise AssertionError("two have the lock")

    with first.locked(LOCK):
        assert second.is_locked(LOCK)
        with pytest.raises(
            OutputLockedError,
            match=rf"another bulkfetch \(process {os.getpid()} on .*\) is writing",
        ):
            await anyio.to_thread.run_sync(write_too)
    await exported(lake, invoices)

    assert lake.differences(clean) == []


@pytest.mark.slow
async def test_what_is_altered_lost_or_foreign_is_found_and_mended(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    await exported(lake, invoices)
    part = part_of(lake)
    lake.write(part, lake.read(part)[:-1] + b"!")
    gone = next(name for name in lake.names() if "provider=one_time" in name)
    lake.remove(gone)
    stray = part.replace("A-00001", "X-00000")
    lake.write(stray, b"PAR1")

    report = await verified(lake, invoices)
    faults = {finding.name: finding.what for finding in report.findings}
    repaired = await bulkfetch.repair_async(lake.address, settings_of(lake, invoices))

    assert "its sha256 is not that of its commit" in faults[part]
    assert faults[gone] == "is missing"
    assert "no record names this file" in faults[stray]
    assert [finding.name for finding in (repaired.after or repaired.before).findings] == [stray]
    lake.remove(stray)
    assert lake.differences(clean) == []


@pytest.mark.slow
async def test_an_archive_whose_archive_file_is_lost_is_mended(
    lake: Lake, invoices: Served, clean: dict[str, bytes]
) -> None:
    await exported(lake, invoices)
    lake.remove("_bulkfetch/archive.json")

    assert (await bulkfetch.repair_async(lake.address, settings_of(lake, invoices))).sound
    assert lake.differences(clean) == []


async def test_a_plan_a_verification_and_a_refused_repair_write_nothing(
    lake: Lake, invoices: Served
) -> None:
    settings = settings_of(lake, invoices)
    with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
        await verified(lake, invoices)
    with pytest.raises(OutputError, match="is not an archive of bulkfetch: it has no _bulkfetch"):
        await bulkfetch.repair_async(lake.address, settings)
    await anyio.to_thread.run_sync(
        prepare_output, lake.address, settings, PurePosixPath("_bulkfetch/archive.json")
    )

    assert lake.names() == []


async def test_a_prefix_with_other_things_is_left_alone(lake: Lake, invoices: Served) -> None:
    lake.write("photos/1.jpg", b"jpg")

    with pytest.raises(
        OutputError,
        match=r"is not empty and not an archive of bulkfetch .*choose an empty or new pre",
    ):
        await exported(lake, invoices)

    assert lake.names() == ["photos/1.jpg"]


async def test_folders_that_a_console_makes_are_neither_data_nor_faults(
    lake: Lake, invoices: Served
) -> None:
    folders = ["", "line_items/", "documents/", "_bulkfetch/", "_bulkfetch/superseded/"]
    for name in folders[:1]:
        lake.write(name, b"")

    assert (await exported(lake, invoices)).complete
    for name in folders:
        lake.write(name, b"")
    report = await exported(lake, invoices)

    assert (report.complete, report.unnamed_files) == (True, ())
    assert (await verified(lake, invoices)).sound
    assert "line_items/" in lake.names()


async def test_archives_beside_each_other_in_a_container_know_nothing_of_each_other(
    object_server: ObjectServer, invoices: Served, clean: dict[str, bytes]
) -> None:
    first = Lake.of(object_server)
    second = Lake(object_server, first.container, f"{first.prefix}2")
    inner = Lake(object_server, first.container, "")

    await exported(first, invoices)
    await exported(second, invoices)
    with pytest.raises(OutputError, match="is not empty"):
        await exported(inner, invoices)

    assert first.differences(clean) == second.differences(clean) == []


async def test_a_whole_container_can_be_the_archive(
    object_server: ObjectServer, invoices: Served, clean: dict[str, bytes]
) -> None:
    whole = Lake.of(object_server)
    lake = Lake(object_server, whole.container, "")

    await exported(lake, invoices)

    assert lake.differences(clean) == []


async def test_a_container_that_is_not_there_is_told(lake: Lake, invoices: Served) -> None:
    address = lake.address.replace(lake.container, "no-such-container")

    with pytest.raises(
        OutputError, match="there is no bucket or container 'no-such-container'; create it first"
    ):
        await bulkfetch.export_async(address, settings_of(lake, invoices))


async def test_credentials_that_are_missing_are_told_before_anything_is_asked(
    lake: Lake, invoices: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    flags = dict.fromkeys(("storage_key", "storage_key_id", "storage_account"))

    with pytest.raises(
        SettingsError, match=r"S3: no credentials: set AWS_ACCESS_KEY_ID|give storage_account"
    ):
        await exported(lake, invoices, **flags)
    assert invoices.requests == []


@pytest.mark.slow
async def test_readers_see_the_archive_where_it_is(lake: Lake, invoices: Served) -> None:
    await exported(lake, invoices)

    rows = pq.ParquetFile(io.BytesIO(lake.read(part_of(lake)))).read()

    assert rows.column("line_number").to_pylist() == list(range(10, 20))
