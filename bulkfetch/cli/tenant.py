"""The tenant that a command asks: the one that the settings name, or a sandbox."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bulkfetch import sandbox
from bulkfetch.cli.parser import SANDBOX_OPTIONS
from bulkfetch.cli.terminal import say
from bulkfetch.sandbox.process import SpawnedSandbox, spawn
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.proxies import except_for, route_to
from bulkfetch.settings.sources import LoadedSettings, load_settings_of_process
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials

SANDBOX_NEWEST = "2024-05"
"""The month of the newest invoice of --sandbox: some new commerce is in the v1 API, and some in
Microsoft Graph."""


def load(arguments: argparse.Namespace) -> LoadedSettings:
    """Read the settings, and show their warnings."""
    loaded = load_settings_of_process(vars(arguments))
    notes = () if getattr(arguments, "quiet", False) else loaded.notes
    for warning in (*loaded.warnings, *notes):
        say(f"warning: {warning}")
    return loaded


@contextmanager
def open_settings(arguments: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings in force; with --sandbox, those of a sandbox that runs meanwhile."""
    settings = load(arguments).settings
    given = _sandbox_options(arguments)
    if getattr(arguments, "sandbox", False):
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        words += ["--newest", SANDBOX_NEWEST]
        with spawn(words) as running:
            yield _settings_of(running, settings)
        return
    for name in given:
        arguments.parser.error(f"--sandbox-{name} is for the sandbox: give --sandbox too")
    check_credentials(settings)
    for url in filter(None, (settings.base_url, settings.graph_url)):
        route_to(url, settings.proxy)  # refuses a proxy that cannot be used
    yield settings


def _settings_of(running: SpawnedSandbox, settings: Settings) -> Settings:
    """Return the settings for a sandbox: its addresses, which no proxy leads to, and its tokens."""
    proxy = settings.proxy
    for url in (running.base_url, running.graph_url, running.blob_url):
        proxy = except_for(proxy, url)
    return replace(
        settings,
        base_url=running.base_url,
        graph_url=running.graph_url,
        token=Secret(running.token),
        graph_token=Secret(running.graph_token),
        sign_in="auto",
        proxy=proxy,
    )


def _sandbox_options(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the options for the sandbox that were given."""
    found = {}
    for name in SANDBOX_OPTIONS:
        value = getattr(arguments, f"sandbox_{name.replace('-', '_')}", None)
        if value is not None:
            found[name] = str(value)
    return found


def name_sandbox(arguments: argparse.Namespace) -> str | None:
    """Name the tenant of a sandbox, so that no archive mixes two; None for any other server."""
    if not arguments.sandbox:
        return None
    given, default = _sandbox_options(arguments), sandbox.SandboxOptions()
    seed = int(given.get("seed", default.seed))
    line_items = int(given.get("line-items", default.line_items))
    name = f"sandbox, seed {seed}, {line_items} line items"
    if arguments.sandbox_details:
        name += f", details {arguments.sandbox_details}"
    return name
