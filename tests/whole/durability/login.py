"""A login that is kept, interrupted before every change of the file system."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from whole.durability.faults import KILLED, WORDS, DiskInterceptor, Ended, Fault, run_forked

from bulkfetch.errors import StorageError
from bulkfetch.settings.values import Secret
from bulkfetch.signin.logins import Login, read_login, remove_login, write_login

_OLD, _NEW = "canary-old-0123456789", "canary-new-0123456789"


def _login(token: str) -> Login:
    return Login("tenant", "client", "https://login.example", Secret(token))


def keep(file: Path, fault: Fault = Fault()) -> Ended:  # noqa: B008  a value
    """Keep the new login in a process of its own, a change of the file system going wrong."""

    def work() -> int:
        try:
            write_login(file, _login(_NEW))
        except StorageError as error:
            print(error, file=sys.stderr)
            return 1
        return 0

    return run_forked(work, DiskInterceptor(file.parent, fault), environment={})


def try_login(
    work: Path, at: int, code: int | None, *, stays: bool, first: bool
) -> list[str] | None:
    """Let one change go wrong; return what is not as it must be, None if it did not come to it."""
    folder = work / "login"
    folder.mkdir()
    try:
        file = folder / "login.json"
        if not first:
            write_login(file, _login(_OLD))
        ended = keep(file, Fault(at, code, stays=stays))
        if ended.code != KILLED and len(ended.changes) <= at:
            return None
        return list(_judge(file, ended, code, first=first))
    finally:
        shutil.rmtree(folder)


def _judge(file: Path, ended: Ended, code: int | None, *, first: bool) -> Iterator[str]:
    if code is not None and (ended.code != 1 or WORDS[code] not in ended.said):
        yield f"exit code {ended.code}: {ended.said}"
    kept = read_login(file)
    token = kept.refresh_token.reveal() if kept else None
    if token not in ({None, _NEW} if first else {_OLD, _NEW}):
        yield f"neither the old nor the new login is there: {token}"
    if code is not None and _tokens_beside(file):
        yield "a copy of a refresh token is left after an error"
    copy = shutil.copytree(file.parent, file.parent.with_name("forgotten"))
    remove_login(copy / file.name)
    if any(copy.iterdir()):
        yield f"`login --forget` leaves {list(copy.iterdir())}"
    shutil.rmtree(copy)
    if keep(file).code != 0 or (again := read_login(file)) is None:
        yield "the next login cannot be kept"
    elif again.refresh_token.reveal() != _NEW:
        yield "the next login is not the one that was kept"
    elif _tokens_beside(file):
        yield "a copy of a refresh token is left after the next login"


def _tokens_beside(file: Path) -> list[Path]:
    others = [path for path in file.parent.iterdir() if path != file]
    return [path for path in others if b"canary" in path.read_bytes()]
