"""A small deterministic Partner Center on loopback, to try, test and measure bulkfetch with.

It is a program of its own and shares nothing with the downloader that it tests. Importing it only
defines names: the server is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkfetch.sandbox.command import add_arguments as add_arguments
    from bulkfetch.sandbox.command import options_from_arguments as options_from_arguments
    from bulkfetch.sandbox.command import run as run
    from bulkfetch.sandbox.faults import Fault as Fault
    from bulkfetch.sandbox.faults import Faults as Faults
    from bulkfetch.sandbox.graph.options import GraphOptions as GraphOptions
    from bulkfetch.sandbox.options import SandboxOptions as SandboxOptions
    from bulkfetch.sandbox.server import RunningGraph as RunningGraph
    from bulkfetch.sandbox.server import RunningSandbox as RunningSandbox
    from bulkfetch.sandbox.server import make_app as make_app
    from bulkfetch.sandbox.server import serve as serve
    from bulkfetch.sandbox.tenant import Detail as Detail
    from bulkfetch.sandbox.tenant import Invoice as Invoice
    from bulkfetch.sandbox.tenant import Tenant as Tenant

_HOMES = {
    "Detail": "tenant",
    "Fault": "faults",
    "Faults": "faults",
    "GraphOptions": "graph.options",
    "Invoice": "tenant",
    "RunningGraph": "server",
    "RunningSandbox": "server",
    "SandboxOptions": "options",
    "Tenant": "tenant",
    "add_arguments": "command",
    "make_app": "server",
    "options_from_arguments": "command",
    "run": "command",
    "serve": "server",
}
"""The module of each public name."""

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bulkfetch.sandbox' has no attribute {name!r}")
    value = getattr(import_module(f"bulkfetch.sandbox.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
