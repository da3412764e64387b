"""The plans that a coordinator keeps, so that each action of Spark does not list the invoices."""

from __future__ import annotations

import base64
import pickle
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bulkfetch.billing.parts import Part
from bulkfetch.engine.coordinator import Calls, Peer

FIND, KEEP, FORGET = "find_plan", "keep_plan", "forget_plans"
"""The calls of a process: for a plan, to keep one, and to forget all, because one is stale."""
_MOST_PLANS = 32
_MOST_CHARACTERS = 2 << 20
"""A longer plan is not kept: it would not fit into a line of the coordinator."""


@dataclass(slots=True)
class Plans:
    """Plans by what they are of, for `keep_s` seconds each."""

    keep_s: float
    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, str]] = field(default_factory=dict)

    def calls(self) -> Calls:
        """Return what processes may call."""
        return Calls({FIND: self._find, KEEP: self._keep, FORGET: self._forget})

    async def _find(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        kept_at, plan = self._kept.get(str(facts["of"]), (-self.keep_s, ""))
        return {"plan": plan if self.clock() - kept_at < self.keep_s else ""}

    async def _keep(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        self._kept.pop(str(facts["of"]), None)
        while len(self._kept) >= _MOST_PLANS:
            del self._kept[next(iter(self._kept))]
        self._kept[str(facts["of"])] = self.clock(), str(facts["plan"])
        return {}

    async def _forget(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        self._kept.clear()
        return {}


def write_plan(parts: Sequence[Part]) -> str:
    """Return a plan as text, or "" for one that is too long to be kept."""
    text = base64.b64encode(zlib.compress(pickle.dumps(list(parts)))).decode()
    if len(text) <= _MOST_CHARACTERS:
        return text
    return ""


def read_plan(text: str) -> list[Part] | None:
    """Return the parts of a plan, or None where there is none.

    It comes from the coordinator, which takes plans from processes of the run alone.
    """
    if not text:
        return None
    parts: list[Part] = pickle.loads(zlib.decompress(base64.b64decode(text)))  # noqa: S301
    return parts
