"""`bulkfetch login`: sign in, show who is signed in, or remove the login."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_result, say
from bulkfetch.partnercenter.whoami import check_login
from bulkfetch.settings.declared import Settings
from bulkfetch.signin.device import log_in
from bulkfetch.signin.logins import remove_login
from bulkfetch.signin.ways import check_credentials


def login(arguments: argparse.Namespace) -> int:
    """Sign in, or check or remove the login."""
    settings = load(arguments).settings
    if arguments.check:
        return _check_login(arguments, settings)
    if arguments.forget:
        return _forget_login(arguments, settings)
    kept = run(arguments, lambda: log_in(settings, say))
    if arguments.json:
        facts = {
            "user": kept.username or None,
            "tenant_id": kept.tenant_id,
            "client_id": kept.client_id,
        }
        print_result({**facts, "login_file": str(settings.login_file)})
    else:
        user = f" as {kept.username}" if kept.username else ""
        print_result([f"signed in{user}; kept in {settings.login_file}"])
    return COMPLETE


def _check_login(arguments: argparse.Namespace, settings: Settings) -> int:
    check_credentials(settings)
    report = run(arguments, lambda: check_login(settings))
    print_result(report.to_dict() if arguments.json else report.lines(datetime.now(UTC)))
    return INCOMPLETE if report.invoices else COMPLETE


def _forget_login(arguments: argparse.Namespace, settings: Settings) -> int:
    file = settings.login_file
    is_removed = file is not None and remove_login(file)
    if arguments.json:
        print_result({"login_file": None if file is None else str(file), "removed": is_removed})
    else:
        print_result([f"{file}: removed" if is_removed else f"{file}: there was no login"])
    return COMPLETE
