"""What a Python process of Spark needs to ask the service, as a value that goes with its code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings, kind_of, settings_of
from bulkfetch.settings.values import SECRET


@dataclass(frozen=True, slots=True)
class Access:
    """The settings of each process; whoever has it may ask the service.

    It has credentials. Spark sends it with the code of its tasks, and shows it nowhere; it must
    not become an option, a configuration or a row.
    """

    settings: Settings
    list_every_s: float = 60.0
    """How often, at most, a stream lists the invoices."""
    idle_s: float = 60.0
    """How long a process keeps a connection that it does not use: its next task may come soon."""


def access_for(settings: Settings, *, tasks: int, list_every_s: float = 60.0) -> Access:
    """Return what each of `tasks` processes at once gets: an equal share of what may be sent.

    A process sends at least one request at a time. Credentials of object stores stay here: nobody
    stores anything.
    """
    if tasks < 1:
        raise SettingsError(f"tasks: must be at least 1, not {tasks}")
    rate = settings.max_requests_per_second
    shared: dict[str, Any] = {
        "max_in_flight": max(1, settings.max_in_flight // tasks),
        "max_requests_per_second": None if rate is None else rate / tasks,
    }
    shared |= {each.name: None for each in settings_of("storage") if kind_of(each) is SECRET}
    return Access(replace(settings, **shared), list_every_s)
