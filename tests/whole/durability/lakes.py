"""Put the archive promise on trial in object stores: `python tests/whole/durability/lakes.py
[--quick]`.

Each store is a server on loopback. A run is ended with SIGKILL before each change of the store that
it would make, and at random instants, until a run completes; then the archive has to be that of an
undisturbed run on a disk, byte for byte, with no object too many and no upload unfinished. In
between, no commit may vouch for what is not there; a reader reads all the time and must never meet
an unreadable object or a row twice. Pieces of uploads are tiny here, so that the parts of a few
rows are uploaded in several. The exit code is 0 if all of that held.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[2]))

import anyio
import anyio.to_thread
import pyarrow as pa
import pyarrow.parquet as pq
from support.replay import TOKEN, Served, serving
from support.stores.objectservers import ObjectServer, S3Server, azurite, moto
from whole.durability.commands import print_conditions
from whole.durability.trial import CUT, proved, run_into, tenant

from bulkfetch.errors import OutputError
from bulkfetch.maintenance.verify import verify_store
from bulkfetch.runs.export import archive, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.stats import RunStats
from bulkfetch.storage.addresses import parse_address
from bulkfetch.storage.leases import LeasePolicy
from bulkfetch.storage.objects import Objects, Upload
from bulkfetch.storage.objectstore import ObjectStore
from bulkfetch.storage.opening import open_objects

PIECE_BYTES = 3_000
"""Pieces of an upload on trial: parts of ten rows are uploaded in two or three."""
_LATENCY_S = 0.01
_NOT_PROVED = (
    "_bulkfetch/runs/",
    "_bulkfetch/logs/",
    "_bulkfetch/lock",
    "_bulkfetch/superseded/",
)


class KillingObjects(Objects):
    """Objects that end their process with SIGKILL before the `step`-th change of the store."""

    step = sys.maxsize
    changes = 0

    def changing(self) -> None:
        if self.changes == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        self.changes += 1

    def put(self, *words: Any, **options: Any) -> Any:
        self.changing()
        return super().put(*words, **options)

    def copy(self, *words: Any) -> Any:
        self.changing()
        return super().copy(*words)

    def delete(self, *words: Any) -> None:
        self.changing()
        super().delete(*words)

    def upload(self, name: PurePosixPath) -> Upload:
        return KillingUpload(self, name)


class KillingUpload(Upload):
    """An upload each piece of which is a change of the store, and its completion."""

    def write(self, data: bytes) -> int:
        if self.is_sent and self.size // PIECE_BYTES != (self.size + len(data)) // PIECE_BYTES:
            self._changing()
        return super().write(data)

    def finish(self) -> None:
        if self.is_sent:
            self._changing()
        super().finish()

    def _changing(self) -> None:
        if isinstance(self._objects, KillingObjects):
            self._objects.changing()


@dataclass(frozen=True, slots=True)
class Lake:
    """A new container of a server, an address in it, and what may be asked of it behind the back of
    bulkfetch."""

    server: ObjectServer
    container: str = field(default_factory=lambda: f"lake-{uuid4().hex}")
    prefix: str = "archive/of tests"

    @classmethod
    def of(cls, server: ObjectServer) -> Lake:
        lake = cls(server)
        server.create(lake.container)
        return lake

    @property
    def address(self) -> str:
        return f"{'s3' if isinstance(self.server, S3Server) else 'az'}://{self.container}/{self.prefix}"

    def flags(self, port: int | None = None) -> dict[str, Any]:
        """The settings that lead there, through the proxy on a port if one is given."""
        options = self.server.options(port)
        flags = {"storage_endpoint": options["endpoint"], "storage_timeout_s": 20.0}
        if isinstance(self.server, S3Server):
            names = {
                "storage_key_id": "access_key_id",
                "storage_key": "secret_access_key",
                "storage_region": "region",
            }
        else:
            names = {"storage_account": "account_name", "storage_key": "account_key"}
        return {**flags, **{name: options[option] for name, option in names.items()}}

    @property
    def environment(self) -> dict[str, str]:
        return {f"BULKFETCH_{name.upper()}": str(value) for name, value in self.flags().items()}

    def open(
        self, settings: Settings, piece_bytes: int = PIECE_BYTES, policy: LeasePolicy | None = None
    ) -> ObjectStore:
        """Open the store of the archive, in this process."""
        address = parse_address(self.address)
        assert address is not None
        objects = open_objects(address, settings)
        objects.chunk_bytes = piece_bytes
        return ObjectStore(objects, policy)

    async def run_into(
        self,
        server: Served,
        piece_bytes: int = PIECE_BYTES,
        policy: LeasePolicy | None = None,
        **settings: Any,
    ) -> ExportReport:
        """Export into it."""
        run = server.settings(**{**CUT, **self.flags(), **settings})
        store = await anyio.to_thread.run_sync(self.open, run, piece_bytes, policy)
        async with writing_to(store):
            return await archive(ExportOptions(self.address), run, store, RunStats())

    def names(self) -> list[str]:
        """The names of all objects of the archive."""
        prefix = self._key("")
        return sorted(
            name[len(prefix) :]
            for name in self.server.names(self.container)
            if name.startswith(prefix)
        )

    def read(self, name: str) -> bytes:
        return self.server.read(self.container, self._key(name))

    def write(self, name: str, content: bytes) -> None:
        self.server.write(self.container, self._key(name), content)

    def remove(self, name: str) -> None:
        self.server.remove(self.container, self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def proved(self) -> dict[str, bytes]:
        """All objects of the archive but the reports, logs and lock of its runs."""
        return {name: self.read(name) for name in self.names() if not name.startswith(_NOT_PROVED)}

    def differences(self, clean: dict[str, bytes]) -> list[str]:
        """What differs from a clean archive, and unfinished uploads."""
        there = self.proved()
        differing = [
            name for name in there.keys() | clean.keys() if there.get(name) != clean.get(name)
        ]
        return sorted(differing) + [
            f"unfinished: {name}" for name in self.server.unfinished(self.container)
        ]

    def dishonest(self, settings: Settings) -> list[str]:
        """What is wrong at any instant: what a commit vouches for that is not so, and what readers
        trip over."""
        faults = self.readers_trip_over()
        if any(name.startswith("_bulkfetch/commits/") for name in self.names()):
            try:
                found = verify_store(
                    self.open(settings), self.address, deep=True, files_only=True
                ).findings
            except OutputError as error:
                return [*faults, str(error)]
            faults += [
                str(finding)
                for finding in found
                if finding.transfer is not None or "damaged" in finding.what
            ]
        return faults

    def readers_trip_over(self) -> list[str]:
        """Read all line items as a data lake does; return what cannot be read, and rows that are
        there twice."""
        faults: list[str] = []
        seen: Counter[tuple[str, str, int]] = Counter()
        for name in self.names():
            if not (name.startswith("line_items/") and name.endswith(".parquet")):
                continue
            try:
                table = pq.ParquetFile(io.BytesIO(self.read(name))).read(
                    ["invoice_id", "line_number"]
                )
            except pa.ArrowException as error:
                faults.append(f"{name} cannot be read: {error}")
                continue
            except (
                Exception
            ):  # withdrawn between the two looks, which each server says in its own way
                continue
            columns = (
                table.column("invoice_id").to_pylist(),
                table.column("line_number").to_pylist(),
            )
            folder = str(PurePosixPath(name).parent)
            seen.update(
                (folder, invoice_id, line) for invoice_id, line in zip(*columns, strict=True)
            )
        return faults + [
            f"{row} is there {times} times" for row, times in seen.items() if times > 1
        ]


@dataclass(slots=True)
class Tally:
    """What a kind of trial has come to."""

    kills: int = 0
    resumed: int = 0
    reads: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trials:
    """What all trials share: a store, the server of invoices, and the archive of an undisturbed run
    on a disk."""

    stores: ObjectServer
    invoices: Served
    clean: dict[str, bytes]
    random: Random

    async def kills_at_steps(self, every: int) -> Tally:
        """End a run before each change of the store, one after another, and let another one go
        on."""
        tally, step = Tally(), 0
        while True:
            lake = Lake.of(self.stores)
            async with self._read(lake, tally):
                code, said = await run_killed(lake, self.invoices, step)
                if code not in (0, -signal.SIGKILL):
                    tally.faults.append(f"killed at step {step}: exit code {code}: {said}")
                tally.kills += code != 0
                tally.faults += await self._judged(lake, f"killed at step {step}")
                report = await lake.run_into(self.invoices)
                tally.resumed += bool(report.rows_resumed or report.skipped)
                tally.faults += await self._compared(lake, f"killed at step {step}, run again")
            if code == 0:
                return tally
            step += every

    async def kills_at_random(self, times: int) -> Tally:
        """End the command line at random instants, several times in a row, until it completes."""
        tally, took_s = Tally(), 0.0
        while tally.kills < times or not took_s:
            lake = Lake.of(self.stores)
            async with self._read(lake, tally):
                killed = 0
                while True:
                    delay_s = (
                        self.random.uniform(0.3, 1.0) * took_s if took_s and killed < 4 else None
                    )
                    started = time.monotonic()
                    code, _ = await self._command(lake, delay_s)
                    if code == 0:
                        took_s = (
                            max(took_s * 0.9, time.monotonic() - started) if not killed else took_s
                        )
                        break
                    killed += 1
                    tally.faults += await self._judged(lake, f"killed after {delay_s or 0:.3f} s")
                tally.kills += killed
                tally.faults += await self._compared(lake, "completed")
        return tally

    @asynccontextmanager
    async def _read(self, lake: Lake, tally: Tally) -> AsyncIterator[None]:
        """Read an archive over and over while runs write to it."""

        async def read() -> None:
            while True:
                tally.faults += await anyio.to_thread.run_sync(lake.readers_trip_over)
                tally.reads += 1
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            yield
            tasks.cancel_scope.cancel()

    async def _judged(self, lake: Lake, where: str) -> list[str]:
        settings = self.invoices.settings(**{**CUT, **lake.flags()})
        found = await anyio.to_thread.run_sync(lake.dishonest, settings)
        return [f"{where}: {fault}" for fault in found]

    async def _compared(self, lake: Lake, where: str) -> list[str]:
        found = await anyio.to_thread.run_sync(lake.differences, self.clean)
        return [f"{where}: {fault}" for fault in found]

    async def _command(self, lake: Lake, kill_after_s: float | None) -> tuple[int, str]:
        """Run the command line; return its exit code and what it said last."""
        flags = [
            word
            for name, value in CUT.items()
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        words = [
            "-m",
            "bulkfetch",
            "export",
            lake.address,
            "--quiet",
            "--base-url",
            self.invoices.base_url,
            *flags,
        ]
        return await _process(words, lake, kill_after_s)


async def run_killed(lake: Lake, invoices: Served, step: int) -> tuple[int, str]:
    """Run in a process of its own, in tiny pieces, that kills itself at a step; return its exit
    code and last words."""
    return await _process(
        [__file__, "--child", lake.address, invoices.base_url, str(step)], lake, None
    )


async def _process(words: list[str], lake: Lake, kill_after_s: float | None) -> tuple[int, str]:
    environment = {**os.environ, "BULKFETCH_TOKEN": TOKEN, **lake.environment}
    process = await anyio.open_process([sys.executable, *words], env=environment)
    async with process:
        if kill_after_s is not None:
            with anyio.move_on_after(kill_after_s):
                await process.wait()
            if process.returncode is None:
                process.kill()
        said = b"".join([piece async for piece in process.stderr]) if process.stderr else b""
        return await process.wait(), said.decode()[-500:]


async def run_child(address: str, base_url: str, step: int) -> None:
    """Do what `bulkfetch export` does, in tiny pieces, up to a step."""
    from bulkfetch.settings.sources import read_settings

    settings = read_settings(base_url=base_url, **CUT)
    parsed = parse_address(address)
    assert parsed is not None
    objects = open_objects(parsed, settings)
    objects.__class__ = KillingObjects
    objects.chunk_bytes = PIECE_BYTES
    assert isinstance(objects, KillingObjects)
    objects.step = step
    store = ObjectStore(objects)
    async with writing_to(store):
        await archive(ExportOptions(address), settings, store, RunStats())


@asynccontextmanager
async def trials_with(
    stores: ObjectServer, work: Path, random: Random, latency_s: float
) -> AsyncIterator[Trials]:
    """Serve the invoices, and find out what an undisturbed run makes of them on a disk."""
    async with serving(tenant()) as prompt, serving(tenant(latency_s)) as slow:
        root = work / "clean"
        if not root.exists():
            root.mkdir()
            await run_into(root, prompt)
        yield Trials(stores, slow if latency_s else prompt, proved(root), random)


async def put_on_trial(arguments: argparse.Namespace, servers: list[ObjectServer]) -> int:
    """Run the trials that were asked for and print a line for each kind."""
    failed = 0
    print_conditions()
    print(
        f"seed {arguments.seed}; kills, runs that resumed what was there, reads meanwhile, faults"
    )
    with tempfile.TemporaryDirectory() as work:
        for server in servers:
            name = "S3 (moto)" if isinstance(server, S3Server) else "Azure (Azurite)"
            kinds: list[tuple[str, int, float, Callable[[Trials], Callable[[int], Any]]]] = [
                (
                    f"at steps, every {arguments.steps}",
                    arguments.steps,
                    0.0,
                    lambda trials: trials.kills_at_steps,
                ),
                (
                    "at random instants",
                    arguments.kills,
                    _LATENCY_S,
                    lambda trials: trials.kills_at_random,
                ),
            ]
            for kind, amount, latency_s, trial in kinds:
                if not amount:
                    continue
                started = time.monotonic()
                async with trials_with(
                    server, Path(work), Random(arguments.seed), latency_s
                ) as trials:
                    tally = await trial(trials)(amount)
                counts = (
                    f"{tally.kills:>6} {tally.resumed:>6} {tally.reads:>8} {len(tally.faults):>4}"
                )
                print(
                    f"{f'{name}, SIGKILL {kind}':<48} {counts}  {time.monotonic() - started:.0f} s",
                    flush=True,
                )
                for fault in tally.faults[:10]:
                    print(f"  {fault}", flush=True)
                failed += bool(tally.faults)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=60, help="SIGKILLs at random instants, for each store"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=1,
        help="SIGKILL before every N-th change of the store; 0: none",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        address, base_url, step = arguments.child
        anyio.run(run_child, address, base_url, int(step))
        return 0
    if arguments.quick:
        arguments.kills, arguments.steps = 6, 25
    with ExitStack() as stack:
        servers: list[ObjectServer] = [stack.enter_context(moto()), stack.enter_context(azurite())]
        return anyio.run(put_on_trial, arguments, servers)


if __name__ == "__main__":
    raise SystemExit(main())
