"""The login that is kept on disk: a refresh token, readable by its owner only."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from bulkfetch.errors import SettingsError, StorageError
from bulkfetch.logguard import forgets_frames
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import Disk
from bulkfetch.storage.refusals import explain
from bulkfetch.words import called


@dataclass(frozen=True, slots=True)
class Login:
    """A refresh token, the tenant, app and authority that it is for, and its user if known."""

    tenant_id: str
    client_id: str
    authority: str
    refresh_token: Secret
    username: str = ""

    def is_of(self, tenant_id: str | None, client_id: str | None) -> bool:
        """Return whether it is for this tenant and app; None stands for any."""
        return tenant_id in (None, self.tenant_id) and client_id in (None, self.client_id)


def read_login(file: Path) -> Login | None:
    """Return the login that is kept in `file`, or None if there is none.

    Raises SettingsError if other users may read the file, or it is not a login.
    """
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"the login in {file} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077 and os.name != "nt":  # Windows has no such bits
        raise SettingsError(
            f"{file} contains a refresh token, and other users may read it: chmod 600 {file}"
        )
    try:
        facts = orjson.loads(content)
        return Login(
            **{
                name: str(facts[name])
                for name in ("tenant_id", "client_id", "authority", "username")
            },
            refresh_token=Secret(str(facts["refresh_token"])),
        )
    except (ValueError, KeyError, TypeError):
        raise SettingsError(
            f"{file} is not a login of bulkfetch; remove it and run `bulkfetch login` again"
        ) from None


def prepare_login_file(file: Path) -> None:
    """Make sure that a login can be kept in `file`, before a person signs in. Raises StorageError.

    A home may be read-only, or that of another user.
    """
    try:
        folder = file.resolve().parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _not_kept(error, file) from error


def _not_kept(error: OSError, file: Path) -> StorageError:
    advice = f"{called('login_file')} names another file"
    return StorageError(f"the login cannot be kept: {explain(error, file)}; {advice}")


@forgets_frames
def write_login(file: Path, login: Login) -> None:
    """Write a login to `file`, atomically and durably, readable by its owner only.

    Copies that killed processes left beside it are removed. Raises StorageError.
    """
    facts = {
        "tenant_id": login.tenant_id,
        "client_id": login.client_id,
        "authority": login.authority,
        "username": login.username,
        "refresh_token": login.refresh_token.reveal(),
    }
    try:
        target = file.resolve()  # a link stays one, and no older login stays where it leads to
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            temporary.unlink()
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(
                    orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
                )
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
            for copy in _copies(target):
                if _is_abandoned(copy):
                    copy.unlink(missing_ok=True)
            Disk().sync_directory(target.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise _not_kept(error, file) from error


def remove_login(file: Path) -> bool:
    """Remove the login in `file`, and every copy that a killed process left beside it.

    Returns whether there was one. Raises StorageError.
    """
    try:
        target = file.resolve()  # of a link, what it leads to is the login
        found = [path for path in (target, file) if os.path.lexists(path)] + _copies(target)
        for path in found:
            path.unlink(missing_ok=True)
        if found:
            Disk().sync_directory(target.parent)
    except OSError as error:
        raise StorageError(f"the login cannot be removed: {explain(error, file)}") from error
    return bool(found)


def _copies(file: Path) -> list[Path]:
    """Return the files that `write_login` of any process writes before it renames them."""
    try:
        beside = list(file.parent.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    is_copy = re.compile(rf"\.{re.escape(file.name)}\.[0-9]+\.tmp")
    return [path for path in beside if is_copy.fullmatch(path.name)]


def _is_abandoned(copy: Path) -> bool:
    """Return whether the process that wrote a copy has ended."""
    if os.name == "nt":  # there, signal 0 is not a question
        return False
    try:
        os.kill(int(copy.name.split(".")[-2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
