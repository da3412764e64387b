"""How flags are read and explained: settings as flags, kinds of values, errors of one line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field
from datetime import date, timedelta
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap
from typing import Any, NoReturn

from bulkfetch.billing.spelling import read_day
from bulkfetch.cli.terminal import USAGE
from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import flag_of, kind_of, settings_of, shown_default
from bulkfetch.settings.paths import expand_path
from bulkfetch.words import counted, printable

_GROUP_TITLES = {
    "service": "settings of the service",
    "sign_in": "settings for signing in",
    "archive": "settings of the archive",
    "storage": "settings of the object store",
    "catalog": "settings of the catalogue of Iceberg tables",
    "reconciliation": "settings of the comparison with the invoices",
}
_RARE = frozenset(
    {
        "graph_url",
        "operation_deadline_s",
        "page_size",
        "invoice_page_size",
        "max_requests_per_second",
        "usage_period",
        "max_attempts",
        "connect_timeout_s",
        "first_byte_timeout_s",
        "read_timeout_s",
        "patience_s",
        "max_page_bytes",
        "max_waiting_bytes",
        "login_file",
        "sign_in",
        "authority",
        "part_rows",
        "row_group_rows",
        "scratch_dir",
        "keep_snapshots",
        "storage_key_id",
        "storage_sas",
        "storage_region",
        "storage_endpoint",
        "storage_timeout_s",
        "storage_patience_s",
        "catalog",
        "catalog_namespace",
        "catalog_options",
        "money_tolerance",
    }
)
"""Settings that few people need: the help names them, and does not explain them."""
_OTHER_WAYS = (
    "Each can also be an environment variable (BULKFETCH_TOKEN for --token) or a key "
    "of the TOML file (token)."
)


class ParserExit(SystemExit):
    """The parser has printed help or a usage error; a SystemExit of others is none of ours."""

    def __init__(self, code: int, problem: str = "", advice: str = "") -> None:
        super().__init__(code)
        self.problem = problem
        self.advice = advice


class _HelpFormatter(argparse.HelpFormatter):
    """Leaves room for long flags, so that most explanations start beside theirs; does not explain
    rare settings nor options of the sandbox, and breaks no flag in two."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def add_argument(self, action: argparse.Action) -> None:
        if action.dest not in _RARE and not action.dest.startswith("sandbox_"):
            super().add_argument(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in self._split_lines(text, width))


class Parser(argparse.ArgumentParser):
    """A parser with errors of one line, and without abbreviations: scripts rely on the names.

    A word that fits nowhere is not shown: it may be a token whose flag was forgotten or misspelt.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=_HelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raise ParserExit after a line on stderr that says what is wrong."""
        message = re.sub(
            r"ignored explicit argument .*", "takes no value", message, flags=re.DOTALL
        )
        message = message.replace("invalid int value: ", "must be a whole number, not ")
        advice = f"see `{self.prog} --help`"
        sys.stderr.write(printable(f"{self.prog}: error: {message}; {advice}") + "\n")
        raise ParserExit(USAGE, message, advice)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise ParserExit to end the command, after a message to stderr if there is one."""
        if message:
            sys.stderr.write(message)
        raise ParserExit(status)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            advice = _suggest(str(value), choices) or f", choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice{advice}")


def refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """Refuse words that fit nowhere. Only the names of flags are shown: anything else may be a
    token."""
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    flags = [found[0] for word in unknown if (found := re.match(r"--[\w-]+", word))]
    if flags:
        parser.error(f"unknown argument {flags[0]}{_suggest(flags[0], known)}")
    parser.error(f"{counted(len(unknown), 'argument')} too many")


def _suggest(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return ""


def add_settings(
    parser: argparse.ArgumentParser,
    *groups: str,
    hidden: Collection[str] = (),
    without: Collection[str] = (),
) -> None:
    """Add `--config` and a flag for each setting of these groups, except those in `without`.

    The groups in `hidden` are accepted, but not shown by `--help`, which only names settings that
    few people need. A flag that is not given is not
    in the namespace either.
    """
    general = parser.add_argument_group("settings", _OTHER_WAYS)
    general.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="a TOML file of settings (default: config.toml in your configuration folder)",
    )
    added: set[str] = set(without)
    for name in (*groups, *hidden):
        settings = [each for each in settings_of(name) if each.name not in added]
        rare = [] if name in hidden else [each for each in settings if each.name in _RARE]
        group = parser.add_argument_group(_GROUP_TITLES[name], _point_to(rare))
        for setting in settings:
            _add_setting(group, setting, is_hidden=name in hidden)
            added.add(setting.name)


def _point_to(rare: Sequence[Field[Any]]) -> str | None:
    """Name the settings that the help does not explain, and say where they are explained."""
    if not rare:
        return None
    flags = ", ".join(flag_of(setting.name) for setting in rare)
    return f"Rarely needed, and explained in docs/settings.md: {flags}."


def _add_setting(group: argparse._ArgumentGroup, setting: Field[Any], *, is_hidden: bool) -> None:
    words = str(setting.metadata["sentence"])
    if default := shown_default(setting):
        words += f" Default: {default}."
    group.add_argument(
        flag_of(setting.name),
        dest=setting.name,
        metavar=kind_of(setting).metavar,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS if is_hidden else words,
    )


def whole_number(low: int) -> Callable[[str], int]:
    """Return what reads a whole number that is at least `low`."""

    def read(text: str) -> int:
        problem = f"must be a whole number, at least {low}, not {text!r}"
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(problem) from None
        if number < low:
            raise argparse.ArgumentTypeError(problem)
        return number

    return read


def parse_output(text: str) -> str:
    """Return the address of an archive. Raises ArgumentTypeError, as all of these do."""
    if not text:
        raise argparse.ArgumentTypeError("must name a directory; . is the current one")
    return text


def parse_file(text: str) -> Path:
    """Return the path of a file, with `~` and variables expanded."""
    try:
        return Path(expand_path(text))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def parse_day(text: str) -> date:
    """Return a day such as 2021-01-31."""
    try:
        return read_day(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_days(text: str) -> timedelta:
    """Return a number of days such as 90d."""
    match = re.fullmatch(r"([0-9]{1,5})d", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a number of days such as 90d, not {text!r}")
    return timedelta(days=int(match[1]))
