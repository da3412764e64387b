"""Connections: which authorities are trusted, and why one could not be made."""

from __future__ import annotations

import errno
import socket
import ssl

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import ServiceSettings
from bulkfetch.words import printable

_MAX_WORDS = 200
_NO_SUCH_HOST = "there is no host of that name: check its spelling, and the name server"
_CONNECTION_WORDS = {
    errno.ECONNREFUSED: "it refuses connections: does a server listen there, and let you through?",
    errno.ENETUNREACH: "there is no route to it: is this machine online?",
    errno.EHOSTUNREACH: "there is no route to it: is this machine online?",
    errno.ETIMEDOUT: "it does not answer: a firewall may be in between",
    errno.ECONNRESET: "it closes the connection at once",
}


def ssl_context(settings: ServiceSettings) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those in `ca_file`. Raises
    SettingsError if that cannot be read."""
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"ca_file {settings.ca_file} is not a readable PEM bundle: {error}"
            ) from error
    return context


def words_of(error: OSError) -> str:
    """Say why no connection could be made, and what to check."""
    if isinstance(error, socket.gaierror) or "DNS" in type(error).__name__:
        return _NO_SUCH_HOST
    return _CONNECTION_WORDS.get(error.errno or 0) or f"it cannot be reached ({words_in(error)})"


def words_in(error: Exception) -> str:
    """Return the text of an exception on one line, or its name if it has none."""
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Return what others wrote on one line, and not more of it than is useful."""
    return printable(text)[:_MAX_WORDS].strip()
