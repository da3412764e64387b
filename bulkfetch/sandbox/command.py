"""The sandbox as a command: its arguments, and serving until a signal."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import fields
from typing import Any, NoReturn

import orjson

from bulkfetch.sandbox.faults import KINDS, NO_FAULTS, Fault, Faults, read_faults
from bulkfetch.sandbox.graph.arguments import add_graph_arguments
from bulkfetch.sandbox.graph.options import GraphOptions
from bulkfetch.sandbox.options import (
    MARKS,
    PAST_END,
    PROVIDERS_AND_TYPES,
    USER_STATES,
    SandboxOptions,
)
from bulkfetch.sandbox.server import RunningSandbox, serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an argument for each field of SandboxOptions."""
    tenant = parser.add_argument_group("the tenant")
    _number(tenant, "seed", "the number that every id, name and amount is drawn from")
    _number(tenant, "invoices", "invoices in the list")
    _text(tenant, "newest", "the month of the newest invoice, or the day of new commerce in it")
    _number(tenant, "line-items", "line items of each detail of each invoice")
    _number(tenant, "line-items-spread", "how far those counts vary, from 0 to 1")
    _number(
        tenant,
        "unbilled-line-items",
        "line items of each type and currency that are on no invoice yet",
    )
    tenant.add_argument(
        "--details",
        type=_read_pairs,
        default=(),
        metavar="PAIRS",
        help=f"details of every invoice, separated by commas: {', '.join(PROVIDERS_AND_TYPES)}; "
        "or `every` (default: those that real tenants offer)",
    )
    _number(tenant, "document-bytes", "the size of each PDF in bytes, about")
    _number(tenant, "amendments", "modern invoices with an amendment")
    _number(tenant, "unreconciled", "invoices whose total is not the sum of their line items")
    _add_access(parser.add_argument_group("who may ask"))
    _add_answers(parser.add_argument_group("how it answers"))
    add_graph_arguments(parser.add_argument_group("Microsoft Graph and its blobs"))
    wrong = parser.add_argument_group("what it gets wrong")
    _add_faults(wrong)
    wrong.add_argument(
        "--faults",
        type=_read_faults_file,
        default=NO_FAULTS,
        metavar="FILE",
        help="a TOML file of faults, each a table [[fault]]",
    )
    wrong.add_argument(
        "--list-faults", action=_ListFaults, help="show the kinds of faults, and the keys of a rule"
    )
    _switch(parser, "until-stdin-closes", "serve until the standard input ends")


def options_from_arguments(arguments: argparse.Namespace) -> SandboxOptions:
    """Return the options that were given. Raises ValueError if they contradict each other."""
    own = [field.name for field in fields(SandboxOptions) if field.name != "graph"]
    graph = {
        field.name: getattr(arguments, f"graph_{field.name}") for field in fields(GraphOptions)
    }
    return SandboxOptions(
        **{name: getattr(arguments, name) for name in own}, graph=GraphOptions(**graph)
    )


def run(options: SandboxOptions) -> int:
    """Serve until SIGINT, SIGTERM or the end of the standard input, and return the exit code."""
    asyncio.run(_serve_until_signal(options))
    return 0


async def _serve_until_signal(options: SandboxOptions) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serve(options) as sandbox:
        _announce(sandbox)
        if options.until_stdin_closes:
            threading.Thread(target=_wait_for_end_of_stdin, args=(loop, stop), daemon=True).start()
        await stop.wait()


def _announce(sandbox: RunningSandbox) -> None:
    facts = {
        "base_url": sandbox.base_url,
        "token": sandbox.token,
        "pid": os.getpid(),
        "authority": sandbox.authority,
        "tenant_id": sandbox.tenant_id,
        "graph_url": sandbox.graph.url,
        "graph_token": sandbox.graph.token,
        "blob_url": sandbox.graph.blob_url,
    }
    print(orjson.dumps(facts).decode(), flush=True)
    print(
        f"A Partner Center sandbox is at {sandbox.base_url}. Ctrl-C ends it. In another terminal:\n"
        f"  bulkfetch export DIR --base-url {sandbox.base_url} --token {sandbox.token} "
        f"--graph-url {sandbox.graph.url} --graph-token {sandbox.graph.token}",
        file=sys.stderr,
        flush=True,
    )


def _wait_for_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # From the descriptor: a thread blocked in sys.stdin would hold its lock at the program's end.
    while os.read(0, 4096):
        pass
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)


def _add_access(group: argparse._ArgumentGroup) -> None:
    _text(group, "tenant-id", "the tenant of the token endpoint")
    _text(group, "client-id", "the id of the app that may sign in")
    _text(group, "client-secret", "the secret of that app")
    _text(
        group,
        "client-certificate",
        "a PEM file of the certificate that the app may use instead",
    )
    _text(group, "refresh-token", "the refresh token of a user")
    _choice(group, "user-state", USER_STATES, "how a user's sign-in ends")
    _number(group, "device-polls", "how often to answer that the user has not signed in yet")
    _text(group, "identity-header", "the header value that the managed identity endpoint requires")
    _text(group, "token", "a bearer token that never expires, of an app and a user")
    _number(group, "app-only-status", "the status for an app without a user where one is needed")
    group.add_argument(
        "--token-lifetime",
        dest="token_lifetime_s",
        type=int,
        default=_default("token_lifetime_s"),
        metavar="SECONDS",
        help=f"how long other tokens are valid (default: {_default('token_lifetime_s')})",
    )


def _add_answers(group: argparse._ArgumentGroup) -> None:
    _number(group, "port", "the port on 127.0.0.1; 0 takes a free one")
    _text(group, "certificate", "a PEM file of a key and its certificate, to serve by TLS")
    _number(group, "max-size", "the most line items in a page")
    _number(group, "default-size", "the page size of a legacy request without a size")
    words = "the first billing period of new commerce whose {} the invoice API refuses"
    _text(group, "v1-until", words.format("billing line items"))
    _text(group, "v1-usage-until", words.format("usage line items"))
    _number(group, "v1-refusal", "the status of these refusals; 200 answers with an empty list")
    _choice(group, "bom", MARKS, "the byte-order mark of each success")
    _switch(group, "gzip", "compress for clients that accept it")
    _number(group, "latency-ms", "how long every answer takes")
    _number(
        group, "max-in-flight", "refuse more requests at once than this with 429; 0 refuses none"
    )
    _number(
        group, "requests-per-second", "refuse requests above this rate with 429; 0 refuses none"
    )
    _number(group, "burst", "how many requests may come at once before the rate applies")


def _add_faults(group: argparse._ArgumentGroup) -> None:
    _choice(group, "past-end", PAST_END, "the answer to an offset after the last line item")
    _switch(group, "ignore-size", "every page has the default size")
    _switch(group, "ignore-offset", "every legacy page is the first")
    _switch(
        group,
        "ignore-offset-echo",
        "as --ignore-offset, but links repeat the offset of the request",
    )
    _page(group, "short-page", "this page of a legacy stream has half its rows")
    _page(group, "short-page-gap", "as --short-page, but its next link skips the other half")
    _switch(group, "true-total", "totalCount counts the stream, not the page")
    _switch(group, "lying-total", "totalCount counts the stream, and misses one")


def _read_faults_file(path: str) -> Faults:
    try:
        return read_faults(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _ListFaults(argparse.Action):
    """Prints what a file of faults may contain, and ends the program."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_given: Any) -> NoReturn:
        width = max(map(len, KINDS))
        lines = [f"{kind:<{width}}  {words}" for kind, words in KINDS.items()]
        keys = ", ".join(each.name for each in fields(Fault))
        with suppress(OSError):  # nobody reads it: no failure, as with --help
            print("\n".join([*lines, "", f"Keys of a rule: {keys}"]), flush=True)
        parser.exit()


def _default(name: str) -> object:
    return getattr(SandboxOptions(), name.replace("-", "_"))


def _number(group: argparse._ArgumentGroup, name: str, words: str) -> None:
    default = _default(name)
    group.add_argument(
        f"--{name}",
        type=type(default),
        default=default,
        metavar="N",
        help=f"{words} (default: {default})",
    )


def _text(group: argparse._ArgumentGroup, name: str, words: str) -> None:
    default = _default(name)
    shown = ""
    if default:
        shown = f" (default: {default})"
    group.add_argument(f"--{name}", default=default, help=f"{words}{shown}")


def _choice(
    group: argparse._ArgumentGroup, name: str, choices: tuple[str, ...], words: str
) -> None:
    default = _default(name)
    group.add_argument(
        f"--{name}", choices=choices, default=default, help=f"{words} (default: {default})"
    )


def _page(group: argparse._ArgumentGroup, name: str, words: str) -> None:
    group.add_argument(f"--{name}", type=int, default=None, metavar="PAGE", help=words)


def _switch(group: argparse._ActionsContainer, name: str, words: str) -> None:
    group.add_argument(f"--{name}", action="store_true", help=words)


def _read_pairs(value: str) -> tuple[str, ...]:
    if value == "every":
        return PROVIDERS_AND_TYPES
    return tuple(pair.strip() for pair in value.split(",") if pair.strip())
