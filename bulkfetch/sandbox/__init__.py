"""A small deterministic Partner Center on loopback, to try bulkfetch on, test it and measure it.

A program of its own: it shares nothing with the downloader that it is there to test.
"""

from __future__ import annotations

from bulkfetch.sandbox.command import add_arguments, options_from_arguments, run
from bulkfetch.sandbox.faults import Fault, Faults
from bulkfetch.sandbox.options import SandboxOptions
from bulkfetch.sandbox.server import RunningSandbox, make_app, serve
from bulkfetch.sandbox.tenant import Detail, Invoice, Tenant

__all__ = [
    "Detail",
    "Fault",
    "Faults",
    "Invoice",
    "RunningSandbox",
    "SandboxOptions",
    "Tenant",
    "add_arguments",
    "make_app",
    "options_from_arguments",
    "run",
    "serve",
]
