"""The command line as its users meet it: what is printed where, and which exit code comes back."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

from bulkfetch.archive.layout import ARCHIVE
from bulkfetch.cli import main
from bulkfetch.logguard import guard_logs
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.sandbox.options import PROVIDERS_AND_TYPES
from bulkfetch.sandbox.process import SpawnedSandbox, spawn
from bulkfetch.settings.declared import CLOUDS, flag_of, setting_names, settings_of

ROWS = 20
TOKEN = "s3cr3t-t0ken"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SpawnedSandbox]:
    with spawn(["--line-items", str(ROWS), "--token", TOKEN]) as running:
        yield running


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run in an empty folder, without the settings that the machine may have."""
    for name in list(os.environ):
        if name.startswith("BULKFETCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def at_sandbox(sandbox: SpawnedSandbox, monkeypatch: pytest.MonkeyPatch) -> SpawnedSandbox:
    monkeypatch.setenv("BULKFETCH_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("BULKFETCH_TOKEN", sandbox.token)
    return sandbox


class Ran:
    """A command that has ended: its exit code and what it wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert TOKEN not in out + err
        assert "Traceback" not in err or code == 3

    @property
    def error(self) -> str:
        """The one line that says what is wrong; it may be on stdout as JSON too."""
        assert self.out == "" or json.loads(self.out)["exit_code"] == self.code
        (line,) = self.err.splitlines()
        assert ": error: " in line
        return line.partition(": error: ")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> Ran:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def counts(sandbox: SpawnedSandbox) -> dict[str, int]:
    """How many requests of each kind the sandbox has answered so far."""
    origin = sandbox.base_url.removesuffix("/v1")
    with urllib.request.urlopen(f"{origin}/sandbox/stats") as answer:
        by_kind: dict[str, int] = json.load(answer)["by_kind"]
    return by_kind


@contextmanager
def requests_to(sandbox: SpawnedSandbox) -> Iterator[dict[str, int]]:
    """Give the number of requests of each kind that the block has caused."""
    before, difference = counts(sandbox), dict[str, int]()
    yield difference
    difference.update(
        {
            kind: count - before.get(kind, 0)
            for kind, count in counts(sandbox).items()
            if count > before.get(kind, 0)
        }
    )


# Usage


def test_without_a_command_the_help_shows_what_there_is(run: Run) -> None:
    shown = run()
    assert shown.code == 2
    assert shown.out == ""
    for command in (
        "export",
        "invoices",
        "login",
        "line-items",
        "report",
        "verify",
        "repair",
        "schema",
        "config",
        "sandbox",
    ):
        assert f"\n    {command}" in shown.err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["export"],
        ["invoices"],
        ["invoices", "list"],
        ["invoices", "get"],
        ["line-items"],
        ["report"],
        ["verify"],
        ["schema"],
        ["config"],
        ["sandbox"],
    ],
)
def test_every_command_has_a_help(run: Run, words: list[str]) -> None:
    shown = run(*words, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(" ".join(["usage: bulkfetch", *words]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frobnicate"], "invalid choice, choose from export, invoices, login, line-items, "),
        (["exprt"], "invalid choice, did you mean export?"),
        (["export", "lake", "--quiet=much"], "argument --quiet: takes no value"),
        (["export"], "the following arguments are required: DIR; see `bulkfetch export --help`"),
        (["export", ""], "must name a directory"),
        (
            ["export", "lake", "--pagesize", "3"],
            "unknown argument --pagesize, did you mean --page-size?",
        ),
        (["export", "lake", "--page", "3"], "unknown argument --page, did you mean --page-size?"),
        (["export", "lake", "more"], "1 argument too many; see `bulkfetch export --help`"),
        (["export", "lake", "more", "-x"], "2 arguments too many"),
        (
            ["export", "lake", "more", "--pagesize=3"],
            "unknown argument --pagesize, did you mean --page-size?",
        ),
        (
            ["export", "lake", "--since", "2021-13-01"],
            "--since: must be a day such as 2024-12-31, not '2021-13-01'",
        ),
        (
            ["export", "lake", "--sandbox-seed", "3"],
            "--sandbox-seed is for the sandbox: give --sandbox too",
        ),
        (
            ["invoices"],
            "the following arguments are required: ACTION; see `bulkfetch invoices --help`",
        ),
        (["invoices", "list", "--ofset", "3"], "did you mean --offset?"),
        (
            ["invoices", "list", "--offset", "3"],
            "--offset is the start of one page: give its --size too",
        ),
        (
            ["invoices", "list", "--size", "0"],
            "--size: must be a whole number, at least 1, not '0'",
        ),
        (
            ["invoices", "list", "--size", "3", "--offset", "-1"],
            "--offset: must be a whole number, at least 0",
        ),
        (
            ["line-items", "D1", "office", "t", "--limit", "-1"],
            "--limit: must be a whole number, at least 1",
        ),
        (["verify"], "the following arguments are required: DIR"),
        (
            ["schema", "office/nothing"],
            "there is no schema 'office/nothing'; there are office/billing_line_items, ",
        ),
        (["sandbox", "--invoices", "-1"], "cannot be negative"),
    ],
)
def test_a_usage_error_is_one_line_that_says_what_would_be_right(
    run: Run, words: list[str], message: str
) -> None:
    ended = run(*words)
    assert ended.code == 2
    assert message in ended.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "lake", "--token", "Bearer", TOKEN], "1 argument too many"),
        (["config", "Bearer", TOKEN], "2 arguments too many"),
        (["config", f"-t{TOKEN}"], "1 argument too many"),
        (["config", f"--tokn={TOKEN}"], "unknown argument --tokn, did you mean --token?"),
        (["config", f"--tokn:{TOKEN}"], "unknown argument --tokn, did you mean --token?"),
        (["config", f"--tokn {TOKEN}"], "unknown argument --tokn, did you mean --token?"),
        (["config", "--tokn", TOKEN], "unknown argument --tokn, did you mean --token?"),
        (["config", f"--json={TOKEN}"], "takes no value"),
        (["--token", TOKEN, "config"], "invalid choice, choose from"),
        (["invoices", TOKEN], "invalid choice, choose from list, get"),
    ],
)
def test_a_usage_error_never_shows_what_may_be_a_token(
    run: Run, words: list[str], message: str
) -> None:
    ended = run(*words)
    assert ended.code == 2
    assert TOKEN not in ended.err
    assert message in ended.error


def test_the_version_is_shown(run: Run) -> None:
    assert run("--version").out.startswith("bulkfetch 0.")


# Settings


SERVICE = [setting.name for setting in settings_of("service", "sign_in")]
PAGES = {"page_size", "invoice_page_size", "usage_period"}
STORAGE = [setting.name for setting in settings_of("storage")]
CATALOG = ["catalog", "catalog_namespace", "catalog_options"]
EVERY = setting_names()


@pytest.mark.parametrize(
    ("words", "used"),
    [
        (["export"], EVERY),
        (["invoices", "list"], {*SERVICE} - PAGES | {"invoice_page_size"}),
        (["invoices", "get"], {*SERVICE} - PAGES),
        (["invoices", "document"], {*SERVICE} - PAGES),
        (["login"], {*SERVICE} - PAGES),
        (["line-items"], {*SERVICE} - {"invoice_page_size"}),
        (["show"], ["money_tolerance", *STORAGE]),
        (["report"], ["money_tolerance", *STORAGE]),
        (["verify"], ["money_tolerance", *STORAGE, *CATALOG]),
        (["repair"], EVERY),
        (["accept"], ["money_tolerance", *STORAGE]),
        (["config"], EVERY),
        (["schema"], []),
        (["sandbox"], []),
    ],
)
def test_a_command_offers_the_settings_that_it_uses_and_no_others(
    run: Run, words: list[str], used: Collection[str]
) -> None:
    shown = run(*words, "--help").out
    explained = {
        name for name in EVERY if re.search(rf"^ +{flag_of(name)} \w", shown, re.MULTILINE)
    }
    lists = re.findall(r"explained in docs/settings\.md: ([^.]+)\.", " ".join(shown.split()))
    flags = {flag for each in lists for flag in each.split(", ")}
    named = {name for name in EVERY if flag_of(name) in flags}
    assert not explained & named
    offered = explained | named
    if words == ["sandbox"]:  # it has flags of its own for the app that may sign in
        offered = set()
    assert offered == set(used)
    assert ("--config FILE" in shown) == bool(used)


def test_the_help_of_an_export_is_no_manual(run: Run) -> None:
    assert len(run("export", "--help").out.splitlines()) <= 140


def test_the_help_of_a_verification_fits_a_screen_and_all_that_it_accepts_still_works(
    run: Run, at_sandbox: SpawnedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run("verify", "--help").out
    assert len(shown.splitlines()) <= 55
    assert "`bulkfetch export --help` shows them" in " ".join(shown.split())
    assert run("export", "lake", "--quiet").code == 0
    monkeypatch.delenv("BULKFETCH_BASE_URL")
    monkeypatch.delenv("BULKFETCH_TOKEN")
    flags = ["--base-url", at_sandbox.base_url, "--token", TOKEN, "--page-size", "5"]
    assert run("verify", "lake", "--against-server", *flags).code == 0
    assert run("verify", "lake", *flags).code == 0
    assert "did you mean --page-size" in run("verify", "lake", "--page-siz", "5").error


@pytest.mark.parametrize("cloud", ["public", "china", "usgov"])
@pytest.mark.parametrize(
    "address", ["https://host.example/v1", *(cloud.base_url for cloud in CLOUDS.values())]
)
def test_a_base_url_that_is_given_is_in_force_whatever_the_cloud(
    run: Run, cloud: str, address: str
) -> None:
    shown = run("config", "--json", "--cloud", cloud, "--base-url", address).json
    assert shown["base_url"] == {"value": address, "source": "--base-url"}
    assert shown["authority"]["source"] == f"cloud {cloud}"


def test_the_fixed_names_work_together(run: Run, sandbox: SpawnedSandbox) -> None:
    listed = run("invoices", "list", "--json", "--base-url", sandbox.base_url, "--token", TOKEN)
    first, second = (json.loads(line)["id"] for line in listed.out.splitlines()[:2])
    words = [
        "--base-url",
        sandbox.base_url,
        "--token",
        TOKEN,
        "--page-size",
        "7",
        "--max-in-flight",
        "3",
    ]
    words += [
        "--invoice",
        first,
        "--invoice",
        second,
        "--provider",
        "azure",
        "--provider",
        "OneTime",
    ]
    words += [
        "--line-item-type",
        "usage_line_items",
        "--line-item-type",
        "BillingLineItems",
        "--json",
    ]
    ended = run("export", "lake", *words)
    assert ended.code == 0
    partitions = {
        path.parent.relative_to("lake/line_items")
        for path in Path("lake/line_items").rglob("*.parquet")
    }
    assert {str(path) for path in partitions} == {
        "provider=azure/line_item_type=billing_line_items",
        "provider=azure/line_item_type=usage_line_items",
        "provider=one_time/line_item_type=billing_line_items",
        "provider=one_time/line_item_type=usage_line_items",
    }
    assert ended.json["rows"] == 4 * ROWS


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page_size(*flags: str) -> tuple[str, str]:
        line = run("config", "--json", *flags).json["page_size"]
        return line["value"], line["source"]

    assert page_size() == ("2000", "default")
    Path("mine.toml").write_text("page_size = 300\n")
    named = ("--config", "mine.toml")
    assert page_size(*named) == ("300", "mine.toml, key page_size")
    monkeypatch.setenv("BULKFETCH_PAGE_SIZE", "200")
    assert page_size(*named) == ("200", "environment variable BULKFETCH_PAGE_SIZE")
    assert page_size(*named, "--page-size", "100") == ("100", "--page-size")


def test_the_settings_in_force_are_those_that_a_request_is_made_with(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    Path("mine.toml").write_text("invoice_page_size = 2\n")
    with requests_to(at_sandbox) as made:
        listed = run("invoices", "list", "--config", "mine.toml", "--json")
    pages = -(-len(listed.out.splitlines()) // 2)
    assert made.keys() == {"invoices"}
    assert pages <= made["invoices"] <= pages + 4  # some are asked for ahead


def test_the_settings_in_force_are_shown_with_secrets_hidden(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULKFETCH_CLIENT_SECRET", TOKEN)
    monkeypatch.setenv("BULKFETCH_TENANT_ID", "contoso.example")
    for shown in (
        run("config", "--token", TOKEN).out,
        run("config", "--token", TOKEN, "--json").out,
    ):
        assert "contoso.example" in shown
        assert shown.count("***") == 2
        assert "environment variable BULKFETCH_CLIENT_SECRET" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--page-size", "0"], "--page-size: must be a whole number from 1 to 2000, not '0'"),
        (
            ["--max-in-flight", "many"],
            "--max-in-flight: must be a whole number from 1 to 256, not 'many'",
        ),
        (["--base-url", "http://host.example/v1"], "--base-url: must begin with https://"),
        (["--base-url", "https://host.example"], "--base-url: must include the version of the API"),
        (["--token", "two words"], "--token: must be visible ASCII characters without spaces"),
        (["--ca-file", "nowhere.pem"], "--ca-file: must be a PEM file that exists"),
        (["--config", "nowhere.toml"], "--config: nowhere.toml: cannot be read"),
        (
            ["--first-byte-timeout-s", "-1"],
            "--first-byte-timeout-s: must be a number of seconds above 0",
        ),
        (
            ["--max-page-bytes", "lots"],
            "--max-page-bytes: must be a number of bytes, or text such as 256MiB",
        ),
        (["--usage-period", "next"], "--usage-period: must be previous or current, not 'next'"),
        (
            ["--part-rows", "5", "--row-group-rows", "6"],
            "--row-group-rows: must be at most part_rows, 5 (--part-rows)",
        ),
        (
            ["--since", "2022-01-02", "--until", "2022-01-01"],
            "--since 2022-01-02 is after --until 2022-01-01",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_source_and_nothing_is_written(
    run: Run, words: list[str], message: str
) -> None:
    ended = run("export", "lake", "--token", "t", *words)
    assert ended.code == 2
    assert message in ended.error
    assert not Path("lake").exists()


def test_a_misspelt_variable_and_key_are_refused_with_the_nearest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULKFETCH_PAGESIZE", "3")
    assert "did you mean BULKFETCH_PAGE_SIZE?" in run("config").error
    monkeypatch.delenv("BULKFETCH_PAGESIZE")
    Path("mine.toml").write_text("tokn = 'x'\n")
    error = run("config", "--config", "mine.toml").error
    assert "mine.toml, key 'tokn': no such setting; did you mean token?" in error


def test_without_credentials_every_way_to_give_them_is_told(run: Run) -> None:
    for command in (
        ["export", "lake"],
        ["invoices", "list"],
        ["invoices", "get", "D1"],
        ["line-items", *"abc"],
    ):
        ended = run(*command)
        assert ended.code == 2
        assert ended.error.startswith(
            "no credentials: give token (--token or BULKFETCH_TOKEN), or tenant_id "
        )
        assert "`bulkfetch export --sandbox DIR` needs none" in ended.error
    assert not Path("lake").exists()


# Export


def test_an_export_reports_on_stdout_and_shows_its_progress_on_stderr(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    with requests_to(at_sandbox) as made:
        ended = run("export", "lake")
    assert ended.code == 0
    assert (
        ended.out.splitlines()[0]
        == "lake: 14 transfers committed, 0 committed before, 0 failed, of 7 invoices"
    )
    assert "  one_time/usage_line_items: 60 line items" in ended.out
    assert "reconciliation of 7 invoices with the header: 7 agree" in ended.out
    last = ended.err.splitlines()[-1]
    assert last.startswith("invoices 7/7, transfers 14/14, 262 line items in 0:")
    assert made == {
        "invoices": 1,
        "line_items": 14,
    }  # and none that app-only credentials may not make


def test_a_second_export_fetches_nothing_and_says_so(run: Run, at_sandbox: SpawnedSandbox) -> None:
    run("export", "lake", "--quiet")
    before = {path: path.read_bytes() for path in Path("lake/line_items").rglob("*.parquet")}
    with requests_to(at_sandbox) as made:
        ended = run("export", "lake")
    assert ended.code == 0
    assert (
        ended.out.splitlines()[0]
        == "lake: nothing to fetch: 14 transfers of 7 invoices committed before"
    )
    assert "transfers 14/14 (14 skipped)" in ended.err
    assert made == {"invoices": 1}
    assert {
        path: path.read_bytes() for path in Path("lake/line_items").rglob("*.parquet")
    } == before


def test_quiet_shows_no_progress(run: Run, at_sandbox: SpawnedSandbox) -> None:
    ended = run("export", "lake", "--quiet")
    assert (ended.code, ended.err) == (0, "")


def test_json_is_one_document_with_exact_amounts(run: Run, at_sandbox: SpawnedSandbox) -> None:
    report = run("export", "lake", "--json").json
    assert (report["complete"], report["transfers_committed"], report["failures"]) == (True, 14, [])
    assert report["verdicts"] == {"agrees": report["invoices"]}
    assert (report["reconciliation"], len(report["new"])) == ([], report["invoices"])


def test_an_export_needs_no_account_with_the_sandbox(run: Run) -> None:
    sizes = [
        "--sandbox-invoices",
        "2",
        "--sandbox-line-items",
        "3",
        "--sandbox-seed",
        "9",
        "--sandbox-latency-ms",
        "1",
    ]
    ended = run("export", "lake", "--sandbox", *sizes, "--json")
    assert ended.code == 0
    assert ended.json["rows"] == 16


@pytest.mark.slow
def test_archives_of_different_sandboxes_never_mix(run: Run, at_sandbox: SpawnedSandbox) -> None:
    small = ["--sandbox-invoices", "1", "--sandbox-line-items", "3", "--quiet"]
    assert run("export", "lake", "--sandbox", *small).code == 0
    again = run("export", "lake", "--sandbox", *small, "--sandbox-seed", "01")
    assert (again.code, again.out.partition(":")[2][:17]) == (0, " nothing to fetch")
    for other in (
        ["--sandbox", *small, "--sandbox-seed", "2"],
        ["--sandbox", "--sandbox-line-items", "4"],
        [],
    ):
        ended = run("export", "lake", *other)
        assert ended.code == 2
        assert "source is sandbox, seed 1, 3 line items, now " in ended.error
    assert run("export", "other", "--sandbox", "--sandbox-invoices", "0", "--quiet").code == 0
    ended = run("export", "other", *["--sandbox", *small])
    assert (
        "source is sandbox, seed 1, 500 line items, now sandbox, seed 1, 3 line items"
        in ended.error
    )


def test_a_sandbox_that_does_not_start_says_why(run: Run) -> None:
    ended = run("export", "lake", "--sandbox", "--sandbox-seed", "x")
    assert ended.code == 2
    assert "the sandbox did not start: " in ended.error
    assert "--seed: invalid int value: 'x'" in ended.error


def test_a_plan_sends_no_request_for_line_items_and_writes_nothing(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    with requests_to(at_sandbox) as made:
        ended = run("export", "lake", "--plan")
    assert ended.code == 0
    assert made == {"invoices": 1}
    assert not Path("lake").exists()
    *transfers, invoices, requests = ended.out.splitlines()
    assert len(transfers) == 14
    assert transfers[0].endswith(" office/billing_line_items")
    assert invoices == "7 invoices, 14 transfers, 0 of them committed before"
    assert requests.startswith("at least 14 requests, one for every 2,000 line items")


def test_a_plan_tells_what_is_committed_already(run: Run, at_sandbox: SpawnedSandbox) -> None:
    run("export", "lake", "--quiet", "--provider", "office")
    plan = run("export", "lake", "--plan", "--json").json
    assert plan["requests_at_least"] == 11
    assert {each["provider"] for each in plan["transfers"] if each["committed"]} == {"office"}
    assert run("export", "lake", "--plan").out.count(" (committed)\n") == 3


def test_a_plan_counts_a_transfer_whose_part_is_gone_as_still_to_fetch(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    run("export", "lake", "--quiet", "--provider", "office")
    next(Path("lake/line_items").rglob("*.parquet")).unlink()
    assert run("export", "lake", "--plan", "--json").json["requests_at_least"] == 12


def test_a_plan_refuses_the_output_that_an_export_would_and_makes_none(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    Path("file").write_bytes(b"mine")
    Path("photos").mkdir()
    Path("photos/photo.jpg").write_bytes(b"mine")
    before = sorted(Path().rglob("*"))
    with requests_to(at_sandbox) as made:
        for output, message in (
            ("file", "file is a file"),
            ("file/below", "file is a file"),
            ("photos", "photos is not empty and not an archive of bulkfetch"),
        ):
            ended = run("export", output, "--plan")
            assert ended.code == 2
            assert message in ended.error
    assert made == {}
    for output in ("photos/new", "new/below", "."):
        Path("photos/photo.jpg").unlink(missing_ok=True)
        assert run("export", output, "--plan").code == (2 if output == "." else 0)
    assert sorted(Path().rglob("*")) == [path for path in before if path.suffix != ".jpg"]


def test_a_selection_by_days_takes_the_invoices_of_these_days(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    invoices = run(
        "export", "lake", "--plan", "--json", "--since", "2021-05-08", "--until", "2021-05-08"
    ).json["invoices"]
    assert len(invoices) == 1
    refused = run("export", "lake", "--quiet", "--since", "2030-01-01")
    assert refused.code == 1
    assert "no invoice dated 2030-01-01 or later; they are dated 2021" in refused.error
    assert not Path("lake", ARCHIVE).exists()
    ended = run("export", "lake", "--quiet", "--since", "2030-01-01", "--allow-empty")
    assert ended.code == 0
    assert ended.out.startswith("lake: no invoice was found or selected\nNOTE this tenant has no")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        (
            "--invoice",
            "nope",
            "this tenant has no invoice 'nope'; `bulkfetch invoices list` shows those it has",
        ),
        ("--provider", "ofice", "provider 'ofice'; there are azure, office, one_time"),
        (
            "--line-item-type",
            "usage",
            "type 'usage'; there are billing_line_items, usage_line_items",
        ),
    ],
)
def test_what_the_tenant_does_not_have_is_an_error(
    run: Run, at_sandbox: SpawnedSandbox, flag: str, value: str, message: str
) -> None:
    ended = run("export", "lake", flag, value)
    assert ended.code == 1
    assert message in ended.error
    for words in (["--json"], ["--plan", "--json"]):
        allowed = run("export", "lake", flag, value, "--allow-empty", "--quiet", *words)
        if flag == "--invoice":
            assert (allowed.code, allowed.json["exit_code"]) == (1, 1)
            assert message in allowed.error
        else:
            assert allowed.code == 0
            (absent,) = allowed.json["absent"]
            assert message in absent


# Output that cannot be used


def test_a_directory_that_is_not_ours_is_left_alone(run: Run, at_sandbox: SpawnedSandbox) -> None:
    Path("lake").mkdir()
    Path("lake/photo.jpg").write_bytes(b"mine")
    with requests_to(at_sandbox) as made:
        ended = run("export", "lake")
    assert ended.code == 2
    assert "lake is not empty and not an archive of bulkfetch" in ended.error
    assert [path.name for path in Path("lake").iterdir()] == ["photo.jpg"]
    assert made == {}


def test_a_file_is_no_output_directory(run: Run, at_sandbox: SpawnedSandbox) -> None:
    Path("lake").write_bytes(b"mine")
    assert "lake is a file" in run("export", "lake").error
    assert run("export", "lake/below").code == 2
    assert Path("lake").read_bytes() == b"mine"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root"
)
def test_a_directory_that_is_read_only_is_refused(run: Run, at_sandbox: SpawnedSandbox) -> None:
    Path("lake").mkdir(mode=0o500)
    ended = run("export", "lake")
    assert ended.code == 2
    assert "not writable" in ended.error


def test_a_directory_that_cannot_be_made_is_refused_with_its_whole_path(
    run: Run, at_sandbox: SpawnedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")
    for output in ("/proc/lake", "lake"):
        ended = run("export", output)
        assert ended.code == 2
        assert "/proc/lake" in ended.error


@pytest.mark.slow
def test_a_limit_of_the_size_of_files_is_said_as_one(sandbox: SpawnedSandbox) -> None:
    words = ["export", "lake", "--quiet", "--base-url", sandbox.base_url, "--token", TOKEN]
    program = shlex.join([sys.executable, "-m", "bulkfetch", *words])
    ended = finished(
        subprocess.Popen(
            ["bash", "-c", f"ulimit -f 8; {program}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert ended.code == 1
    assert "the system allows no file so large (ulimit -f): raise that" in ended.err


# Servers that are no good


@contextmanager
def server(answers: Mapping[str, tuple[int, bytes]]) -> Iterator[str]:
    """Serve `answers` by the end of the path, "" being the rest; give the base URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, body = next(
                (answers[end] for end in answers if end and path.endswith(end)),
                answers.get("", (404, b"")),
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/v1"
        finally:
            running.shutdown()
            thread.join()


LIST = json.dumps(
    {
        "items": [
            {
                "id": "D1",
                "totalCharges": 1,
                "invoiceDetails": [
                    {"billingProvider": "office", "invoiceLineItemType": "billing_line_items"},
                    {"billingProvider": "azure", "invoiceLineItemType": "billing_line_items"},
                ],
            }
        ]
    }
).encode()
EMPTY = b'{"totalCount":0,"items":[]}'


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b'{"code": 1000}', "the server answered 404"),
        (200, b'{"items": [{"id": "D1"', "the body is not JSON at byte 22"),
        (200, b'{"totalCount": 0}', "it has no `items`"),
    ],
)
def test_a_server_that_is_no_partner_center_is_told_as_such(
    run: Run, status: int, body: bytes, message: str
) -> None:
    with server({"": (status, body)}) as base_url:
        ended = run("export", "lake", "--token", TOKEN, "--base-url", base_url)
    assert ended.code == 1
    assert message in ended.error
    assert "is the base URL that of Partner Center?" in ended.error
    assert "MS-RequestId" in ended.error
    assert not list(Path("lake").rglob("*.parquet"))


def test_a_server_that_refuses_the_token_ends_the_run(run: Run, at_sandbox: SpawnedSandbox) -> None:
    for command in (
        ["export", "lake"],
        ["invoices", "list"],
        ["line-items", "D1", "office", "billing_line_items"],
    ):
        ended = run(*command, "--token", "secret-of-another")
        assert ended.code == 1
        assert "the server refuses the bearer token (" in ended.error
        assert "secret-of-another" not in ended.err


def test_a_dead_server_is_named(run: Run) -> None:
    ended = run(
        "invoices",
        "list",
        "--token",
        "t",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--max-attempts",
        "2",
    )
    assert ended.code == 1
    assert "127.0.0.1:9" in ended.error
    assert "is the base URL that of Partner Center?" in ended.error


@pytest.mark.parametrize(
    ("status", "body", "message", "reason"),
    [
        (200, b'{"items": [', "the body is not JSON at byte 11", "malformed_body"),
        (200, b'{"totalCount": 0}', "it has no `items`", "malformed_body"),
        (
            403,
            b'{"code":900150,"description":"role lacks rights"}',
            "role lacks rights",
            "http_status",
        ),
    ],
)
def test_a_transfer_that_fails_is_named_with_its_page_and_the_others_are_committed(
    run: Run, status: int, body: bytes, message: str, reason: str
) -> None:
    answers = {
        "/invoices": (200, LIST),
        "/Office/BillingLineItems": (200, EMPTY),
        "/Azure/BillingLineItems": (status, body),
    }
    with server(answers) as base_url:
        words = ["export", "lake", "--token", TOKEN, "--base-url", base_url, "--quiet"]
        ended = run(*words)
    assert ended.code == 1
    assert (
        ended.out.splitlines()[0]
        == "lake: 1 transfer committed, 0 committed before, 1 failed, of 1 invoice"
    )
    assert "FAILED transfer D1 azure/billing_line_items, page at offset 0: " in ended.out
    assert message in ended.out
    assert "Run the same command again" in ended.out
    (kept,) = Path("lake/_bulkfetch/runs").iterdir()
    (failure,) = json.loads(kept.read_bytes())["failures"]
    assert (failure["invoice_id"], failure["provider"], failure["reason"]) == (
        "D1",
        "azure",
        reason,
    )
    assert not list(Path("lake/line_items").rglob("provider=azure/*/*.parquet"))


def test_a_failed_transfer_is_in_the_json_and_told_on_stderr(run: Run) -> None:
    answers = {"/invoices": (200, LIST), "/Office/BillingLineItems": (200, EMPTY), "": (404, b"{}")}
    with server(answers) as base_url:
        ended = run("export", "lake", "--token", TOKEN, "--base-url", base_url, "--quiet", "--json")
    assert ended.code == 1
    assert (ended.json["complete"], len(ended.json["failures"])) == (False, 1)
    assert "FAILED transfer D1 azure/billing_line_items" in ended.err


def test_words_of_the_server_cannot_act_on_the_terminal(run: Run) -> None:
    evil = json.dumps(
        {"code": "\x1b[2J", "description": "a\x1b[31m\r\nbulkfetch: all is well"}
    ).encode()
    with server({"": (403, evil)}) as base_url:
        ended = run("invoices", "list", "--token", TOKEN, "--base-url", base_url)
    assert "\x1b" not in ended.err
    assert ended.code == 1
    assert ended.error


CONTROLS = "\x1b[2J\x9b2J\x7f\x07\r\n"


def test_words_of_the_server_cannot_act_on_the_terminal_in_what_is_listed_either(run: Run) -> None:
    detail = {"billingProvider": f"office{CONTROLS}", "invoiceLineItemType": "billing_line_items"}
    invoice = {
        "id": f"D{CONTROLS}1",
        "totalCharges": 1,
        "documentType": CONTROLS,
        "invoiceDetails": [detail],
    }
    raw = json.dumps(invoice, ensure_ascii=False)
    line_items = json.dumps(
        {"items": [{"customerName": CONTROLS, f"n{CONTROLS}": 1}]}, ensure_ascii=False
    )
    answers = {
        "/invoices": (200, f'{{"items": [{raw}]}}'.encode()),
        "/invoices/D1": (200, raw.encode()),
        "": (200, line_items.encode()),
    }
    with server(answers) as base_url:
        for words in (
            ["export", "lake", "--plan"],
            ["export", "lake", "--quiet"],
            ["export", "lake", "--quiet", "--json"],
            ["invoices", "list"],
            ["invoices", "list", "--json"],
            ["invoices", "get", "D1"],
            ["invoices", "get", "D1", "--json"],
            ["line-items", "D1", "office", "billing_line_items"],
            ["line-items", "D1", "office", "billing_line_items", "--table"],
            ["line-items", "D1", "office", "billing_line_items", "--columns", "nope"],
        ):
            ended = run(*words, "--token", TOKEN, "--base-url", base_url)
            # The answer to `get` is another invoice: it is not taken.
            assert ended.code == 1 if "get" in words else ended.code in (0, 2), (words, ended.err)
            controls = [c for c in ended.out + ended.err if ord(c) < 32 or 127 <= ord(c) < 160]
            assert set(controls) == {"\n"}, words
        listed = run("invoices", "list", "--json", "--token", TOKEN, "--base-url", base_url)
        assert json.loads(listed.out) == invoice


def test_words_of_the_server_cannot_act_on_the_terminal_in_a_message_or_a_bug(
    capsys: pytest.CaptureFixture[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = run("config", "--config", f"no{CONTROLS}where.toml")
    assert ended.code == 2
    assert not set(ended.err.removesuffix("\n")) & set(CONTROLS) - set("[2J")
    monkeypatch.setattr(Path, "cwd", lambda: (_ for _ in ()).throw(RuntimeError(CONTROLS)))
    ended = run("config")
    assert ended.code == 3
    assert not set(ended.err) & set("\x1b\x9b\x7f\x07\r")


# Invoices and line items


def test_invoices_are_listed_for_people(run: Run, at_sandbox: SpawnedSandbox) -> None:
    header, *rows, summary = run("invoices", "list").out.splitlines()
    assert header.split() == ["id", "date", "type", "charges", "currency", "amends", "details"]
    assert len(rows) == 7
    assert summary == "6 invoices, 1 amendment"
    amended = next(number for number, row in enumerate(rows) if "adjustment_note" in row)
    assert rows[amended].split()[-2] == rows[amended - 1].split()[0]
    assert "office/billing_line_items, azure/billing_line_items, azure/usage_line_items" in rows[0]
    charges = header.index("charges") + len("charges")
    assert all(row[charges - 1].isdigit() and row[charges] == " " for row in rows)


def test_one_page_of_invoices_says_where_the_next_begins(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    ids = [json.loads(line)["id"] for line in run("invoices", "list", "--json").out.splitlines()]
    page = run("invoices", "list", "--json", "--size", "2", "--offset", "3")
    assert [json.loads(line)["id"] for line in page.out.splitlines()] == ids[3:5]
    assert page.err == "bulkfetch: more invoices follow: --offset 5\n"
    last = run("invoices", "list", "--json", "--size", "2", "--offset", "4")
    assert ([json.loads(line)["id"] for line in last.out.splitlines()], last.err) == (ids[4:], "")


def test_invoices_come_as_the_server_wrote_them_amendments_included(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    listed = [json.loads(line) for line in run("invoices", "list", "--json").out.splitlines()]
    (amended,) = [invoice for invoice in listed if "amendments" in invoice]
    got = run("invoices", "get", amended["id"], "--json")
    assert json.loads(got.out) == amended
    assert amended["amendments"][0]["documentType"] == "adjustment_note"
    request = urllib.request.Request(
        f"{at_sandbox.base_url}/invoices/{amended['id']}",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request) as answer:
        assert json.loads(answer.read().decode("utf-8-sig")) == amended


def test_one_invoice_is_shown_for_people(run: Run, at_sandbox: SpawnedSandbox) -> None:
    listed = [json.loads(line) for line in run("invoices", "list", "--json").out.splitlines()]
    (amended,) = [invoice for invoice in listed if "amendments" in invoice]
    facts = [
        line.split(maxsplit=1) for line in run("invoices", "get", amended["id"]).out.splitlines()
    ]
    assert ["totalCharges", f"{amended['totalCharges']:.2f}"] in facts
    assert ["details", "one_time/usage_line_items"] in facts
    assert ["amendments", amended["amendments"][0]["id"]] in facts


def test_an_unknown_invoice_is_an_error(run: Run, at_sandbox: SpawnedSandbox) -> None:
    for invoice_id in ("nope", "../D1", ""):
        ended = run("invoices", "get", invoice_id)
        assert ended.code == 1
        assert "there is no invoice" in ended.error
    ended = run("line-items", "nope", "office", "billing_line_items")
    assert ended.code == 1
    assert ended.error.count("`bulkfetch invoices list` shows the invoices") == 1
    ended = run("line-items", an_invoice(run, "office"), "no such", "billing_line_items")
    assert ended.code == 1
    assert ended.error.count("`bulkfetch invoices list` shows the invoices") == 1


def an_invoice(run: Run, provider: str) -> str:
    for line in run("invoices", "list", "--json").out.splitlines():
        invoice = json.loads(line)
        if provider in [detail["billingProvider"] for detail in invoice["invoiceDetails"]]:
            return str(invoice["id"])
    raise LookupError(provider)


@pytest.mark.parametrize("detail", [("Azure", "UsageLineItems"), ("onetime", "billing_line_items")])
def test_line_items_are_json_lines_as_the_server_wrote_them(
    run: Run, at_sandbox: SpawnedSandbox, detail: tuple[str, str]
) -> None:
    invoice = an_invoice(run, {"Azure": "azure"}.get(detail[0], "one_time"))
    ended = run("line-items", invoice, *detail, "--page-size", "6")
    lines = ended.out.splitlines()
    assert (ended.code, ended.err, len(lines)) == (0, "", ROWS)
    query = f"provider={detail[0]}&invoicelineitemtype={detail[1].replace('_', '')}&size=2000"
    request = urllib.request.Request(
        f"{at_sandbox.base_url}/invoices/{invoice}/lineitems?{query}",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request) as answer:
        page = answer.read().decode("utf-8-sig")
    assert [exactly(line) for line in lines] == exact_items(page)


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=lambda number: ("number", number), object_pairs_hook=tuple)


def exact_items(page: str) -> list[Any]:
    return list(dict(exactly(page))["items"])


def test_a_limit_ends_early_and_asks_for_no_more(run: Run, at_sandbox: SpawnedSandbox) -> None:
    invoice = an_invoice(run, "office")
    with requests_to(at_sandbox) as made:
        ended = run("line-items", invoice, "office", "billing_line_items", "--limit", "3")
    assert len(ended.out.splitlines()) == 3
    assert made["line_items"] <= 3


def test_line_items_as_a_table_show_what_people_look_at(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    invoice = an_invoice(run, "office")
    table = run(
        "line-items", invoice, "office", "billing_line_items", "--table", "--page-size", "3"
    ).out.splitlines()
    assert table[0].split()[:3] == ["customerName", "chargeStartDate", "offerName"]
    assert len(table) == 1 + ROWS
    chosen = run(
        "line-items",
        invoice,
        "office",
        "billing_line_items",
        "--columns",
        "orderId,quantity",
        "--limit",
        "2",
    )
    assert chosen.out.splitlines()[0].split() == ["orderId", "quantity"]
    ended = run("line-items", invoice, "office", "billing_line_items", "--columns", "orderId,nope")
    assert ended.code == 2
    assert "--columns: there is no 'nope'; there are " in ended.error
    other_case = run(
        *("line-items", invoice, "office", "billing_line_items", "--limit", "2"),
        *("--columns", " ORDERID, Quantity,"),
    )
    assert other_case.out == chosen.out
    for columns, message in (
        ("orderId,quantity,ORDERID", "--columns: orderId, ORDERID: is one column twice"),
        ("qantity", "--columns: there is no 'qantity'; did you mean quantity?"),
        ("custmerName", "did you mean customerName, "),
        (",", "--columns: names no column"),
        ("", "--columns: names no column"),
    ):
        refused = run("line-items", invoice, "office", "billing_line_items", "--columns", columns)
        assert refused.code == 2
        assert message in refused.error


def test_line_items_of_the_sandbox_need_no_account(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULKFETCH_BASE_URL", raising=False)
    monkeypatch.delenv("BULKFETCH_TOKEN", raising=False)
    sandbox = ["--sandbox", "--sandbox-line-items", "4"]
    listed = run("invoices", "list", "--json", *sandbox).out.splitlines()
    invoice = json.loads(listed[0])
    detail = invoice["invoiceDetails"][0]
    names = (detail["billingProvider"], detail["invoiceLineItemType"])
    ended = run("line-items", invoice["id"], *names, *sandbox)
    assert (ended.code, len(ended.out.splitlines())) == (0, 4)
    refused = run("line-items", invoice["id"], *names, "--sandbox-line-items", "4")
    assert (refused.code, "give --sandbox too" in refused.error) == (2, True)


def test_invoices_are_json_lines_in_the_order_of_the_server(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    request = urllib.request.Request(
        f"{at_sandbox.base_url}/invoices?size=200", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request) as answer:
        page = answer.read().decode("utf-8-sig")
    lines = run("invoices", "list", "--json").out.splitlines()
    assert [exactly(line) for line in lines] == exact_items(page)


# Unbilled line items


def test_unbilled_line_items_are_planned_exported_and_told_apart(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    planned = run("export", "lake", "--unbilled", "--currency", "eur", "--plan")
    assert "unbilled one_time/usage_line_items previous EUR" in planned.out
    with requests_to(at_sandbox) as made:
        ended = run("export", "lake", "--unbilled", "--currency", "eur")
    assert ended.code == 0
    assert "  unbilled one_time/billing_line_items: 90 line items" in ended.out
    assert made == {"invoices": 1, "line_items": 14 + 4}
    again = run("export", "lake", "--unbilled", "--currency", "eur", "--plan", "--json").json
    pending = [each for each in again["transfers"] if not each["committed"]]
    assert {(each["period"], each["currency"]) for each in pending} == {
        ("current", "EUR"),
        ("previous", "EUR"),
    }
    assert run("verify", "lake", "--deep").code == 0


def test_a_currency_goes_with_what_is_unbilled(run: Run, at_sandbox: SpawnedSandbox) -> None:
    assert run("export", "lake", "--currency", "EUR").error.startswith(
        "--currency is for unbilled line items"
    )
    assert run("export", "lake", "--unbilled", "--currency", "euros").error.startswith(
        "a currency is a code of three"
    )
    assert "give --currency" in run("line-items", "unbilled", "one_time", "usage_line_items").error


def test_unbilled_line_items_are_printed_and_their_kinds_listed(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    words = ["line-items", "unbilled", "onetime", "UsageLineItems", "--currency", "EUR"]
    assert len(run(*words).out.splitlines()) == 60
    previous = [json.loads(line) for line in run(*words, "--period", "previous").out.splitlines()]
    assert len(previous) == 30
    assert {row["invoiceNumber"] for row in previous} == {""}
    listed = run("invoices", "estimates", "--currency", "EUR").out
    assert [line.split()[:2] for line in listed.splitlines()[-4:]] == [
        ["daily_rated_usage", "Current"],
        ["daily_rated_usage", "Previous"],
        ["non_consumption", "Current"],
        ["non_consumption", "Previous"],
    ]
    as_json = run("invoices", "estimates", "--currency", "EUR", "--json").out.splitlines()
    assert [json.loads(line)["period"] for line in as_json] == ["Current", "Previous"] * 2


# Everything


def test_a_run_over_everything_the_sandbox_has_needs_no_account_and_is_proved(run: Run) -> None:
    words = [
        "--sandbox",
        "--sandbox-details",
        "every",
        "--sandbox-line-items",
        "9",
        "--unbilled",
        "--documents",
    ]
    ended = run("export", "lake", *words, "--json")
    assert ended.code == 0
    assert (ended.json["complete"], ended.json["undeclared"]) == (True, [])
    partitions = {
        path.parent.relative_to("lake/line_items").as_posix()
        for path in Path("lake/line_items").rglob("*.parquet")
    }
    pairs = [pair.split("/") for pair in PROVIDERS_AND_TYPES]
    by_graph = {f"provider=graph/line_item_type={kind}" for kind in ("reconciliation", "usage")}
    assert partitions == by_graph | {
        f"provider={provider}/line_item_type={kind}"
        for provider, kind in pairs
        if kind == "billing_line_items" or provider.startswith("azure")  # the rest is Graph's
    }
    proved = run("verify", "lake", "--deep", "--json")
    assert (proved.code, proved.json["sound"], proved.json["documents"]) == (0, True, 9)
    other = run("export", "lake", "--sandbox", "--sandbox-line-items", "9")
    assert (other.code, "its source is sandbox" in other.error) == (2, True)


# Documents and summaries


def test_documents_are_planned_saved_and_verified(run: Run, at_sandbox: SpawnedSandbox) -> None:
    assert (
        "and 9 of 9 documents, one request each"
        in run("export", "lake", "--documents", "--plan").out
    )
    with requests_to(at_sandbox) as made:
        ended = run("export", "lake", "--documents")
    assert ended.code == 0
    assert "9 documents saved, 0.0 MB, 0 saved before, 0 failed" in ended.out
    assert made["document"] == 9
    plan = run("export", "lake", "--documents", "--plan", "--json").json
    assert (len(plan["documents"]), plan["requests_at_least"]) == (9, 0)
    assert all(each["committed"] for each in plan["documents"])
    assert run("verify", "lake", "--json").json["documents"] == 9


def test_one_document_is_saved_under_its_own_name_or_another(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    invoices = [json.loads(line) for line in run("invoices", "list", "--json").out.splitlines()]
    modern = next(each for each in invoices if "taxReceipts" in each)
    receipt = modern["taxReceipts"][0]["id"]
    assert run("invoices", "document", modern["id"]).out.startswith(
        f"{modern['id']}-statement.pdf: 2,"
    )
    assert run(
        "invoices", "document", modern["id"], "--receipt", receipt, "-o", "mine.pdf", "--json"
    ).json["file"]
    assert b"Statement of invoice" in Path(f"{modern['id']}-statement.pdf").read_bytes()
    assert f"Tax receipt {receipt}".encode() in Path("mine.pdf").read_bytes()
    assert run("invoices", "document", modern["id"], "-o", "nowhere/x.pdf").code == 2
    missing = run("invoices", "document", "D000000000")
    assert (
        missing.code,
        missing.error.startswith("there is no document D000000000 statement"),
    ) == (1, True)


def test_the_account_is_shown_by_currency_and_kind_of_invoice(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    lines = run("invoices", "summary").out.splitlines()
    assert lines[0].split() == [
        "currency",
        "invoices",
        "balance",
        "first",
        "latest",
        "last",
        "payment",
        "paid",
    ]
    assert {tuple(line.split()[:2]) for line in lines[1:] if line[:3].isupper()} >= {
        ("USD", "all"),
        ("USD", "Recurring"),
        ("EUR", "OneTime"),
    }
    as_json = [json.loads(line) for line in run("invoices", "summary", "--json").out.splitlines()]
    assert {each["currencyCode"] for each in as_json} == {"USD", "EUR", "GBP"}


# Signing in


@pytest.fixture(scope="module")
def entra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The flags that lead to a sandbox behind TLS, and sign in as its app."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    (folder / "server.pem").write_bytes(
        issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
    )
    options = [
        "--certificate",
        str(folder / "server.pem"),
        "--line-items",
        "5",
        "--device-polls",
        "0",
    ]
    with spawn([*options, "--client-secret", TOKEN]) as there:
        origin = there.base_url.removesuffix("/v1")
        flags = {"base-url": there.base_url, "authority": origin, "ca-file": str(folder / "ca.pem")}
        flags |= {"tenant-id": SandboxOptions().tenant_id, "client-id": SandboxOptions().client_id}
        yield [part for name, value in flags.items() for part in (f"--{name}", value)]


def test_a_person_signs_in_checks_works_and_signs_out(
    run: Run, entra: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "none" / "bulkfetch" / "login.json"
    done = run("login", *entra)
    assert done.code == 0
    assert "and enter the code SANDBOX42" in done.err
    assert done.out == f"signed in as anna@sandbox.onmicrosoft.com; kept in {file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_bytes())["refresh_token"]

    checked = run("login", "--check", *entra)
    assert checked.code == 0
    lines = dict(
        line.split(maxsplit=1)
        for line in checked.out.splitlines()
        if not line.startswith("for users")
    )
    assert lines["user"] == "anna@sandbox.onmicrosoft.com"
    assert lines["allows"] == "user_impersonation"
    assert " UTC, in " in lines["expires"]
    assert run("login", "--check", "--json", *entra).json["users_only"] is True
    ended = run("export", "lake", "--documents", "--quiet", *entra)
    assert (ended.code, run("verify", "lake").code) == (0, 0)
    for said in (done, checked, ended):
        assert kept not in said.out + said.err
        assert "eyJ" not in said.out + said.err
    assert run("login", "--forget").out == f"{file}: removed\n"
    assert not file.exists()
    assert run("login", "--check", *entra).code == 2


def test_a_check_of_an_app_alone_says_what_it_lacks(
    run: Run, entra: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULKFETCH_CLIENT_SECRET", TOKEN)
    checked = run("login", "--check", *entra)
    assert checked.code == 0
    assert "user            none: an app alone" in checked.out
    assert "for users only  cannot be read: the server answered 403" in checked.out
    refused = run("invoices", "summary", *entra)
    assert refused.code == 1
    assert "the service gives this to an app together with a user only" in refused.error
    monkeypatch.setenv("BULKFETCH_CLIENT_SECRET", f"{TOKEN}-wrong")
    wrong = run("login", "--check", *entra)
    assert wrong.code == 1
    assert "give the secret's value, not its id" in wrong.error


# Verify and schema


def test_an_archive_is_verified_and_a_damaged_one_is_not(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    run("export", "lake", "--quiet")
    ended = run("verify", "lake")
    assert ended.code == 0
    assert "every file is what its commit says" in ended.out
    assert run("verify", "lake", "--json").json["sound"] is True
    part = next(Path("lake/line_items").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert run("verify", "lake").code == 1
    assert run("verify", "lake", "--json").json["sound"] is False


def test_a_verification_lays_out_what_it_checked_for_people(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    run("export", "lake", "--quiet")
    header, first, *_ = run("verify", "lake", "--deep").out.splitlines()
    assert header.split() == ["detail", "transfers", "parts", "line", "items", "size"]
    assert first.split()[:4] == ["azure/billing_line_items", "2", "2", "40"]
    assert "every line item is what its commit says" in run("verify", "lake", "--deep").out
    next(Path("lake").glob("line_items/**/*.parquet")).unlink()
    header, *_ = run("verify", "lake").out.splitlines()
    assert header.split()[-1] == "state"


def test_an_invoice_that_differs_is_exit_code_4_until_it_is_accepted(
    run: Run, tmp_path: Path
) -> None:
    with spawn(["--line-items", str(ROWS), "--unreconciled", "1", "--token", TOKEN]) as sandbox:
        flags = ["--base-url", sandbox.base_url, "--token", sandbox.token, "--quiet"]
        exported = run("export", "lake", *flags, "--json")
        assert (exported.code, exported.json["complete"]) == (4, True)
        verified = run("verify", "lake", "--json")
        assert (verified.code, verified.json["sound"], verified.json["reconciled"]) == (
            4,
            True,
            False,
        )
        differing = [
            each for each in verified.json["reconciliation"] if each["verdict"] == "differs"
        ]
        (invoice_id,) = [each["invoice_id"] for each in differing]

        accepted = run("accept", "lake", invoice_id, "--reason", "a credit by hand")

        assert accepted.code == 0
        assert accepted.out.startswith(f"ACCEPTED invoice {invoice_id}: its line items add up to ")
        assert accepted.out.endswith(": a credit by hand)\n")
        assert run("verify", "lake").code == 0
        again = run("export", "lake", *flags)
        assert again.code == 0
        assert f"ACCEPTED invoice {invoice_id}" in again.out


def test_only_a_difference_of_a_known_invoice_can_be_accepted(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    run("export", "lake", "--quiet")
    invoice_id = json.loads(run("invoices", "list", "--json").out.splitlines()[0])["id"]

    agreeing = run("accept", "lake", invoice_id)
    unknown = run("accept", "lake", "D-NONE", invoice_id)

    assert (agreeing.code, unknown.code) == (1, 1)
    assert agreeing.err == f"bulkfetch: error: nothing to accept: invoice {invoice_id}: agrees\n"
    assert unknown.err.partition(": error: ")[2].startswith("lake has no invoice D-NONE; ")
    assert run("accept", "lake").code == 2
    assert not Path("lake/_bulkfetch/accepted.json").exists()


def test_an_archive_is_verified_against_the_server(run: Run, at_sandbox: SpawnedSandbox) -> None:
    run("export", "lake", "--quiet")
    ended = run("verify", "lake", "--against-server")
    assert (ended.code, ended.err) == (0, "")
    commit = next(Path("lake/_bulkfetch/commits").glob("*+office+*"))
    commit.unlink()
    run("repair", "lake", "--quiet")
    assert commit.exists()


def test_a_faulty_archive_is_repaired(run: Run, at_sandbox: SpawnedSandbox) -> None:
    run("export", "lake", "--quiet")
    part = next(Path("lake/line_items").rglob("*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"!")
    shown = run("verify", "lake")
    assert shown.code == 1
    assert (
        shown.out.splitlines()[-1]
        == "`bulkfetch repair` fetches again what is faulty or missing, and nothing else."
    )
    ended = run("repair", "lake", "--quiet")
    assert ended.code == 0
    assert "its sha256 is not that of its commit" in ended.out
    assert part.read_bytes() == whole
    assert run("repair", "lake", "--json", "--quiet").json == {
        "sound": True,
        "finished": [],
        "before": run("verify", "lake", "--deep", "--json").json,
        "export": None,
        "after": None,
        "tables": [],
        "unread_tables": [],
    }


@pytest.mark.parametrize(
    "command", ["verify", "show", "report", "prune", "tables status", "tables sync"]
)
def test_what_is_no_archive_is_called_what_it_is(run: Run, command: str) -> None:
    Path("afile").touch()
    Path("empty").mkdir()
    words = {
        "prune": ["--older-than", "1d"],
        "report": ["--html", "page.html"],
        "tables sync": ["--format", "delta"],
    }
    for name, what in (
        ("afile", "it is a file"),
        ("nowhere", "there is no such directory"),
        ("empty", "it has no _bulkfetch/archive.json"),
    ):
        ended = run(*command.split(), name, *words.get(command, []))
        assert f"{name} is not an archive of bulkfetch: {what}" in ended.error


def test_what_is_no_archive_cannot_be_repaired(run: Run, at_sandbox: SpawnedSandbox) -> None:
    ended = run("repair", "nowhere")
    assert ended.code == 2
    assert "nowhere is not an archive of bulkfetch: there is no such directory" in ended.error
    assert not Path("nowhere").exists()


def test_what_is_no_archive_cannot_be_verified(run: Run) -> None:
    for name in ("nowhere", "."):
        ended = run("verify", name)
        assert ended.code == 2
        assert "is not an archive of bulkfetch" in ended.error


def test_the_schemas_are_shown(run: Run) -> None:
    shown = run("schema", "office/billing_line_items").out
    lines = [line.split() for line in shown.splitlines()]
    assert ["totalForCustomer", "decimal128(38,", "24)", "recorded", "traffic"] in lines
    assert ["billingCycleType", "string", "documentation", "sample"] in lines
    assert ["invoice_id", "string", "not", "null", "bulkfetch"] in lines
    facts = run("schema", "--json").json
    exported = {"graph/reconciliation", "graph/usage"}
    assert set(facts) == {*PROVIDERS_AND_TYPES, *exported, "invoices"}
    assert {
        "name": "id",
        "type": "string",
        "nullable": False,
        "source": "recorded traffic",
    } in facts["invoices"]
    assert facts["azure/usage_line_items"][1] == {
        "name": "line_number",
        "type": "int64",
        "nullable": False,
        "source": "bulkfetch",
    }
    assert {each["source"] for each in facts["azure_data_market/billing_line_items"]} == {
        "bulkfetch",
        "SDK model",
    }


# Bugs


def test_a_bug_of_ours_is_exit_code_3_and_shows_where(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "bulkfetch.cli.commands.schema", raising=False)
    monkeypatch.setitem(sys.modules, "bulkfetch.billing.schemas", None)  # any import of it fails
    ended = run("schema")
    assert ended.code == 3
    assert "Traceback" in ended.err
    assert "this is a bug in bulkfetch; please report it" in ended.err.splitlines()[-1]


class Buggy(ModuleType):
    """A module of a command whose function fails with a secret in its words."""

    def __getattr__(self, name: str) -> object:
        raise ValueError("control: refused canary%2F0123456789 in locals")


def test_a_bug_shows_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    guard_logs("canary/0123456789")
    name = "bulkfetch.cli.commands.schema"
    monkeypatch.setitem(sys.modules, name, Buggy(name))
    ended = run("schema", "--json")
    assert ended.code == 3
    for shown in (ended.out, ended.err):
        assert "control: refused *** in locals" in shown
        assert "0123456789" not in shown


# Processes


def started(*words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bulkfetch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )


def finished(process: subprocess.Popen[str], timeout_s: float = 30) -> Ran:
    out, err = process.communicate(timeout=timeout_s)
    return Ran(process.returncode, out, err)


def long_export(output: Path) -> subprocess.Popen[str]:
    """Start an export whose invoices of 2021 come slowly, and return once some transfer is
    committed."""
    sizes = [
        "--sandbox-line-items",
        "2000",
        "--sandbox-latency-ms",
        "150",
        "--page-size",
        "50",
        "--max-in-flight",
        "8",
    ]
    process = started("export", str(output), "--sandbox", *sizes)
    deadline = time.monotonic() + 30
    while not list(output.glob("_bulkfetch/commits/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
)
def test_a_signal_ends_an_export_within_two_seconds_and_keeps_what_is_committed(
    run: Run, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    lake = tmp_path / "lake"
    process = long_export(lake)
    began = time.monotonic()
    process.send_signal(number)
    ended = finished(process)
    assert time.monotonic() - began < 2
    assert (ended.code, ended.out) == (code, "")
    progress, farewell = ended.err.splitlines()[-2:]
    assert progress.startswith("invoices ")
    assert (
        farewell == f"bulkfetch: {word}; what is committed or whole is kept: "
        "run the same command again to continue"
    )
    committed = len(list(lake.glob("_bulkfetch/commits/*.json")))
    assert 0 < committed < 14
    assert run("verify", str(lake), "--files").code == 0
    assert run("verify", str(lake)).code == 1  # it is not complete
    plan = run("export", str(lake), "--plan", "--json", "--sandbox", "--sandbox-line-items", "2000")
    assert plan.json["requests_at_least"] == 14 - committed


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_ends_a_run_that_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        process = started("invoices", "list", "--token", TOKEN, "--base-url", base_url)
        silent.settimeout(20)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            ended = finished(process, 2)
    assert (ended.code, ended.err) == (130, "bulkfetch: interrupted\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such shell")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("export lake | head -c 1 > /dev/null", 0),
        ("line-items $INVOICE office billing_line_items | head -1 > /dev/null", 0),
        ("schema | head -1 > /dev/null", 0),
        ("config >&-", 0),
        ("export lake >&-", 0),
        ("export lake 2>&-", 0),
        ("invoices list --token another 2>&-", 1),
        pytest.param(
            "config > /dev/full",
            1,
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it"),
        ),
    ],
)
def test_streams_that_are_closed_full_or_left_by_their_reader_are_no_bug(
    run: Run, at_sandbox: SpawnedSandbox, command: str, code: int
) -> None:
    environment = {**os.environ, "INVOICE": an_invoice(run, "office")}
    line = f'set -o pipefail; "{sys.executable}" -m bulkfetch {command}'
    ended = subprocess.run(
        ["bash", "-c", line],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code
    if "/dev/full" in command:
        assert (
            ended.stderr == "bulkfetch: error: the standard output cannot be written to: "
            "No space left on device\n"
        )


def test_results_are_utf_8_in_a_pipe_whatever_the_locale(
    run: Run, at_sandbox: SpawnedSandbox
) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = ["line-items", an_invoice(run, "office"), "office", "billing_line_items"]
    done = subprocess.run(
        [sys.executable, "-m", "bulkfetch", *words],
        env=environment,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert any(not line.isascii() for line in done.stdout.decode("utf-8").splitlines())
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == ROWS


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["export", "--help"], "aiohttp anyio pyarrow msal orjson rich tomllib"),
        (["config"], "aiohttp anyio pyarrow msal rich"),
        (["verify", "lake"], "aiohttp msal obstore rich"),
    ],
)
def test_a_command_loads_only_what_it_needs(
    run: Run, at_sandbox: SpawnedSandbox, words: list[str], heavy: str
) -> None:
    run("export", "lake", "--quiet")
    program = (
        f"import sys; from bulkfetch.cli import main; main({words}); "
        f"print([m for m in '{heavy}'.split() if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"


def test_two_exports_cannot_write_to_one_archive(
    run: Run, at_sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    process = long_export(tmp_path / "lake")
    try:
        ended = run("export", str(tmp_path / "lake"))
    finally:
        process.kill()
        process.communicate()
    assert ended.code == 2
    assert "another bulkfetch is writing to" in ended.error
