"""What a sync of tables did, or would do, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bulkfetch.archive.findings import Finding
from bulkfetch.archive.publishing.settling import Settled
from bulkfetch.words import WIDE, counted, encodable, lay_out, printable


@dataclass(frozen=True, slots=True)
class TableReport:
    """What a sync did to one table, or would do: `added` and `removed` count files.

    `files` and `rows` are those of a table that is up to date. `problem` says why it could not be
    read or changed.
    """

    name: str
    format: str
    root: str
    files: int
    rows: int
    is_new: bool = False
    added: int = 0
    removed: int = 0
    columns: tuple[str, ...] = ()
    copies: int = 0
    """How many copies of files of the archive it lacks, although it names them."""
    problem: str = ""
    lost: str = ""
    """Why a table that there was has to be created again."""
    is_compacted: bool = False
    """Whether its files are copies of many files of the archive each."""

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to do."""
        changes = self.added or self.removed or self.columns or self.copies
        return not (self.is_new or changes or self.problem)

    def state(self, *, written: bool) -> str:
        """Say what was done if it is `written`, else what is to be done."""
        if self.problem:
            return "failed"
        if self.is_current:
            if written:
                return "unchanged"
            return "up to date"
        words = []
        if self.is_new:
            words.append(self._creation(written=written))
        if self.columns:
            words.append(f"+{counted(len(self.columns), 'column')}")
        if self.added or self.removed:
            counts = [f"+{self.added:,}", f"−{self.removed:,}"]
            words.append(" ".join(each for each in counts if each[1:] != "0"))
        if self.copies:
            words.append("copied again" if written else "its file is gone")
        return ", ".join(words)

    def _creation(self, *, written: bool) -> str:
        if self.lost:
            if written:
                return "created again"
            return f"to be created again: it {self.lost}"
        if written:
            return "created"
        return "not created yet"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "name": self.name,
            "format": self.format,
            "root": self.root,
            "compacted": self.is_compacted,
            "current": self.is_current,
            "new": self.is_new,
            "added": self.added,
            "removed": self.removed,
            "columns": list(self.columns),
            "copies": self.copies,
            "files": self.files,
            "rows": self.rows,
            "lost": self.lost or None,
            "problem": self.problem or None,
        }


@dataclass(frozen=True, slots=True)
class TablesReport:
    """What a sync did to the tables of an archive, or what one would do if it is not `written`.

    `run` is the last run of the archive: the new versions have it as `bulkfetch.run`.
    """

    output: str
    run: str
    tables: tuple[TableReport, ...]
    findings: tuple[Finding, ...] = ()
    written: bool = True
    settled: Settled = field(default_factory=Settled)

    @property
    def complete(self) -> bool:
        """Whether every table is, now, what the commits say, and every commit can be read."""
        if self.findings or self.settled.stuck:
            return False
        return not any(each.problem for each in self.tables) and (
            self.written or all(each.is_current for each in self.tables)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "output": encodable(self.output),
            "complete": self.complete,
            "run": self.run or None,
            "tables": [each.to_dict() for each in self.tables],
            "findings": [{"name": each.name, "what": each.what} for each in self.findings],
            "finished": [name.stem for name in self.settled.finished],
            "stuck": {str(name): why for name, why in self.settled.stuck.items()},
        }

    def lines(self, width: int = WIDE) -> list[str]:
        """Return the report as lines of text."""
        lines = [
            f"FINISHED {each.stem}: an earlier run had begun it" for each in self.settled.finished
        ]
        rows = [["table", "format", "files", "line items", "state"]]
        for each in self.tables:
            counts = f"{each.files:,}", f"{each.rows:,}"
            state = printable(each.state(written=self.written))
            rows.append([printable(each.name), each.format, *counts, state])
        if self.tables:
            lines += lay_out(rows, width)
        return [*lines, *self.faults, f"{self.output}: {self.outcome}"]

    @property
    def faults(self) -> list[str]:
        """What is wrong, a line each."""
        faults = [f"FAULT {why}" for why in self.settled.stuck.values()]
        faults += [f"FAULT {finding}" for finding in self.findings]
        failed = [each for each in self.tables if each.problem]
        return faults + [
            f"FAULT the {each.format} table {printable(each.name)}: {printable(each.problem)}"
            for each in failed
        ]

    @property
    def outcome(self) -> str:
        """How many tables there are, and what became of them."""
        if not self.tables:
            if self.written:
                return "no tables"
            return "no tables; `bulkfetch tables sync` makes them"
        failed = sum(bool(each.problem) for each in self.tables)
        changed = sum(not each.is_current for each in self.tables) - failed
        words = [counted(len(self.tables), "table")]
        words.append(f"{changed:,} changed" if self.written else f"{changed:,} to change")
        if failed:
            words.append(f"{failed:,} failed")
        return ", ".join(words)
