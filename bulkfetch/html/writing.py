"""Writes the page of an archive to a file: whole, and never among the archive's own files."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Unpack

from bulkfetch.archive.layout import DATA
from bulkfetch.errors import OutputError, StorageError
from bulkfetch.html.figures import Figures, read_figures
from bulkfetch.html.page import GENERATOR, make_page
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.paths import expand_path
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.addresses import parse_address
from bulkfetch.storage.disk import Disk
from bulkfetch.storage.opening import locate, open_archive
from bulkfetch.storage.refusals import explain
from bulkfetch.words import counted, encodable, format_bytes, given_as

_OWN = (*(directory.name for directory in DATA), "tables")
"""The directories of an archive in which no page is written, those aside whose names begin with an
underscore."""
_MOST = 20
"""How many lines of what could not be read people are shown."""
_BEGINNING = 4096
"""So much of a file tells whether it is a page of ours."""


@dataclass(frozen=True, slots=True)
class PageReport:
    """The page of an archive, and the file that has it; None where it was not written to one."""

    output: str
    html: str
    file: Path | None
    figures: Figures

    @property
    def size_bytes(self) -> int:
        """The size of the page, in bytes."""
        return len(self.html.encode())

    @property
    def exit_code(self) -> int:
        """That of `show`, and 1 if something could not be read."""
        if self.figures.unread:
            return 1
        return self.figures.shown.exit_code

    def __repr__(self) -> str:
        # short: a notebook shows it, and the page would fill many screens
        return f"<PageReport of {self.output}: {self._facts()}, exit code {self.exit_code}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what was written as plain values, for JSON; `show` has the numbers of the page."""
        shown = self.figures.shown
        return {
            "output": encodable(self.output),
            "file": None if self.file is None else encodable(str(self.file)),
            "size_bytes": self.size_bytes,
            "invoices": shown.invoices,
            "rows": shown.rows,
            "verdicts": shown.verdicts,
            "missing": len(shown.findings_missing),
            "faults": len(shown.findings_wrong),
            "failures": len(self.figures.failures),
            "unread": [{"name": each.name, "what": each.what} for each in self.figures.unread],
        }

    def lines(self) -> list[str]:
        """Return what was written as lines of text."""
        unread = self.figures.unread
        lines = [f"UNREAD {each}" for each in unread[:_MOST]]
        if len(unread) > _MOST:
            lines.append(
                f"UNREAD {len(unread) - _MOST:,} more; `bulkfetch report --json` shows all"
            )
        return [*lines, f"{self.file}: {self._facts()}"]

    def _facts(self) -> str:
        shown = self.figures.shown
        found = [
            counted(shown.invoices, "invoice"),
            counted(shown.rows, "line item"),
            format_bytes(self.size_bytes),
        ]
        return ", ".join(found)


def report(
    output: str | Path,
    html: str | Path | None = None,
    *,
    force: bool = False,
    settings: Settings | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> PageReport:
    """Make one HTML page of an archive, and write it to the file `html` if one is given.

    The page is made from the records of the archive, and changes nothing in it; no line item is
    read. What cannot be read is said on the page. The file is there once it is whole; one that is
    there already is replaced if it is such a page, or with `force`. `output` and settings are those
    of `show`. Raises OutputError if there is no archive that this version reads, or if the page may
    not be written there, StorageError if the storage refuses everything, and SettingsError.
    """
    settings = read_settings(settings, **keywords) if keywords else settings
    store = open_archive(output, settings)
    file = None if html is None else check_target(html, output, force=force)
    tolerance = settings.money_tolerance if settings else None
    figures = read_figures(store, str(output), tolerance)
    page = make_page(figures, datetime.now(UTC))
    if file is not None:
        write_page(file, page.encode())
    return PageReport(str(output), page, file, figures)


def check_target(html: str | Path, output: str | Path, *, force: bool) -> Path:
    """Return the file to write, or raise OutputError if it must not be written."""
    if parse_address(str(html)) is not None:
        raise OutputError(f"{html} is not on this machine; write the page to a file, and copy it")
    try:
        file = Path(expand_path(str(html)))
    except ValueError as problem:
        raise OutputError(str(problem)) from None
    try:
        _refuse_place(file, locate(output))
        if not force and not _may_replace(file):
            raise OutputError(
                f"{file} exists and is not a page of `bulkfetch report`; choose another file, or "
                f"give {given_as('force', True)} to replace it"
            )
    except (OSError, ValueError, RuntimeError) as error:  # a RuntimeError: links in a circle
        why = explain(error, file) if isinstance(error, OSError) else f"{str(file)!r}: {error}"
        raise OutputError(f"the page cannot be written: {why}") from error
    return file


def _refuse_place(file: Path, archive: object) -> None:
    """Raise OutputError if a file is, or leads to, one in the directories of the archive's own
    files, or if its directory is not there."""
    directory = file.resolve().parent
    if file.is_dir():
        raise OutputError(f"{file} is a directory; give the name of a file in it")
    if not directory.is_dir():
        raise OutputError(f"{file} cannot be written: there is no directory {directory}")
    if isinstance(archive, Path):
        target = file.resolve()
        for each in (target, *target.parents):
            if _is_own(each, archive):
                raise OutputError(
                    f"{file} would be among the archive's own files; choose one outside of {each}"
                )


def _is_own(path: Path, archive: Path) -> bool:
    """Return whether a path is one of the directories of an archive, or may become one."""
    name = path.name.casefold()
    return path.parent.samefile(archive) and (name in _OWN or name.startswith("_"))


def _may_replace(file: Path) -> bool:
    """Return whether nothing is lost if a page takes the place of a file."""
    if not file.exists() or not stat.S_ISREG(file.stat().st_mode):
        return True
    with file.open("rb") as stream:
        beginning = stream.read(_BEGINNING)
    return not beginning or GENERATOR.encode() in beginning


def write_page(file: Path, content: bytes, disk: Disk | None = None) -> None:
    """Write a page to a file, which is there once it is whole; a pipe or a device gets it directly.

    A link to a file stays one, and so do the permissions of a file that is replaced. Raises
    StorageError.
    """
    try:
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            file.write_bytes(content)
        else:
            _replace(file.resolve(), content, disk or Disk())
    except OSError as error:
        raise StorageError(f"the page cannot be written: {explain(error, file)}") from error


def _replace(target: Path, content: bytes, disk: Disk) -> None:
    temporary = target.with_name(f".bulkfetch-report.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()  # left by a process that was killed
    try:
        with disk.create(temporary) as stream:
            stream.write(content)
            disk.sync(stream)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        disk.rename(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    disk.sync_directory(target.parent)
