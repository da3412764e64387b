"""Every flag of every command; imports nothing heavy."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from bulkfetch import __version__
from bulkfetch.cli.running import SANDBOX_OPTIONS
from bulkfetch.cli.terminal import USAGE
from bulkfetch.settings.declared import Settings, flag_of, kind_of, variable_of
from bulkfetch.words import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flag `--config` and one for each setting. Flags not given leave nothing
    behind."""
    from argparse import SUPPRESS

    group = parser.add_argument_group("settings")
    group.add_argument(
        "--config",
        metavar="FILE",
        default=SUPPRESS,
        help="The TOML file with further settings "
        "(default: bulkfetch.toml here, else bulkfetch/config.toml in ~/.config; BULKFETCH_CONFIG)",
    )
    for setting in fields(Settings):
        shown = (
            f"default: {kind_of(setting).show(setting.default)}"
            if setting.default is not None
            else "no default"
        )
        group.add_argument(
            flag_of(setting.name),
            dest=setting.name,
            metavar=kind_of(setting).metavar,
            default=SUPPRESS,
            help=f"{setting.metadata['sentence']} ({shown}; {variable_of(setting.name)})",
        )


PERIODS = ("current", "previous")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviations: scripts rely on the
    names.

    A word that fits nowhere is not shown: with a flag misplaced or forgotten before it, it may be a
    token.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = re.sub(
            r"ignored explicit argument .*", "takes no value", message, flags=re.DOTALL
        )
        self.exit(
            USAGE, f"{printable(f'{self.prog}: error: {message}; see `{self.prog} --help`')}\n"
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            advice = _closest(str(value), choices) or f", choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice{advice}")


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser of all commands; those among `words` have their arguments.

    The arguments of the others would cost start-up time.
    """
    parser = _Parser(
        prog="bulkfetch",
        description="Archive all invoices of a Microsoft Partner Center tenant as exact, partitioned Parquet.",
        epilog="`bulkfetch export --sandbox DIR` shows it at work and needs no account.",
    )
    parser.add_argument("--version", action="version", version=f"bulkfetch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (summary, fill) in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}."
        )
        if name in words:
            fill(command)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command line. Raises SystemExit after help or a usage error."""
    parser = build_parser(words)
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        known = [
            option for option in arguments.parser._option_string_actions if option.startswith("--")
        ]
        _refuse(arguments.parser, unknown, known)
    return arguments


def _refuse(
    parser: argparse.ArgumentParser, unknown: Sequence[str], known: Sequence[str]
) -> NoReturn:
    """Refuse words that fit nowhere. Only the names of flags are shown: anything else may be a
    token."""
    flags = [found[0] for word in unknown if (found := re.match(r"--[\w-]+", word))]
    if flags:
        parser.error(f"unknown argument {flags[0]}{_closest(flags[0], known)}")
    parser.error(f"{len(unknown)} argument{'' if len(unknown) == 1 else 's'} too many")


def _closest(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # needed for messages only

    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _whole_number(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {low}, not {text!r}"
            )
        return number

    return read


def _output(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must name a directory; . is the current one")
    return text


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a day such as 2024-12-31, not {text!r}"
        ) from None


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output",
        metavar="OUT",
        type=_output,
        help="where to write the archive to: a directory, or an address such as s3://bucket/prefix, "
        "gs://bucket/prefix, az://container/prefix, abfss://container@account.dfs.core.windows.net/prefix",
    )
    parser.add_argument(
        "--plan", action="store_true", help="show what would be fetched, and fetch no line items"
    )
    parser.add_argument(
        "--documents",
        action="store_true",
        help="also save statements and tax receipts; needs app+user credentials",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    _verbosity_argument(parser)
    _selection_arguments(parser)
    _tenant_arguments(parser)
    parser.set_defaults(command="export:export", parser=parser, writes=True)


def _tenant_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where the invoices come from: a sandbox, or the settings."""
    sandbox = parser.add_argument_group("sandbox")
    sandbox.add_argument(
        "--sandbox", action="store_true", help="ask a made-up tenant: needs no account"
    )
    for name, meaning in SANDBOX_OPTIONS.items():
        metavar = {"faults": "FILE", "details": "PAIRS"}.get(name, "N")
        sandbox.add_argument(f"--sandbox-{name}", metavar=metavar, help=meaning)
    add_arguments(parser)


def _selection_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection")
    group.add_argument(
        "--since", type=_day, metavar="YYYY-MM-DD", help="invoices dated this day or later"
    )
    group.add_argument(
        "--until", type=_day, metavar="YYYY-MM-DD", help="invoices dated this day or earlier"
    )
    for flag, metavar, meaning in (
        ("--invoice", "ID", "this invoice"),
        ("--provider", "P", "details of this billing provider: office, azure …"),
        ("--line-item-type", "T", "details of this type: billing_line_items …"),
        (
            "--currency",
            "CODE",
            "with --unbilled, line items in this currency (default: those of the invoices)",
        ),
    ):
        group.add_argument(
            flag, action="append", default=[], metavar=metavar, help=f"{meaning}; may be repeated"
        )
    group.add_argument(
        "--unbilled",
        action="store_true",
        help="also a new snapshot of the line items that no invoice has yet",
    )


def _invoices_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    parser.set_defaults(parser=parser)
    listing = actions.add_parser("list", help="list the invoices of the tenant")
    listing.add_argument(
        "--size", type=_whole_number(1), metavar="N", help="only one page, of N invoices"
    )
    listing.add_argument(
        "--offset", type=_whole_number(0), metavar="N", help="where that page starts (default: 0)"
    )
    getting = actions.add_parser("get", help="show one invoice; needs app+user credentials")
    getting.add_argument("invoice", metavar="ID")
    estimating = actions.add_parser(
        "estimates", help="show which line items there are that no invoice has yet"
    )
    estimating.add_argument(
        "--currency", metavar="CODE", required=True, help="the currency, as in EUR"
    )
    summing = actions.add_parser(
        "summary", help="show the account in each currency; needs app+user credentials"
    )
    summing.add_argument(
        "--overall", action="store_true", help="only the one in the partner's own currency"
    )
    saving = actions.add_parser(
        "document", help="save an invoice's statement as PDF; needs app+user credentials"
    )
    saving.add_argument("invoice", metavar="ID")
    saving.add_argument(
        "--receipt", metavar="RID", help="the tax receipt of this id instead of the statement"
    )
    saving.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="where to (default: named for the invoice)",
    )
    for action, command in (
        (listing, "invoices:list_invoices"),
        (getting, "invoices:get_invoice"),
        (summing, "invoices:show_summaries"),
        (saving, "invoices:save_document"),
        (estimating, "invoices:list_estimates"),
    ):
        action.add_argument(
            "--json", action="store_true", help="print JSON lines, values as the server wrote them"
        )
        _verbosity_argument(action)
        add_arguments(action)
        action.set_defaults(command=command, parser=action)


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="say who one is, what that allows, and until when"
    )
    what.add_argument("--forget", action="store_true", help="remove the login that is kept")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _verbosity_argument(parser)
    add_arguments(parser)
    parser.set_defaults(command="login:login", parser=parser)


def _line_items_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "invoice", metavar="ID", help="the invoice, or `unbilled` for line items that none has yet"
    )
    parser.add_argument(
        "provider", metavar="PROVIDER", help="office, azure, one_time, marketplace or all"
    )
    parser.add_argument(
        "line_item_type", metavar="TYPE", help="billing_line_items or usage_line_items"
    )
    parser.add_argument(
        "--currency", metavar="CODE", help="the invoice's currency; modern usage wants it"
    )
    parser.add_argument(
        "--period",
        choices=PERIODS,
        help="the period of modern usage, or of what is unbilled (default: that of the settings, or current)",
    )
    parser.add_argument(
        "--table", action="store_true", help="print a table for people instead of JSON lines"
    )
    parser.add_argument("--columns", metavar="A,B,…", help="the columns of that table")
    parser.add_argument(
        "--limit", type=_whole_number(1), metavar="N", help="stop after N line items"
    )
    _verbosity_argument(parser)
    add_arguments(parser)
    parser.set_defaults(command="lineitems:print_line_items", parser=parser)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output", metavar="DIR", type=_output, help="the archive, as export was told it"
    )
    parser.add_argument(
        "--deep", action="store_true", help="read every line item as well, not only every byte"
    )
    parser.add_argument(
        "--against-server",
        action="store_true",
        help="also ask the server for its invoices and count its line items",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 also where line items do not add up to an invoice",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _verbosity_argument(parser)
    _tenant_arguments(parser)
    parser.set_defaults(command="verify:verify", parser=parser)


def _repair_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output", metavar="DIR", type=_output, help="the archive, as export was told it"
    )
    parser.add_argument(
        "--against-server",
        action="store_true",
        help="also fetch again what has other numbers of line items there",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    _verbosity_argument(parser)
    _tenant_arguments(parser)
    parser.set_defaults(command="repair:repair", parser=parser, writes=True)


def _schema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "detail",
        metavar="PROVIDER/TYPE",
        nargs="?",
        help="one detail, as office/billing_line_items, or invoices for the headers (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the schemas as JSON")
    parser.set_defaults(command="schema:show_schema", parser=parser)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the settings as JSON")
    add_arguments(parser)
    parser.set_defaults(command="config:show_config", parser=parser)


def _sandbox_arguments(parser: argparse.ArgumentParser) -> None:
    from bulkfetch.sandbox import add_arguments

    add_arguments(parser)
    parser.set_defaults(command="sandbox:serve", parser=parser)


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "export": ("archive invoices and their line items as Parquet", _export_arguments),
    "invoices": ("list the invoices, or show one", _invoices_arguments),
    "login": ("sign in as a person, or say who one is", _login_arguments),
    "line-items": ("print the line items of one detail", _line_items_arguments),
    "verify": ("check an archive against its commits and its invoices", _verify_arguments),
    "repair": ("fetch again what a verification faults", _repair_arguments),
    "schema": ("show the columns of each line-item type", _schema_arguments),
    "config": ("show the settings in force, and where each comes from", _config_arguments),
    "sandbox": ("serve a made-up Partner Center on this machine", _sandbox_arguments),
}


def _verbosity_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose",
        action="count",
        default=0,
        help="tell of retries, waits, changes of the limit and new tokens; twice: of every answer",
    )
