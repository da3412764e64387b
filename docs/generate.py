"""Writes the pages that follow from the code: the commands, the settings, and the map in code.md.

`python docs/generate.py` writes them; with `--check` it only says which are not current.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGE = ROOT / "bulkfetch"
sys.path.insert(0, str(ROOT))

from bulkfetch.cli.parser import build_parser  # noqa: E402  the package beside this folder
from bulkfetch.settings.declared import (  # noqa: E402
    flag_of,
    kind_of,
    setting_names,
    settings_of,
    shown_default,
)

FOLDERS = (
    "cli",
    "html",
    "engine",
    "client",
    "maintenance",
    "runs",
    "tables",
    "archive",
    "partnercenter",
    "graph",
    "signin",
    "wire",
    "storage",
    "billing",
    "decoding",
    "settings",
    "runlog",
    "logguard",
    "strangers",
    "words",
    "budget",
    "stats",
    "errors",
    "sandbox",
)
"""The folders and modules at the top, so that each imports only from those after it; the sandbox is
a program of its own."""

COMMANDS_HEAD = """\
# Commands

This page is made from the command line itself, by `python docs/generate.py`.
`bulkfetch COMMAND --help` says the same.

Results go to stdout (`--json` for machines, [failures](failures.md#failures-as-json) included),
progress and messages to stderr.
[Exit codes](failures.md#exit-codes) have a page of their own. `DIR` and `OUT` are a directory, or
an address in an [object store](object-stores.md).
"""

SETTINGS_HEAD = """\
# Settings

This page is made from the declared settings, by `python docs/generate.py`.

Each setting can be given in three places; the first one wins:

1. a flag: `--page-size 500`,
2. an environment variable: `BULKFETCH_PAGE_SIZE=500`,
3. a key of a TOML file: `page_size = 500`. The file is the one that `--config FILE` or
   `BULKFETCH_CONFIG` names, else `config.toml` in your configuration folder.

[Where settings and credentials come from](environment.md) has the rest: which folder that is, what
else is read, and what is not.

`bulkfetch config` shows the settings in force and where each comes from, with secrets hidden.
Flags are visible to other users of the machine in the process list, so give secrets as variables
or in the file.
"""

GROUP_TITLES = {
    "service": "Partner Center",
    "sign_in": "Signing in",
    "archive": "The archive",
    "storage": "Object stores",
    "catalog": "Iceberg tables",
    "reconciliation": "The comparison with the invoices",
}

MAP_BEGIN, MAP_END = "<!-- map: begin -->\n", "<!-- map: end -->\n"


def commands_page() -> str:
    """Return the page of commands, with the arguments of each and the settings that it uses."""
    names = list(_commands_of(build_parser([])))
    commands = list(_leaves(_commands_of(build_parser(names))))
    lines = [COMMANDS_HEAD, "| command | what it does |", "| --- | --- |"]
    for command in commands:
        link = command.prog.replace(" ", "-")
        lines.append(f"| [`{command.prog}`](#{link}) | {_escaped(_summary_of(command))} |")
    for command in commands:
        lines += ["", f"## {command.prog}", "", *_command_lines(command)]
    return "\n".join(lines) + "\n"


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands, or of the actions of a command, by name."""
    for action in parser._actions:  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):
            return {name: _with_help(action, name) for name in action.choices}
    return {}


def _with_help(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str
) -> argparse.ArgumentParser:
    """Return the parser of a command, with the sentence that the list of commands shows of it."""
    parser: argparse.ArgumentParser = commands.choices[name]
    shown = {choice.dest: choice.help for choice in commands._choices_actions}
    parser.description = parser.description or shown.get(name) or ""
    return parser


def _leaves(
    commands: dict[str, argparse.ArgumentParser],
) -> Iterator[argparse.ArgumentParser]:
    for parser in commands.values():
        actions = _commands_of(parser)
        yield from _leaves(actions) if actions else [parser]


def _summary_of(parser: argparse.ArgumentParser) -> str:
    summary = (parser.description or "").split(". ")[0].rstrip(".")
    return summary[:1].upper() + summary[1:]


def _command_lines(command: argparse.ArgumentParser) -> list[str]:
    lines = [f"{_summary_of(command)}.", "", "| argument | meaning |", "| --- | --- |"]
    settings = []
    for action in command._actions:
        if action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        if action.dest in (*setting_names(), "config") and action.option_strings:
            settings.append(action.dest)
        else:
            lines.append(f"| {_shown(action)} | {_escaped(_sentence(action.help))} |")
    used = [name for name in setting_names() if name in settings]
    if used == setting_names():
        lines += ["", "Takes all [settings](settings.md)."]
    elif used:
        flags = ", ".join(f"`{flag_of(name)}`" for name in used)
        lines += ["", f"Takes these [settings](settings.md): {flags}."]
    return lines


def _shown(action: argparse.Action) -> str:
    """Return how an argument is written."""
    value = action.metavar or (
        f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return f"`{value}`" if action.nargs != "?" else f"`[{value}]`"
    takes_none = action.nargs == 0
    return ", ".join(
        f"`{option}`" if takes_none else f"`{option} {value}`" for option in action.option_strings
    )


def _sentence(text: str | None) -> str:
    text = (text or "").replace("%%", "%")
    return text[:1].upper() + text[1:]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def settings_page() -> str:
    """Return the page of settings, with the default of each and the sentence that explains it."""
    lines = [SETTINGS_HEAD.rstrip()]
    shown: set[str] = set()
    for group, title in GROUP_TITLES.items():
        lines += ["", f"## {title}", "", "| setting | default | meaning |", "| --- | --- | --- |"]
        for setting in settings_of(group):
            if setting.name not in shown:
                lines.append(_setting_line(setting))
            shown.add(setting.name)
    return "\n".join(lines) + "\n"


def _setting_line(setting: Field[Any]) -> str:
    default, metavar = shown_default(setting), kind_of(setting).metavar
    meaning = setting.metadata["sentence"]
    if "|" in metavar:
        meaning += f" One of {', '.join(f'`{word}`' for word in metavar.split('|'))}."
    return f"| `{setting.name}` | {_escaped(default)} | {_escaped(meaning)} |"


def code_page() -> str:
    """Return code.md with its map made again."""
    before, _, rest = (DOCS / "code.md").read_text().partition(MAP_BEGIN)
    _, _, after = rest.partition(MAP_END)
    return f"{before}{MAP_BEGIN}{code_map()}{MAP_END}{after}"


def code_map() -> str:
    """Return the map: each folder and module of the package, with the first sentence of it."""
    lines = []
    for name in FOLDERS:
        folder = PACKAGE / name
        if folder.is_dir():
            lines += ["", f"**{name}/** {_first_sentence(folder / '__init__.py')}", ""]
            for path in sorted(folder.rglob("*.py")):
                module = path.relative_to(folder).with_suffix("").as_posix()
                module = module.replace("/__init__", "/")
                if module != "__init__":
                    lines.append(f"* `{module}` {_first_sentence(path)}")
        else:
            lines += ["", f"**{name}.py** {_first_sentence(folder.with_suffix('.py'))}"]
    return "\n".join(lines)[1:] + "\n"


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


PAGES = {"commands.md": commands_page, "settings.md": settings_page, "code.md": code_page}


def main() -> int:
    """Write the pages, or with `--check` name those that are not current and return 1."""
    outdated = []
    for name, make in PAGES.items():
        page, text = DOCS / name, make()
        if page.exists() and page.read_text() == text:
            continue
        outdated.append(name)
        if "--check" not in sys.argv:
            page.write_text(text)
    if outdated and "--check" in sys.argv:
        print(f"not current: {', '.join(outdated)}; run `python docs/generate.py`")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
