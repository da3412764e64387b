"""Every command and its arguments; imports nothing heavy.

A command is named as text, `module:function` in `cli/commands`: `main` imports the one that runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TypeAlias

from bulkfetch import __version__
from bulkfetch.billing.spelling import PERIODS
from bulkfetch.cli.flags import (
    Parser,
    ParserExit,
    add_settings,
    parse_day,
    parse_days,
    parse_file,
    parse_output,
    refuse,
    whole_number,
)
from bulkfetch.cli.terminal import USAGE
from bulkfetch.settings.declared import (
    GROUPS,
)

SANDBOX_OPTIONS = {
    "invoices": ("N", "how many invoices the made-up tenant has"),
    "line-items": ("N", "how many line items each of their details has"),
    "details": ("PAIRS", "its details, as office/billing_line_items,azure/…, or `every`"),
    "seed": ("N", "the number that its ids, names and amounts are drawn from"),
    "latency-ms": ("N", "how many milliseconds each answer takes"),
    "faults": ("FILE", "a TOML file of faults; see `bulkfetch sandbox --list-faults`"),
}
"""Options of `bulkfetch sandbox` that other commands pass on as `--sandbox-NAME`."""
_Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
TABLE_FORMATS = ("delta", "iceberg")
"""The names of `tables.formats.FORMATS`, which would load more than a parser may."""
_LINE_ITEMS = "line-items"
"""The command that prints JSON lines unless a table is asked for."""


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser of all commands; those among `words` have their arguments.

    The arguments of the others would cost start-up time.
    """
    parser = Parser(
        prog="bulkfetch",
        description="Archive all invoices of a Microsoft Partner Center tenant as exact, "
        "partitioned Parquet.",
        epilog="`bulkfetch export --sandbox DIR` shows it at work and needs no account.",
    )
    parser.add_argument("--version", action="version", version=f"bulkfetch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (summary, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}."
        )
        if name in words:
            add_arguments(command)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command line. Raises ParserExit after help or a usage error."""
    parser = build_parser(words)
    if not words:
        parser.print_help(sys.stderr)
        raise ParserExit(USAGE)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        refuse(arguments.parser, unknown)
    arguments.prints_json = prints_json(words)
    return arguments


def prints_json(words: Sequence[str]) -> bool:
    """Return whether a command line, right or wrong, asks for JSON on stdout."""
    flags = {word.partition("=")[0] for word in _before_dashes(words)}
    is_lines = words[:1] == [_LINE_ITEMS] and not flags & {"--table", "--columns"}
    return "--json" in flags or is_lines


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    """Return the words before `--`, after which none is a flag."""
    if "--" in words:
        return words[: words.index("--")]
    return words


def _set_command(
    parser: argparse.ArgumentParser, command: str, positionals: str = "", *, writes: bool = False
) -> None:
    """Say which function runs, and keep the first line of the help short: it would list every flag.

    `writes` says whether the command writes to an archive.
    """
    parser.usage = f"{parser.prog} [OPTION ...] {positionals}".rstrip()
    parser.set_defaults(command=command, parser=parser, writes=writes)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output",
        metavar="DIR",
        type=parse_output,
        help="the archive: a directory, or an address in an object store: s3://bucket/prefix, "
        "gs://…, az://… or abfss://…",
    )


def _add_json(parser: argparse.ArgumentParser, words: str = "print the result as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=words)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose",
        action="count",
        default=0,
        help="log retries, waits, limits and new tokens; given twice, every answer",
    )


def _add_sandbox(parser: argparse.ArgumentParser, *, is_hidden: bool = False) -> None:
    """Add `--sandbox` and its options; `--help` only names these, or hides them too."""
    options = ", ".join(f"--sandbox-{name}" for name in SANDBOX_OPTIONS)
    about = f"Explained by `bulkfetch sandbox --help`: {options}."
    group = parser if is_hidden else parser.add_argument_group("sandbox", about)
    group.add_argument(
        "--sandbox", action="store_true", help="ask a made-up tenant: needs no account"
    )
    for name, (metavar, words) in SANDBOX_OPTIONS.items():
        group.add_argument(
            f"--sandbox-{name}",
            metavar=metavar,
            type=parse_file if metavar == "FILE" else str,
            help=argparse.SUPPRESS if is_hidden else words,
        )


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--plan", action="store_true", help="show what would be fetched, and fetch no line items"
    )
    parser.add_argument(
        "--documents",
        action="store_true",
        help="also save statements and tax receipts; needs app+user credentials",
    )
    parser.add_argument(
        "--take-new",
        action="append",
        default=[],
        metavar="INVOICE",
        help="fetch this invoice again and take what comes, whatever is archived; may be repeated",
    )
    parser.add_argument(
        "--recheck",
        action="store_true",
        help="ask Microsoft Graph again for all selected exports; without it, once a day for those "
        "of the last two billing periods",
    )
    parser.add_argument(
        "--tables",
        action="append",
        default=[],
        choices=TABLE_FORMATS,
        help="also keep tables of this format up to date, as `bulkfetch tables sync` does; may be "
        "repeated",
    )
    _add_json(parser)
    _add_quiet(parser)
    _add_verbose(parser)
    _add_selection(parser)
    _add_sandbox(parser)
    add_settings(parser, *GROUPS)
    _set_command(parser, "export:export", "DIR", writes=True)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection")
    group.add_argument(
        "--since", type=parse_day, metavar="YYYY-MM-DD", help="invoices dated this day or later"
    )
    group.add_argument(
        "--until", type=parse_day, metavar="YYYY-MM-DD", help="invoices dated this day or earlier"
    )
    for flag, metavar, words in (
        ("--invoice", "ID", "this invoice"),
        ("--provider", "PROVIDER", "details of this billing provider: office, azure …"),
        ("--line-item-type", "TYPE", "details of this type: billing_line_items …"),
        (
            "--currency",
            "CODE",
            "with --unbilled, line items in this currency (default: those of the invoices)",
        ),
    ):
        group.add_argument(
            flag, action="append", default=[], metavar=metavar, help=f"{words}; may be repeated"
        )
    group.add_argument(
        "--allow-empty",
        action="store_true",
        help="no error where the tenant does not have the selected providers, types or days (yet), "
        "or no invoice at all any more; an --invoice that does not exist always is one",
    )
    group.add_argument(
        "--unbilled",
        action="store_true",
        help="also a new snapshot of the line items that are on no invoice yet",
    )


def _add_invoices(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    parser.set_defaults(parser=parser)
    listing = _add_list(actions)
    getting = actions.add_parser("get", help="show one invoice; needs app+user credentials")
    getting.add_argument("invoice", metavar="ID", help="the id of the invoice")
    for action, command, positionals, without in (
        (listing, "list_invoices", "", _LINE_ITEM_PAGES),
        (getting, "get_invoice", "ID", _ALL_PAGES),
        (_add_estimates(actions), "list_estimates", "--currency CODE", _ALL_PAGES),
        (_add_summary(actions), "show_summaries", "", _ALL_PAGES),
        (_add_document(actions), "save_document", "ID", _ALL_PAGES),
    ):
        _add_json(action, "print JSON lines with the values as the server wrote them")
        _add_verbose(action)
        add_settings(action, "service", "sign_in", without=without)
        _set_command(action, f"invoices:{command}", positionals)


_LINE_ITEM_PAGES = ("page_size", "usage_period")
_ALL_PAGES = ("invoice_page_size", *_LINE_ITEM_PAGES)


def _add_list(actions: _Actions) -> argparse.ArgumentParser:
    listing = actions.add_parser("list", help="list the invoices of the tenant")
    listing.add_argument(
        "--size", type=whole_number(1), metavar="N", help="only one page, of N invoices"
    )
    listing.add_argument(
        "--offset", type=whole_number(0), metavar="N", help="where that page starts (default: 0)"
    )
    _add_sandbox(listing)
    return listing


def _add_estimates(actions: _Actions) -> argparse.ArgumentParser:
    estimating = actions.add_parser(
        "estimates", help="show which line items there are that are on no invoice yet"
    )
    estimating.add_argument(
        "--currency", metavar="CODE", required=True, help="the currency, as in EUR"
    )
    return estimating


def _add_summary(actions: _Actions) -> argparse.ArgumentParser:
    summing = actions.add_parser(
        "summary", help="show the account in each currency; needs app+user credentials"
    )
    summing.add_argument(
        "--overall", action="store_true", help="only the summary in the partner's own currency"
    )
    return summing


def _add_document(actions: _Actions) -> argparse.ArgumentParser:
    saving = actions.add_parser(
        "document", help="save an invoice's statement as PDF; needs app+user credentials"
    )
    saving.add_argument("invoice", metavar="ID", help="the id of the invoice")
    saving.add_argument(
        "--receipt", metavar="RID", help="the tax receipt of this id instead of the statement"
    )
    saving.add_argument(
        "-o",
        "--output",
        dest="file",
        metavar="FILE",
        type=parse_file,
        help="the file to write (default: named after the invoice)",
    )
    return saving


def _add_login(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--check",
        action="store_true",
        help="show who is signed in, what the token allows, and until when",
    )
    choice.add_argument("--forget", action="store_true", help="remove the login that is kept")
    parser.add_argument(
        "--save-shapes",
        metavar="FILE",
        type=parse_file,
        help="with --check, ask Microsoft Graph for one export, and save the names and kinds of "
        "what it answers, without values, for a bug report",
    )
    _add_json(parser)
    _add_verbose(parser)
    add_settings(parser, "service", "sign_in", without=_ALL_PAGES)
    _set_command(parser, "login:login")


def _add_line_items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "invoice",
        metavar="ID",
        help="the invoice, or `unbilled` for line items that are on no invoice yet",
    )
    parser.add_argument(
        "provider", metavar="PROVIDER", help="office, azure, one_time, marketplace or all"
    )
    parser.add_argument(
        "line_item_type", metavar="TYPE", help="billing_line_items or usage_line_items"
    )
    parser.add_argument(
        "--currency", metavar="CODE", help="the invoice's currency; modern usage needs it"
    )
    parser.add_argument(
        "--period",
        choices=PERIODS,
        help="the period of modern usage (default: usage_period), or of unbilled line items "
        "(default: current)",
    )
    _add_json(parser, "print JSON lines, as without --table and --columns")
    parser.add_argument(
        "--table", action="store_true", help="print a table for people instead of JSON lines"
    )
    parser.add_argument(
        "--columns",
        metavar="A,B,…",
        help="a table of these columns; upper and lower case are the same",
    )
    parser.add_argument(
        "--limit", type=whole_number(1), metavar="N", help="stop after N line items"
    )
    _add_verbose(parser)
    _add_sandbox(parser)
    add_settings(parser, "service", "sign_in", without=("invoice_page_size",))
    _set_command(parser, "lineitems:print_line_items", "ID PROVIDER TYPE")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--deep", action="store_true", help="also read every line item, not only bytes"
    )
    parser.add_argument(
        "--files",
        action="store_true",
        help="check the files alone, not whether the archive is complete",
    )
    parser.add_argument(
        "--against-server",
        dest="command",
        action="store_const",
        const="recount:verify_against_server",
        help="also compare with the server's line items",
    )
    _add_json(parser)
    _add_verbose(parser)
    _add_sandbox(parser, is_hidden=True)
    add_settings(parser, "reconciliation", "catalog", "storage", hidden=("service", "sign_in"))
    parser.epilog = (
        "--against-server also takes the settings of the service and for signing in, and the "
        "options of --sandbox: `bulkfetch export --help` shows them."
    )
    _set_command(parser, "verify:verify", "DIR")


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    _add_json(parser)
    add_settings(parser, "reconciliation", "storage")
    _set_command(parser, "show:show", "DIR")


def _add_report(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--html",
        metavar="FILE",
        required=True,
        help="the file to write; - is the standard output",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace FILE even if it is not such a page",
    )
    _add_json(parser, "print what was written as JSON")
    add_settings(parser, "reconciliation", "storage")
    _set_command(parser, "report:report", "DIR --html FILE")


def _add_repair(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--against-server",
        action="store_true",
        help="also re-fetch transfers whose number of line items differs on the server",
    )
    _add_json(parser)
    _add_quiet(parser)
    _add_verbose(parser)
    _add_sandbox(parser)
    add_settings(parser, *GROUPS)
    _set_command(parser, "repair:repair", "DIR", writes=True)


def _add_accept(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "invoices", metavar="INVOICE", nargs="+", help="an invoice whose difference is understood"
    )
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="why the invoice differs, for the record"
    )
    _add_json(parser)
    add_settings(parser, "reconciliation", "storage")
    _set_command(parser, "accept:accept", "DIR INVOICE ...")


def _add_prune(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--older-than",
        type=parse_days,
        metavar="DAYS",
        required=True,
        help="delete what was replaced longer ago than this, as in 90d",
    )
    _add_json(parser)
    add_settings(parser, "storage")
    _set_command(parser, "prune:prune", "DIR --older-than DAYS")


def _add_tables(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    parser.set_defaults(parser=parser)
    syncing = actions.add_parser(
        "sync", help="make tables of Delta or Iceberg say what the commits of an archive say"
    )
    status = actions.add_parser("status", help="show what a sync of the tables would change")
    for action, function in ((syncing, "sync"), (status, "status")):
        _add_output(action)
        _add_json(action)
        add_settings(action, "catalog", "storage")
        _set_command(action, f"tables:{function}", "DIR", writes=action is syncing)
    syncing.add_argument(
        "--format",
        action="append",
        required=True,
        dest="formats",
        choices=TABLE_FORMATS,
        help="the format of the tables; may be repeated",
    )
    syncing.add_argument(
        "--compact",
        action="store_true",
        help="also make tables of few large files, as copies in _bulkfetch/tables, of Delta alone",
    )
    syncing.usage = f"{syncing.prog} [OPTION ...] --format FORMAT DIR"


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "detail",
        metavar="PROVIDER/TYPE",
        nargs="?",
        help="one detail, as office/billing_line_items, or invoices for the headers (default: all)",
    )
    _add_json(parser, "print the schemas as JSON")
    _set_command(parser, "schema:show_schema", "[PROVIDER/TYPE]")


def _add_config(parser: argparse.ArgumentParser) -> None:
    _add_json(parser, "print the settings as JSON")
    add_settings(parser, *GROUPS)
    _set_command(parser, "config:show_config")


def _add_sandbox_command(parser: argparse.ArgumentParser) -> None:
    import_module("bulkfetch.sandbox.command").add_arguments(parser)
    _set_command(parser, "sandbox:serve")


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "export": ("archive invoices and their line items as Parquet", _add_export),
    "invoices": ("list the invoices, or show one", _add_invoices),
    "login": ("sign in, or show who is signed in", _add_login),
    _LINE_ITEMS: ("print the line items of one detail", _add_line_items),
    "show": ("show what an archive has, what it lacks, and how its last run ended", _add_show),
    "report": ("write a page about an archive: charges, differences, runs", _add_report),
    "verify": ("check an archive against its commits and its invoices", _add_verify),
    "repair": ("re-fetch what `verify` found damaged", _add_repair),
    "accept": ("record that the difference of an invoice is understood", _add_accept),
    "prune": ("delete old generations of what has been replaced", _add_prune),
    "tables": ("keep tables of Delta or Iceberg beside an archive", _add_tables),
    "schema": ("show the columns of each line-item type", _add_schema),
    "config": ("show the settings in force, and where each comes from", _add_config),
    "sandbox": ("serve a made-up Partner Center on this machine", _add_sandbox_command),
}
