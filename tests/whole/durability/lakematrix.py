"""Kill commands before every change of an object store: `python
tests/whole/durability/lakematrix.py`, or `--every 20` for a sample.

The scenarios, the oracle and what must hold are those of `matrix.py`. The changes are taken in
the libraries that make them; the oracle reads a copy of the store on the disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

import obstore
from azure.storage.blob import ContainerClient
from support.stores.objectservers import ObjectServer, azurite, moto
from whole.durability.commands import add_sample_flags, print_conditions
from whole.durability.faults import Change, Ended, Fault, Interceptor
from whole.durability.lakes import Lake
from whole.durability.matrix import Amount, Place, Tally, show, try_scenario
from whole.durability.scenarios import SCENARIOS, Step

_NAMES = (
    "first export with documents",
    "replacement, several parts",
    "replacement, one part shared",
    "documents replaced",
    "unbilled snapshots",
    "repair of a damaged part",
    "repair of a lost commit and part",
    "repair of lost headers",
    "another detail takes its place",
    "prune",
    "accept",
    "asked again, the archived rows stay",
)


class StoreInterceptor(Interceptor):
    """Counts the changes of an object store, and lets the process end before one of them."""

    def install(self) -> None:
        """Watch the calls that change something."""
        for name in ("put", "copy", "delete", "open_writer"):
            setattr(obstore, name, self._watch(name, getattr(obstore, name)))
        # on Azure, bulkfetch deletes with Microsoft's own client
        delete = self._watch("delete", ContainerClient.delete_blob)
        ContainerClient.delete_blob = delete  # type: ignore[method-assign]  # watched

    def _watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(store: Any, path: str, *words: Any, **options: Any) -> Any:
            self.pass_by(Change(name, path))
            return call(store, path, *words, **options)

        return watched


@dataclass(frozen=True, slots=True)
class LakePlace(Place):
    """An archive in a container of its own, and in the folder a copy of it."""

    store: Lake

    @property
    def address(self) -> str:
        return self.store.address

    @classmethod
    def start_in(cls, server: ObjectServer, folder: Path) -> Self:
        """Make a place in a new container."""
        folder.mkdir(parents=True)
        return cls(folder, Lake.of(server))

    def copy_to(self, folder: Path) -> Self:
        there = self.start_in(self.store.server, folder)
        for name in self.store.names():
            there.store.write(name, self.store.read(name))
        there.mirror()
        return there

    def intercept(self, fault: Fault) -> Interceptor:
        return StoreInterceptor(fault)

    def environment(self) -> dict[str, str]:
        return {**super(LakePlace, self).environment(), **self.store.environment}

    def run(self, step: Step, fault: Fault = Fault(), away: str = "") -> Ended:  # noqa: B008  a value
        ended = super(LakePlace, self).run(step, fault, away)
        if step.alter is not None:
            self._take_over()
        self.mirror()
        return ended

    def mirror(self) -> None:
        """Copy the store to the folder."""
        shutil.rmtree(self.lake, ignore_errors=True)
        for name in self.store.names():
            path = self.lake / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.store.read(name))

    def _take_over(self) -> None:
        """Change the store as the folder was changed."""
        for name in self.store.names():
            path = self.lake / name
            if not path.exists():
                self.store.remove(name)
            elif path.read_bytes() != self.store.read(name):
                self.store.write(name, path.read_bytes())


SERVERS: Mapping[str, Callable[[], AbstractContextManager[ObjectServer]]] = {
    "S3 (moto)": moto,
    "Azure (Azurite)": azurite,
}


def try_server(name: str, every: int, only: Sequence[str]) -> list[Tally]:
    """Try every `every`-th change of the scenarios in containers of one server."""
    amount = Amount(every, (None,), ())
    numbers = [
        number
        for number, scenario in enumerate(SCENARIOS)
        if scenario.name in _NAMES and any(text in scenario.name for text in only)
    ]
    with SERVERS[name]() as server, TemporaryDirectory() as work:
        start = partial(LakePlace.start_in, server)
        return [try_scenario(number, amount, work, start) for number in numbers]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_sample_flags(parser)
    arguments = parser.parse_args()
    print_conditions()
    is_bad = False
    with ProcessPoolExecutor(len(SERVERS), mp_context=get_context("fork")) as pool:
        work = partial(try_server, every=arguments.every, only=arguments.only)
        for name, tallies in zip(SERVERS, pool.map(work, SERVERS), strict=True):
            print(f"{name}: changes of the undisturbed run, kills, states gone on from, failed")
            points = Counter[str]()
            for tally in tallies:
                show(tally)
                points += tally.points
                is_bad = is_bad or bool(tally.faults)
            print(f"  together {points.total()} kills", flush=True)
    return 1 if is_bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
