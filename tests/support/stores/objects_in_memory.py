"""An object store in the memory of the test, with what real ones keep out of sight: unfinished
uploads, faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import obstore
from obstore.store import MemoryStore

from bulkfetch.storage.addresses import Address, Service
from bulkfetch.storage.clouds import Container
from bulkfetch.storage.objects import BlockingClock, Entry, Objects, Stored
from bulkfetch.storage.objectstore import ObjectStore

ADDRESS = Address(Service.S3, "bucket", "", "mem://bucket")


@dataclass(slots=True)
class Time:
    """A clock that moves only during a sleep."""

    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    """What others do during a sleep."""

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self.meanwhile()

    @property
    def clock(self) -> BlockingClock:
        return BlockingClock(lambda: self.now_s, self.sleep, lambda: 1.0)


class Counted(Objects):
    """Objects that count their requests. A listing is one; of a real store it is one in 1,000."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.requests: Counter[str] = Counter()

    def get(self, name: PurePosixPath) -> Stored | None:
        self.requests["get"] += 1
        return super().get(name)

    def get_range(self, name: PurePosixPath, start: int, end: int) -> bytes:
        self.requests["get"] += 1
        return super().get_range(name, start, end)

    def head(self, name: PurePosixPath) -> Entry | None:
        self.requests["head"] += 1
        return super().head(name)

    def list(self) -> dict[PurePosixPath, Entry]:
        self.requests["list"] += 1
        return super().list()

    def put(self, name: PurePosixPath, content: bytes, *, replacing: Entry | None = None) -> Entry:
        self.requests["put"] += 1
        return super().put(name, content, replacing=replacing)

    def copy(self, source: PurePosixPath, name: PurePosixPath, size: int) -> Entry:
        self.requests["copy"] += 1
        return super().copy(source, name, size)

    def delete(self, name: PurePosixPath) -> None:
        self.requests["delete"] += 1
        super().delete(name)


@dataclass(slots=True)
class Memory:
    """What several stores of one test share, as several runs share a bucket."""

    store: Any = field(default_factory=MemoryStore)
    ended: list[str] = field(default_factory=list)
    """Keys whose unfinished uploads were ended."""
    time: Time = field(default_factory=Time)

    def objects(self, **options: Any) -> Objects:
        container = Container(self.store, abort_uploads=self.ended.append)
        return Objects(
            ADDRESS, container, **{"clock": self.time.clock, "patience_s": 30.0, **options}
        )

    def open(self, **options: Any) -> ObjectStore:
        return ObjectStore(self.objects(**options))

    def counted(self) -> tuple[ObjectStore, Counter[str]]:
        """A store, and how many requests it has sent, by their kinds."""
        container = Container(self.store, abort_uploads=self.ended.append)
        objects = Counted(ADDRESS, container, clock=self.time.clock, patience_s=30.0)
        return ObjectStore(objects), objects.requests

    @property
    def there(self) -> dict[str, bytes]:
        """All objects, by their names."""
        names = [each["path"] for chunk in obstore.list(self.store) for each in chunk]
        return {name: bytes(obstore.get(self.store, name).bytes()) for name in sorted(names)}
