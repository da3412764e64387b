"""The runs of an archive, as their reports and logs tell: how the last one ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import orjson

from bulkfetch.archive.findings import NOT_TRIED, Finding
from bulkfetch.archive.layout import LOGS, RUNS
from bulkfetch.archive.publishing.moments import read_moment
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.store import Store

_LOG = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)(\.[0-9]+)?\.jsonl")


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the report of the last run says: when it began, what it selected, how it ended.

    `command` is "export" or "repair"; only an export has a selection. `failed` counts what
    it tried in vain, `not_tried` what it did not come to, `differing` the invoices that differed.
    """

    command: str
    began_at: datetime
    elapsed_s: float | None
    selection: Mapping[str, Any] | None
    complete: bool
    failed: int
    not_tried: int
    differing: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "command": self.command,
            "began_at": self.began_at.isoformat(timespec="seconds"),
            "elapsed_s": self.elapsed_s,
            "selection": None if self.selection is None else dict(self.selection),
            "complete": self.complete,
            "failed": self.failed,
            "not_tried": self.not_tried,
            "differing": self.differing,
        }


def read_runs(store: Store, findings: list[Finding]) -> tuple[int, LastRun | None]:
    """Return how many reports of exports and repairs there are, and what the newest says that can
    be read."""
    names = [name for name in store.list(RUNS) if read_moment(name.stem) is not None]
    for name in reversed(names):
        try:
            run = parse_run(store.read(name) or b"", name)
        except StorageError as error:
            findings.append(Finding(str(name), str(error)))
            continue
        if run.command != "prune":
            return len(names), run
    return len(names), None


def parse_run(content: bytes, name: PurePosixPath) -> LastRun:
    """Read the report of a run. Raises DamagedError if it is none."""
    began_at = read_moment(name.stem)
    try:
        facts = orjson.loads(content)
        selection, elapsed_s = facts.get("selection"), facts.get("elapsed_s")
        reasons = [failure["reason"] for failure in facts.get("failures", [])]
        verdicts = dict(facts.get("verdicts", {}))
        complete = facts["complete"]
        if began_at is None or not isinstance(complete, bool):
            raise ValueError("it does not say how the run ended")
        if not isinstance(selection, dict | None) or not isinstance(elapsed_s, int | float | None):
            raise ValueError("it does not say what the run selected, or how long it took")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(
            f"{name} is damaged ({error}); the report of a run can be removed"
        ) from error
    return LastRun(
        command=str(facts.get("command", "repair" if selection is None else "export")),
        began_at=began_at,
        elapsed_s=elapsed_s,
        selection=selection,
        complete=complete,
        failed=sum(reason != NOT_TRIED for reason in reasons),
        not_tried=reasons.count(NOT_TRIED),
        differing=sum(verdicts[name] for name in verdicts if name.startswith("differs")),
    )


def find_broken_off(store: Store, last_run: LastRun | None) -> datetime | None:
    """Return when the newest run began that left a log and no report."""
    began = map(moment_of_log, store.list(LOGS))
    newest = max((moment for moment in began if moment), default=None)
    if newest is None or (last_run is not None and newest <= last_run.began_at):
        return None
    return newest


def moment_of_log(name: PurePosixPath) -> datetime | None:
    """Return when the run began that has a log, or a piece of one, of that name."""
    match = _LOG.fullmatch(name.name)
    if match:
        return read_moment(match[1])
    return None
