"""An object store in the memory of the test, with what real ones keep out of sight: unfinished
uploads, faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import obstore
from obstore.store import MemoryStore

from bulkfetch.storage.addresses import Address, Service
from bulkfetch.storage.clouds import Container
from bulkfetch.storage.objects import BlockingClock, Objects
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

    @property
    def there(self) -> dict[str, bytes]:
        """All objects, by their names."""
        names = [each["path"] for chunk in obstore.list(self.store) for each in chunk]
        return {name: bytes(obstore.get(self.store, name).bytes()) for name in sorted(names)}
