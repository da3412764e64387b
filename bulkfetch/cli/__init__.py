"""The command line: each command is one function that returns an exit code.

0 everything committed and verified, 1 something was not, 2 usage or settings, 3 a bug of ours; ended by a signal, 128
plus its number as shells have it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP. Results go to stdout,
progress and messages to stderr. Heavy modules are imported inside the commands: `--help` comes without them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bulkfetch import __version__
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ForeignLinkError,
    HttpStatusError,
    MalformedBodyError,
    OutputError,
    RequestError,
    SettingsError,
    StorageError,
    TransferError,
    printable,
)
from bulkfetch.settings import sources as config

if TYPE_CHECKING:
    import pyarrow as pa

    from bulkfetch.billing.schemas import Field
    from bulkfetch.client import Client, LineItems
    from bulkfetch.partnercenter.invoices import Invoice
    from bulkfetch.runs.plan import Plan, Selection, Transfer
    from bulkfetch.settings.sources import Settings
    from bulkfetch.stats import RunStats
    from bulkfetch.storage.store import Store

T = TypeVar("T")

COMPLETE, INCOMPLETE, USAGE, BUG = 0, 1, 2, 3
PERIODS = ("current", "previous")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Nothing is raised: this is the last of the places where errors are caught.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = argparse.Namespace(command=None)
    try:
        _prepare_streams()
        arguments = _parsed(words)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else USAGE
    except (SettingsError, OutputError) as error:
        return _failed(error, USAGE)
    except BulkfetchError as error:
        return _failed(error, INCOMPLETE)
    except KeyboardInterrupt as stop:
        return _farewell(arguments, stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:  # whoever read our results has enough of them
        _drop_stdout()
        return COMPLETE
    except Exception as error:
        return _bug(error)


def _prepare_streams() -> None:
    """Make standard streams that were closed harmless, and results UTF-8 wherever a program reads them."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # the same
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")


def _drop_stdout() -> None:
    with suppress(OSError):  # a stream of tests, without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: BulkfetchError, code: int) -> int:
    _say(f"error: {error}{_advice(error)}")
    return code


def _advice(error: BulkfetchError) -> str:
    """Say what the reader can do; every Partner Center has an invoice list, so where it has none, what to check."""
    listing = isinstance(error, RequestError) and error.facts is not None and error.facts.path == "/invoices"
    elsewhere = isinstance(error, MalformedBodyError | ForeignLinkError | ConnectionFailedError) or (
        isinstance(error, HttpStatusError) and error.status == 404
    )
    if listing and elsewhere:
        return "; is the base URL that of Partner Center? `bulkfetch config` shows it"
    if not isinstance(error, RequestError | TransferError):
        return ""
    from bulkfetch.wire.refusals import advice_on  # loaded by now: it made the error

    advice = advice_on(error)
    return f"; {advice}" if advice else ""


def _farewell(arguments: argparse.Namespace, number: int) -> int:
    """Say what a signal has ended, and return the exit code that goes with it."""
    cause = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    writes = arguments.command is _repair or (arguments.command is _export and not arguments.plan)
    advice = "; what is committed or whole is kept: run the same command again to go on" if writes else ""
    _say(f"{cause}{advice}")
    return 128 + number


def _bug(error: Exception) -> int:
    import traceback

    with suppress(OSError):
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(printable(line), file=sys.stderr)
    _say("this is a bug in bulkfetch; please report it with the lines above. What is committed is kept")
    return BUG


def _say(message: str) -> None:
    with suppress(OSError):  # nobody may be listening any more
        print(printable(f"bulkfetch: {message}"), file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviations: scripts rely on the names.

    A word that fits nowhere is not shown: with a flag misplaced or forgotten before it, it may be a token.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"ignored explicit argument .*", "takes no value", message, flags=re.DOTALL)
        self.exit(USAGE, f"{printable(f'{self.prog}: error: {message}; see `{self.prog} --help`')}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            advice = _closest(str(value), choices) or f", choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice{advice}")


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="bulkfetch",
        description="Archive all invoices of a Microsoft Partner Center tenant as exact, partitioned Parquet.",
        epilog="`bulkfetch export --sandbox DIR` shows it at work and needs no account.",
    )
    parser.add_argument("--version", action="version", version=f"bulkfetch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (summary, fill) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")
        if name in words:  # the arguments of the others would cost start-up time
            fill(command)
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(USAGE)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        known = [option for option in arguments.parser._option_string_actions if option.startswith("--")]
        _refuse(arguments.parser, unknown, known)
    return arguments


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str], known: Sequence[str]) -> NoReturn:
    """Refuse words that fit nowhere. Only the names of flags are shown: anything else may be a token."""
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
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {low}, not {text!r}")
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
        raise argparse.ArgumentTypeError(f"must be a day such as 2024-12-31, not {text!r}") from None


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "output",
        metavar="OUT",
        type=_output,
        help="where to write the archive to: a directory, or an address such as s3://bucket/prefix, "
        "gs://bucket/prefix, az://container/prefix, abfss://container@account.dfs.core.windows.net/prefix",
    )
    parser.add_argument("--plan", action="store_true", help="show what would be fetched, and fetch no line items")
    parser.add_argument(
        "--documents", action="store_true", help="also save statements and tax receipts; needs app+user credentials"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    _verbosity_argument(parser)
    _selection_arguments(parser)
    _tenant_arguments(parser)
    parser.set_defaults(command=_export, parser=parser)


def _tenant_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where the invoices come from: a sandbox, or the settings."""
    sandbox = parser.add_argument_group("sandbox")
    sandbox.add_argument("--sandbox", action="store_true", help="ask a made-up tenant: needs no account")
    for name, meaning in _SANDBOX_OPTIONS.items():
        metavar = {"faults": "FILE", "details": "PAIRS"}.get(name, "N")
        sandbox.add_argument(f"--sandbox-{name}", metavar=metavar, help=meaning)
    config.add_arguments(parser)


_SANDBOX_OPTIONS = {
    "invoices": "invoices of the made-up tenant",
    "line-items": "line items of each of their details",
    "details": "what their details are, as office/billing_line_items,azure/usage_line_items, or every",
    "seed": "what the made-up tenant is drawn from",
    "latency-ms": "milliseconds that each answer takes",
    "faults": "a TOML file of faults to rehearse; `bulkfetch sandbox --list-faults` shows what it may say",
}


def _selection_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection")
    group.add_argument("--since", type=_day, metavar="YYYY-MM-DD", help="invoices dated this day or later")
    group.add_argument("--until", type=_day, metavar="YYYY-MM-DD", help="invoices dated this day or earlier")
    for flag, metavar, meaning in (
        ("--invoice", "ID", "this invoice"),
        ("--provider", "P", "details of this billing provider: office, azure …"),
        ("--line-item-type", "T", "details of this type: billing_line_items …"),
        ("--currency", "CODE", "with --unbilled, line items in this currency (default: those of the invoices)"),
    ):
        group.add_argument(flag, action="append", default=[], metavar=metavar, help=f"{meaning}; may be repeated")
    group.add_argument(
        "--unbilled", action="store_true", help="also a new snapshot of the line items that no invoice has yet"
    )


def _export(arguments: argparse.Namespace) -> int:
    with _settings(arguments) as settings:
        selection = _selection(arguments)
        return (_show_plan if arguments.plan else _run_export)(arguments, settings, selection)


def _run_export(arguments: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    from bulkfetch.runs.export import export_async
    from bulkfetch.runs.report import failure_lines
    from bulkfetch.stats import RunStats

    stats = RunStats()
    report = _run(
        arguments,
        lambda: export_async(
            arguments.output,
            settings,
            selection=selection,
            documents=arguments.documents,
            stats=stats,
            source=_sandbox_named(arguments),
        ),
        progress=None if arguments.quiet else stats,
    )
    code = COMPLETE if report.complete else INCOMPLETE
    try:
        _print(report.to_dict() if arguments.json else report.lines())
    except BrokenPipeError:  # nobody reads the report; the exit code still says how it went
        _drop_stdout()
    if arguments.json:
        for line in failure_lines(report.failures):
            _say(line)
    return code


def _sandbox_named(arguments: argparse.Namespace) -> str | None:
    """Name the tenant of a sandbox of ours, so that no archive takes another's; None for any other server."""
    if not arguments.sandbox:
        return None
    from bulkfetch.sandbox import SandboxOptions

    default = SandboxOptions()
    seed = default.seed if arguments.sandbox_seed is None else int(arguments.sandbox_seed)
    line_items = default.line_items if arguments.sandbox_line_items is None else int(arguments.sandbox_line_items)
    details = f", details {arguments.sandbox_details}" if arguments.sandbox_details else ""
    return f"sandbox, seed {seed}, {line_items} line items{details}"


def _show_plan(arguments: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    from bulkfetch.archive.documents import committed_documents, documents_of
    from bulkfetch.runs.export import already_committed, plan_only
    from bulkfetch.runs.report import counted

    store = _store_at(arguments.output, settings)
    plan = _run(arguments, lambda: plan_only(settings, selection))
    committed = already_committed(store, plan.transfers) if store else {}
    to_fetch = [transfer for transfer in plan.transfers if transfer.unbilled or transfer not in committed]
    documents = documents_of(plan.invoices) if arguments.documents else ()
    saved = committed_documents(store, documents) if store else {}
    to_save = [document for document in documents if document not in saved]
    if arguments.json:
        facts = _plan_dict(plan, to_fetch)
        facts["documents"] = [{"document": str(each), "committed": each in saved} for each in documents]
        facts["requests_at_least"] += len(to_save)
        _print(facts)
    else:
        _print(_plan_lines(plan, to_fetch, settings.page_size))
        if documents:
            _print([f"and {len(to_save):,} of {counted(len(documents), 'document')}, one request each"])
    return COMPLETE


def _store_at(output: str, settings: Settings) -> Store | None:
    """Return the archive at `output`, or None if nothing is there yet: a plan makes none.

    Raises OutputError if an export could not write to what is there.
    """
    from bulkfetch.archive.layout import ARCHIVE
    from bulkfetch.storage.opening import is_there, prepare_output

    return prepare_output(output, settings, ARCHIVE) if is_there(output) else None


def _plan_dict(plan: Plan, to_fetch: Sequence[Transfer]) -> dict[str, Any]:
    return {
        "invoices": [invoice.id for invoice in plan.invoices],
        "transfers": [
            {
                "invoice_id": each.invoice_id,
                "provider": each.provider,
                "line_item_type": each.line_item_type,
                **dict(zip(("period", "currency"), each.unbilled, strict=False)),
                "committed": each not in to_fetch,
            }
            for each in plan.transfers
        ],
        "requests_at_least": len(to_fetch),
    }


def _plan_lines(plan: Plan, to_fetch: Sequence[Transfer], page_size: int) -> list[str]:
    from bulkfetch.runs.report import counted

    pending = set(to_fetch)
    lines = [f"{each}{'' if each in pending else ' (committed)'}" for each in plan.transfers]
    lines.append(
        f"{counted(len(plan.invoices), 'invoice')}, {counted(len(plan.transfers), 'transfer')}, "
        f"{len(plan.transfers) - len(to_fetch):,} of them committed before"
    )
    lines.append(
        f"at least {counted(len(to_fetch), 'request')} to come, one for every {page_size:,} line items of a "
        "transfer; the API does not tell beforehand how many there are"
    )
    return lines


def _selection(arguments: argparse.Namespace) -> Selection:
    from bulkfetch.runs.plan import Selection, currency_code

    return Selection(
        since=arguments.since,
        until=arguments.until,
        invoices=tuple(arguments.invoice),
        providers=tuple(arguments.provider),
        line_item_types=tuple(arguments.line_item_type),
        unbilled=arguments.unbilled,
        currencies=tuple(map(currency_code, arguments.currency)),
    )


def _invoices_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    parser.set_defaults(parser=parser)
    listing = actions.add_parser("list", help="list the invoices of the tenant")
    listing.add_argument("--size", type=_whole_number(1), metavar="N", help="only one page, of N invoices")
    listing.add_argument("--offset", type=_whole_number(0), metavar="N", help="where that page starts (default: 0)")
    getting = actions.add_parser("get", help="show one invoice; needs app+user credentials")
    getting.add_argument("invoice", metavar="ID")
    estimating = actions.add_parser("estimates", help="show which line items there are that no invoice has yet")
    estimating.add_argument("--currency", metavar="CODE", required=True, help="the currency, as in EUR")
    summing = actions.add_parser("summary", help="show the account in each currency; needs app+user credentials")
    summing.add_argument("--overall", action="store_true", help="only the one in the partner's own currency")
    saving = actions.add_parser("document", help="save an invoice's statement as PDF; needs app+user credentials")
    saving.add_argument("invoice", metavar="ID")
    saving.add_argument("--receipt", metavar="RID", help="the tax receipt of this id instead of the statement")
    saving.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to (default: named for the invoice)")
    for action, command in (
        (listing, _list_invoices),
        (getting, _get_invoice),
        (summing, _show_summaries),
        (saving, _save_document),
        (estimating, _list_estimates),
    ):
        action.add_argument("--json", action="store_true", help="print JSON lines, values as the server wrote them")
        _verbosity_argument(action)
        config.add_arguments(action)
        action.set_defaults(command=command, parser=action)


def _list_invoices(arguments: argparse.Namespace) -> int:
    from bulkfetch.client import Client

    if arguments.offset is not None and arguments.size is None:
        arguments.parser.error("--offset is the start of one page: give its --size too")
    offset = arguments.offset or 0

    async def listed() -> tuple[list[Invoice], bool]:
        async with Client(settings) as client:
            if arguments.size is None:
                return [invoice async for invoice in client.invoices], False
            page = await client.invoices.page(arguments.size, offset)
            return list(page.items), page.has_more

    with _settings(arguments) as settings:
        invoices, has_more = _run(arguments, listed)
    if arguments.json:
        _print_json_lines(_json_lines(invoices))
    else:
        _print(_invoice_table(invoices))
    if has_more:
        _say(f"more invoices follow: --offset {offset + arguments.size}")
    return COMPLETE


def _get_invoice(arguments: argparse.Namespace) -> int:
    from bulkfetch.client import Client

    async def got() -> Invoice:
        async with Client(settings) as client:
            return await client.invoices.by_id(arguments.invoice).get()

    with _settings(arguments) as settings:
        invoice = _run(arguments, got)
    if arguments.json:
        _print_json_lines(_json_lines([invoice]))
    else:
        _print(_invoice_lines(invoice))
    return COMPLETE


def _show_summaries(arguments: argparse.Namespace) -> int:
    from bulkfetch.client import Client
    from bulkfetch.decoding.jsontext import dumps
    from bulkfetch.partnercenter.summaries import InvoiceSummary
    from bulkfetch.tables import TextTable

    async def got() -> tuple[InvoiceSummary, ...]:
        async with Client(settings) as client:
            invoices = client.invoices
            return (await invoices.summary(),) if arguments.overall else await invoices.summaries()

    with _settings(arguments) as settings:
        summaries = _run(arguments, got)
    if arguments.json:
        _print_json_lines([dumps(each.source) for each in summaries])
        return COMPLETE
    entries = [
        (kind, summary)
        for each in summaries
        for kind, summary in [("all", each), *((detail.invoice_type, detail.summary) for detail in each.details)]
    ]
    rows = [
        {
            "currency": summary.currency_code,
            "invoices": kind,
            "balance": summary.balance_amount,
            "first": summary.first_invoice_creation_date and summary.first_invoice_creation_date.date(),
            "latest": summary.latest_invoice_date and summary.latest_invoice_date.date(),
            "last payment": summary.last_payment_date and summary.last_payment_date.date(),
            "paid": summary.last_payment_amount,
        }
        for kind, summary in entries
    ]
    _print(TextTable(list(rows[0])).lines(rows) if rows else ["the account has no invoices yet"])
    return COMPLETE


def _save_document(arguments: argparse.Namespace) -> int:
    from bulkfetch.archive.documents import Document
    from bulkfetch.client import Client
    from bulkfetch.runs.report import counted

    document = Document(arguments.invoice, arguments.receipt or "")
    file: Path = arguments.output or Path(document.name.name)
    if not file.parent.is_dir():
        raise SettingsError(f"--output: there is no directory {file.parent}")

    async def saved() -> int:
        async with Client(settings) as client:
            return await client.invoices.by_id(arguments.invoice).save_document(file, arguments.receipt)

    with _settings(arguments) as settings:
        size = _run(arguments, saved)
    if arguments.json:
        _print({"file": str(file), "size_bytes": size})
    else:
        _print([f"{file}: {counted(size, 'byte')}"])
    return COMPLETE


def _list_estimates(arguments: argparse.Namespace) -> int:
    from bulkfetch.client import Client
    from bulkfetch.decoding.jsontext import dumps
    from bulkfetch.estimates import Estimate
    from bulkfetch.tables import TextTable

    async def listed() -> tuple[Estimate, ...]:
        async with Client(settings) as client:
            return await client.invoices.estimates(arguments.currency)

    with _settings(arguments) as settings:
        estimates = _run(arguments, listed)
    if arguments.json:
        _print_json_lines([dumps(each.source) for each in estimates])
    else:
        columns = ["type", "period", "title", "link"]
        rows = [{name: getattr(each, name) for name in columns} for each in estimates]
        _print(TextTable(columns, max_width=200).lines(rows) if rows else ["there are none"])
    return COMPLETE


def _json_lines(invoices: Sequence[Invoice]) -> list[str]:
    from bulkfetch.decoding.jsontext import dumps

    return [dumps(invoice.whole_source()) for invoice in invoices]


def _invoice_table(invoices: Sequence[Invoice]) -> list[str]:
    """Lay invoices out for people, each amendment below the invoice it came in."""
    from bulkfetch.partnercenter.invoices import flattened
    from bulkfetch.runs.report import counted
    from bulkfetch.tables import TextTable

    everything = list(flattened(invoices))
    rows = [
        {
            "id": invoice.id,
            "date": invoice.invoice_date.date() if invoice.invoice_date else None,
            "type": invoice.document_type,
            "charges": invoice.total_charges,
            "currency": invoice.currency_code,
            "amends": invoice.amends_of or invoice.amendment_of,
            "details": ", ".join(_detail_names(invoice)),
        }
        for invoice in everything
    ]
    columns = ["id", "date", "type", "charges", "currency", "amends", "details"]
    lines = TextTable(columns, max_width=200).lines(rows)
    counts = counted(len(invoices), "invoice"), counted(len(everything) - len(invoices), "amendment")
    return [*lines, f"{counts[0]}, {counts[1]}"]


def _invoice_lines(invoice: Invoice) -> list[str]:
    """Lay one invoice out for people: its plain fields, its details, its amendments."""
    from bulkfetch.decoding.jsontext import Pairs

    nested = list, Pairs
    facts = [(name, value) for name, value in invoice.source if not isinstance(value, nested)]
    facts += [("details", name) for name in _detail_names(invoice)]
    facts += [("amendments", amendment.id) for amendment in invoice.amendments]
    facts += [("tax receipts", receipt.id) for receipt in invoice.tax_receipts]
    width = max(len(name) for name, _ in facts)
    return [f"{printable(name):<{width}}  {printable(str(value))}".rstrip() for name, value in facts]


def _detail_names(invoice: Invoice) -> list[str]:
    return [f"{detail.billing_provider}/{detail.invoice_line_item_type}" for detail in invoice.details]


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="say who one is, what that allows, and until when")
    what.add_argument("--forget", action="store_true", help="remove the login that is kept")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _verbosity_argument(parser)
    config.add_arguments(parser)
    parser.set_defaults(command=_login, parser=parser)


def _login(arguments: argparse.Namespace) -> int:
    settings = _loaded(arguments).settings
    if arguments.check:
        return _check_login(arguments, settings)
    if arguments.forget:
        return _forget_login(settings)
    from bulkfetch.partnercenter.whoami import log_in

    login = _run(arguments, lambda: log_in(settings, _say))
    if arguments.json:
        facts = {"user": login.username or None, "tenant_id": login.tenant_id, "client_id": login.client_id}
        _print({**facts, "login_file": str(settings.login_file)})
    else:
        _print([f"signed in{f' as {login.username}' if login.username else ''}; kept in {settings.login_file}"])
    return COMPLETE


def _check_login(arguments: argparse.Namespace, settings: Settings) -> int:
    from datetime import UTC, datetime

    from bulkfetch.partnercenter.whoami import check_login

    config.check_credentials(settings)
    report = _run(arguments, lambda: check_login(settings))
    _print(report.to_dict() if arguments.json else report.lines(datetime.now(UTC)))
    return INCOMPLETE if report.invoices else COMPLETE


def _forget_login(settings: Settings) -> int:
    from bulkfetch.signin.logins import remove_login

    file = settings.login_file
    removed = file is not None and remove_login(file)
    _print([f"{file}: {'removed' if removed else 'there was no login'}"])
    return COMPLETE


def _line_items_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("invoice", metavar="ID", help="the invoice, or `unbilled` for line items that none has yet")
    parser.add_argument("provider", metavar="PROVIDER", help="office, azure, one_time, marketplace or all")
    parser.add_argument("line_item_type", metavar="TYPE", help="billing_line_items or usage_line_items")
    parser.add_argument("--currency", metavar="CODE", help="the invoice's currency; modern usage wants it")
    parser.add_argument(
        "--period",
        choices=PERIODS,
        help="the period of modern usage, or of what is unbilled (default: that of the settings, or current)",
    )
    parser.add_argument("--table", action="store_true", help="print a table for people instead of JSON lines")
    parser.add_argument("--columns", metavar="A,B,…", help="the columns of that table")
    parser.add_argument("--limit", type=_whole_number(1), metavar="N", help="stop after N line items")
    _verbosity_argument(parser)
    config.add_arguments(parser)
    parser.set_defaults(command=_line_items, parser=parser)


def _line_items(arguments: argparse.Namespace) -> int:
    with _settings(arguments) as settings:
        try:
            _run(arguments, lambda: _print_line_items(arguments, settings))
        except TransferError as error:
            refusal = error.__cause__
            if isinstance(refusal, HttpStatusError) and refusal.status in (400, 404):
                raise TransferError(f"{error}. {_line_items_hint(arguments)}") from refusal
            raise
    return COMPLETE


def _line_items_hint(arguments: argparse.Namespace) -> str:
    """Say what may be wrong where line items are refused that somebody asked for by name."""
    from bulkfetch.periods import SINCE, explanation
    from bulkfetch.runs.plan import Transfer, api_spelling

    transfer = Transfer(arguments.invoice, api_spelling(arguments.provider), api_spelling(arguments.line_item_type))
    period = f"; {explanation(transfer)}" if transfer.is_modern and transfer.line_item_type in SINCE else ""
    return f"`bulkfetch invoices list` shows the invoices and their details{period}"


async def _print_line_items(arguments: argparse.Namespace, settings: Settings) -> None:
    from contextlib import aclosing
    from dataclasses import replace

    from bulkfetch.client import Client, python_value
    from bulkfetch.decoding.jsontext import dumps
    from bulkfetch.tables import TextTable, telling_columns

    left = sys.maxsize if arguments.limit is None else arguments.limit
    settings = replace(settings, page_size=min(settings.page_size, left))
    columns = [name for name in (arguments.columns or "").split(",") if name]
    table: TextTable | None = None
    async with Client(settings) as client:
        items = _line_items_of(client, arguments)
        async with aclosing(items.sources()) as pages:
            async for page in pages:
                shown = page[:left]
                left -= len(shown)
                if arguments.table or columns:
                    rows = [python_value(item) for item in shown]
                    if table is None:
                        _check_columns(columns, rows, items.transfer)
                        table = TextTable(columns or telling_columns(rows))
                    _print(table.lines(rows))
                else:
                    _print_json_lines([dumps(item) for item in shown])
                if left <= 0:
                    return


def _line_items_of(client: Client, arguments: argparse.Namespace) -> LineItems:
    if arguments.invoice.casefold() != "unbilled":
        return client.invoices.by_id(arguments.invoice).by(
            arguments.provider, arguments.line_item_type, currency=arguments.currency, period=arguments.period
        )
    if arguments.currency is None:
        raise SettingsError("unbilled line items are those of one currency: give --currency, as in EUR")
    return client.invoices.unbilled(
        arguments.line_item_type,
        currency=arguments.currency,
        period=arguments.period or "current",
        provider=arguments.provider,
    )


def _check_columns(columns: Sequence[str], rows: Sequence[dict[str, Any]], transfer: Transfer) -> None:
    """Refuse columns that neither the first line items have nor their type declares."""
    from bulkfetch.billing.schemas import schema_of

    declared = schema_of(transfer.provider, transfer.line_item_type)
    known = {name for row in rows for name in row}
    known |= {field.name for field in declared.fields} if declared else set()
    for name in columns:
        if name not in known:
            raise SettingsError(f"--columns: there is no {name!r}; there are {', '.join(sorted(known))}")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="DIR", type=_output, help="the archive, as export was told it")
    parser.add_argument("--deep", action="store_true", help="read every line item as well, not only every byte")
    parser.add_argument(
        "--against-server", action="store_true", help="also ask the server for its invoices and count its line items"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 also where line items do not add up to an invoice"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _verbosity_argument(parser)
    _tenant_arguments(parser)
    parser.set_defaults(command=_verify, parser=parser)


def _verify(arguments: argparse.Namespace) -> int:
    from bulkfetch.runs.verify import verify
    from bulkfetch.storage.addresses import parse_address

    settings = None if parse_address(arguments.output) is None else _loaded(arguments).settings
    report = verify(arguments.output, deep=arguments.deep, settings=settings)
    if arguments.against_server:
        from bulkfetch.runs.recount import verify_against_server

        with _settings(arguments) as settings:
            report = _run(arguments, partial(verify_against_server, report, settings))
    _print(report.to_dict() if arguments.json else report.lines())
    return COMPLETE if report.sound and (report.reconciled or not arguments.strict) else INCOMPLETE


def _repair_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="DIR", type=_output, help="the archive, as export was told it")
    parser.add_argument(
        "--against-server", action="store_true", help="also fetch again what has other numbers of line items there"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    _verbosity_argument(parser)
    _tenant_arguments(parser)
    parser.set_defaults(command=_repair, parser=parser)


def _repair(arguments: argparse.Namespace) -> int:
    from bulkfetch.runs.repair import repair_async
    from bulkfetch.stats import RunStats

    stats = RunStats()
    with _settings(arguments) as settings:
        report = _run(
            arguments,
            lambda: repair_async(
                arguments.output,
                settings,
                with_server=arguments.against_server,
                stats=stats,
                source=_sandbox_named(arguments),
            ),
            progress=None if arguments.quiet else stats,
        )
    _print(report.to_dict() if arguments.json else report.lines())
    return COMPLETE if report.sound else INCOMPLETE


def _schema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "detail",
        metavar="PROVIDER/TYPE",
        nargs="?",
        help="one detail, as office/billing_line_items, or invoices for the headers (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the schemas as JSON")
    parser.set_defaults(command=_schema, parser=parser)


def _schema(arguments: argparse.Namespace) -> int:
    from bulkfetch.billing.schemas import DECLARED, INVOICE, INVOICE_ARROW

    names = {
        f"{provider}/{line_item_type}": (schema.resource, _columns(schema.arrow, schema.fields))
        for (provider, line_item_type), schema in DECLARED.items()
    }
    names["invoices"] = ("Invoice", _columns(INVOICE_ARROW, INVOICE))
    if arguments.detail is not None and arguments.detail not in names:
        raise SettingsError(f"there is no schema {arguments.detail!r}; there are {', '.join(names)}")
    chosen = names if arguments.detail is None else {arguments.detail: names[arguments.detail]}
    facts = {name: columns for name, (_, columns) in chosen.items()}
    if arguments.json:
        _print(facts)
        return COMPLETE
    for name, columns in facts.items():
        _print([f"{name} ({chosen[name][0]})"])
        _print(
            [
                f"  {column['name']:<38} {column['type']:<31} "
                f"{'' if column['nullable'] else 'not null':<9} {column['source']}"
                for column in columns
            ]
        )
    return COMPLETE


def _columns(schema: pa.Schema, fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Return the columns of a schema as plain values; `source` says where the field is known from."""
    sources = {field.name: field.source.value for field in fields}
    return [
        {
            "name": column.name,
            "type": str(column.type),
            "nullable": column.nullable,
            "source": sources.get(column.name, "bulkfetch"),
        }
        for column in schema
    ]


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the settings as JSON")
    config.add_arguments(parser)
    parser.set_defaults(command=_config, parser=parser)


def _config(arguments: argparse.Namespace) -> int:
    loaded = _loaded(arguments)
    lines = config.describe(loaded)
    if arguments.json:
        _print({line.name: {"value": line.value, "source": line.source} for line in lines})
    else:
        _print([f"{line.name:<22} {line.value:<50} {line.source}" for line in lines])
    return COMPLETE


def _sandbox_arguments(parser: argparse.ArgumentParser) -> None:
    from bulkfetch.sandbox import add_arguments

    add_arguments(parser)
    parser.set_defaults(command=_sandbox, parser=parser)


def _sandbox(arguments: argparse.Namespace) -> int:
    from bulkfetch.sandbox import options_from_arguments, run

    try:
        options = options_from_arguments(arguments)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return run(options)


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


def _loaded(arguments: argparse.Namespace) -> config.LoadedSettings:
    loaded = config.load_settings(vars(arguments), os.environ, cwd=Path.cwd())
    for warning in loaded.warnings:
        _say(f"warning: {warning}")
    return loaded


@contextmanager
def _settings(arguments: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings in force; with --sandbox, those of a sandbox that lives as long as the block."""
    settings = _loaded(arguments).settings
    given = {name: getattr(arguments, f"sandbox_{name.replace('-', '_')}", None) for name in _SANDBOX_OPTIONS}
    flags = [flag for name, value in given.items() if value is not None for flag in (f"--{name}", value)]
    if getattr(arguments, "sandbox", False):
        from dataclasses import replace

        from bulkfetch.sandbox.process import spawned

        with spawned(flags) as sandbox:
            yield replace(settings, base_url=sandbox.base_url, token=config.Secret(sandbox.token), sign_in="auto")
        return
    if flags:
        arguments.parser.error(f"--sandbox-{flags[0].removeprefix('--')} is for the sandbox: give --sandbox too")
    config.check_credentials(settings)
    yield settings


def _run(arguments: argparse.Namespace, work: Callable[[], Awaitable[T]], *, progress: RunStats | None = None) -> T:
    """Run `work` in an event loop, with its progress on stderr.

    Raises KeyboardInterrupt with the number of the signal that ended it.
    """
    import gc

    import anyio

    from bulkfetch.cli.progress import show_progress
    from bulkfetch.cli.signals import Signalled, until_signalled

    verbose = _tell_what_happens(arguments.verbose)

    async def shown() -> T:
        terminal, clock = sys.stderr.isatty() and not verbose, anyio.current_time
        async with (
            nullcontext()
            if progress is None
            else show_progress(progress, stream=sys.stderr, terminal=terminal, clock=clock)
        ):
            return await work()

    async def until_told() -> T | Signalled:
        return await until_signalled(shown, farewell=partial(_farewell, arguments))

    _save_memory()
    gc.freeze()  # modules live as long as the run: looking through them over and over cost a tenth of its CPU
    outcome = anyio.run(until_told)
    if isinstance(outcome, Signalled):
        raise KeyboardInterrupt(outcome.number)
    return outcome


def _save_memory() -> None:
    """Let all threads allocate from one heap, where that can be said: freed pages are then used again by the others.

    With a heap for each thread, and pyarrow's own besides, runs peaked a quarter higher, and took no less time.
    """
    import ctypes

    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


_M_ARENA_MAX = -8  # of glibc's malloc.h


def _tell_what_happens(verbosity: int) -> bool:
    """Show the log of the run on stderr as well, if that was asked for; only our own words, never a library's."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s" if verbosity else "bulkfetch: %(message)s"))
    logger = logging.getLogger("bulkfetch")
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logger.propagate = False
    return verbosity > 0


def _verbosity_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose",
        action="count",
        default=0,
        help="tell of retries, waits, changes of the limit and new tokens; twice: of every answer",
    )


def _print(result: dict[str, Any] | list[str]) -> None:
    """Write a result to stdout: facts as JSON, or lines for people, in which nothing can act on the terminal."""
    _write([json.dumps(result, indent=2)] if isinstance(result, dict) else [printable(line) for line in result])


def _print_json_lines(lines: Sequence[str]) -> None:
    """Write JSON lines to stdout, with the control characters that JSON leaves as they are written as escapes."""
    _write([re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines])


def _write(lines: Sequence[str]) -> None:
    """Write lines to stdout. Raises BrokenPipeError if nobody reads it, StorageError if it is refused."""
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_stdout()
        raise StorageError(f"the standard output cannot be written to: {error.strerror}") from error
