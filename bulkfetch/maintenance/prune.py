"""Delete old generations of what has been replaced, where what took their place verifies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bulkfetch.archive.inventory import (
    count_records,
    list_records,
    refuse_if_gone,
    write_run_report,
)
from bulkfetch.archive.layout import LOCK, SUPERSEDED
from bulkfetch.archive.origin import read_archive, refuse_no_archive
from bulkfetch.archive.publishing.moments import begin_run
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.publishing.settling import Settled
from bulkfetch.archive.superseded import Generation, Pruned, size_of
from bulkfetch.archive.superseded import prune as prune_generations
from bulkfetch.errors import StorageError
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.opening import open_archive
from bulkfetch.words import counted, format_bytes


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune deleted, what it left, and how much is kept still."""

    output: str
    pruned: Pruned
    settled: Settled
    superseded_bytes: int

    @property
    def complete(self) -> bool:
        """Whether everything old enough is deleted."""
        return not self.pruned.kept and not self.settled.stuck

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "output": self.output,
            "complete": self.complete,
            "removed": list(map(_facts_of, self.pruned.removed)),
            "removed_bytes": self.pruned.size_bytes,
            "kept": [{**_facts_of(each), "why": why} for each, why in self.pruned.kept],
            "unknown": list(map(str, self.pruned.unknown)),
            "finished": [name.stem for name in self.settled.finished],
            "stuck": {str(name): why for name, why in self.settled.stuck.items()},
            "superseded_bytes": self.superseded_bytes,
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        pruned = self.pruned
        lines = [
            f"FINISHED {each.stem}: an earlier run had begun it" for each in self.settled.finished
        ]
        lines += [f"FAULT {why}" for why in self.settled.stuck.values()]
        lines += [f"DELETED {each}" for each in pruned.removed]
        lines += [f"KEPT {each}: {why}" for each, why in pruned.kept]
        lines += [f"KEPT {name}: no record names it" for name in pruned.unknown]
        if pruned.kept:
            lines.append(
                "What took the place of these does not verify: run `bulkfetch repair`, "
                "then prune again"
            )
        lines.append(
            f"{self.output}: {self.deleted}; {format_bytes(self.superseded_bytes)} of replaced "
            "files are kept"
        )
        return lines

    @property
    def deleted(self) -> str:
        """How much was deleted, in words."""
        pruned = self.pruned
        if not pruned.removed and not pruned.kept:
            return "nothing was replaced that long ago"
        generations = counted(len(pruned.removed), "generation")
        return f"{generations} deleted, {format_bytes(pruned.size_bytes)}"


def _facts_of(generation: Generation) -> dict[str, Any]:
    return {
        "record": str(generation.record.record_name),
        "moment": generation.moment,
        "size_bytes": generation.size_bytes,
    }


def prune(
    output: str | Path, *, older_than: timedelta, settings: Settings | None = None
) -> PruneReport:
    """Delete generations that were replaced longer ago than `older_than`.

    One is deleted only where what took its place verifies. No server is asked. Raises OutputError
    if `output` is not an archive of this format, or if records of it are gone, and StorageError.
    """
    store = open_archive(output, settings)
    now = datetime.now(UTC)
    if read_archive(store) is None:
        raise refuse_no_archive(output)
    with store.locked(LOCK):
        settled = Publishing(store).settle()
        refuse_if_gone(store, list_records(store))
        pruned = prune_generations(store, now - older_than)
        left = store.list(SUPERSEDED)
        report = PruneReport(str(output), pruned, settled, size_of(store, left))
        content = {"command": "prune", **report.to_dict(), "records": count_records(store)}
        try:
            write_run_report(store, begin_run(store), content, left)
        except StorageError as error:
            raise StorageError(
                f"{report.deleted}, but the report cannot be kept: {error}"
            ) from error
    return report
