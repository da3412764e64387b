"""`bulkfetch config`: the settings in force, and the proxies that they lead to."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, print_result, say
from bulkfetch.settings.sources import (
    SettingLine,
    describe,
    describe_routes,
    warn_of_exceptions,
)


def show_config(arguments: argparse.Namespace) -> int:
    """Print every setting and where it came from, and which proxy leads to which host."""
    loaded = load(arguments)
    lines, routes = describe(loaded), describe_routes(loaded)
    for warning in warn_of_exceptions():
        say(f"warning: {warning}")
    if arguments.json:
        print_result(_to_dict(lines) | {"proxies": _to_dict(routes)})
        return COMPLETE
    shown = [_line(line, 23) for line in lines]
    print_result([*shown, "", "Requests go through these proxies:"])
    print_result([_line(line, max(len(each.name) for each in routes)) for line in routes])
    return COMPLETE


def _to_dict(lines: list[SettingLine]) -> dict[str, dict[str, str]]:
    return {line.name: {"value": line.value, "source": line.source} for line in lines}


def _line(line: SettingLine, width: int) -> str:
    return f"{line.name:<{width}} {line.value:<50} {line.source}"
