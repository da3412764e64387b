"""What a Python process of Spark needs to ask the service, as a value that goes with its code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bulkfetch.engine.handle import Handle
from bulkfetch.settings.declared import GROUPS, Settings, settings_of
from bulkfetch.settings.values import Secret


@dataclass(frozen=True, slots=True)
class Access:
    """How a process asks: with the limit and the tokens of a coordinator, or on its own.

    Whoever has it may ask the service. Spark sends it with the code of its tasks, and shows it
    nowhere; it must not become an option, a configuration or a row.
    """

    settings: Settings
    """With credentials only if there is no coordinator."""
    handle: Handle | None = None
    """Where the coordinator is."""
    list_every_s: float = 60.0
    """How often, at most, the invoices are listed for a stream, or for the frames of a
    coordinator."""
    idle_s: float = 60.0
    """How long a process keeps a connection that it does not use: its next task may come soon."""


def shared_access(settings: Settings, handle: Handle, *, list_every_s: float = 60.0) -> Access:
    """Return what processes get that a coordinator serves: no credentials."""
    return Access(without_credentials(settings), handle, list_every_s)


def own_access(settings: Settings, *, tasks: int, list_every_s: float = 60.0) -> Access:
    """Return what each of `tasks` processes at once gets that asks on its own: the credentials, and
    an equal share of what may be sent.

    A process sends at least one request at a time.
    """
    return Access(share_of(settings, tasks, "sign_in"), list_every_s=list_every_s)


def share_of(settings: Settings, tasks: int, *but: str) -> Settings:
    """Return the settings of one of `tasks` processes that share what may be sent, without any
    secret but those of the groups `but`."""
    rate = settings.max_requests_per_second
    return replace(
        without_secrets(settings, *but),
        max_in_flight=max(1, settings.max_in_flight // tasks),
        max_requests_per_second=None if rate is None else rate / tasks,
    )


def without_credentials(settings: Settings) -> Settings:
    """Return settings that cannot sign in, nor open an object store or a catalogue."""
    nobody: dict[str, Any] = {each.name: each.default for each in settings_of("sign_in")}
    return replace(without_secrets(settings), **nobody)


def without_secrets(settings: Settings, *but: str) -> Settings:
    """Return settings without any secret, those of the groups `but` aside."""
    kept = {each.name for each in settings_of(*but)}
    secret: dict[str, Any] = {
        each.name: None
        for each in settings_of(*GROUPS)
        if each.name not in kept and isinstance(getattr(settings, each.name), Secret)
    }
    return replace(settings, **secret)
