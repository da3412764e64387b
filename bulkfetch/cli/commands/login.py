"""`bulkfetch login`: sign in, check or forget the login."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bulkfetch.cli.running import load, run
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_result, say
from bulkfetch.signin.ways import check_credentials

if TYPE_CHECKING:
    from bulkfetch.settings.declared import Settings


def login(arguments: argparse.Namespace) -> int:
    """Sign in, or check or forget the login."""
    settings = load(arguments).settings
    if arguments.check:
        return _check_login(arguments, settings)
    if arguments.forget:
        return _forget_login(settings)
    from bulkfetch.signin.device import log_in

    login = run(arguments, lambda: log_in(settings, say))
    if arguments.json:
        facts = {
            "user": login.username or None,
            "tenant_id": login.tenant_id,
            "client_id": login.client_id,
        }
        print_result({**facts, "login_file": str(settings.login_file)})
    else:
        print_result(
            [
                f"signed in{f' as {login.username}' if login.username else ''}; kept in {settings.login_file}"
            ]
        )
    return COMPLETE


def _check_login(arguments: argparse.Namespace, settings: Settings) -> int:
    from datetime import UTC, datetime

    from bulkfetch.partnercenter.whoami import check_login

    check_credentials(settings)
    report = run(arguments, lambda: check_login(settings))
    print_result(report.to_dict() if arguments.json else report.lines(datetime.now(UTC)))
    return INCOMPLETE if report.invoices else COMPLETE


def _forget_login(settings: Settings) -> int:
    from bulkfetch.signin.logins import remove_login

    file = settings.login_file
    removed = file is not None and remove_login(file)
    print_result([f"{file}: {'removed' if removed else 'there was no login'}"])
    return COMPLETE
