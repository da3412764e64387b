from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from urllib.request import Request, urlopen

import pytest

from bulkfetch.sandbox import SandboxOptions, add_arguments, options_from_arguments


def parsed(*words: str) -> SandboxOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return options_from_arguments(parser.parse_args(words))


@contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-m", "bulkfetch.sandbox", "--line-items", "10", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_every_option_has_an_argument_with_the_same_default() -> None:
    assert parsed() == SandboxOptions()


def test_arguments_become_options() -> None:
    options = parsed(
        *(
            "--line-items",
            "1000000",
            "--details",
            "office/billing_line_items,azure/usage_line_items",
        ),
        *(
            "--short-page",
            "3",
            "--past-end",
            "stall",
            "--gzip",
            "--token-lifetime",
            "5",
            "--latency-ms",
            "1.5",
        ),
    )

    assert options == SandboxOptions(
        line_items=1_000_000,
        details=("office/billing_line_items", "azure/usage_line_items"),
        short_page=3,
        past_end="stall",
        gzip=True,
        token_lifetime_s=5,
        latency_ms=1.5,
    )
    assert {field.name for field in fields(options)} >= {"until_stdin_closes", "seed"}


def test_an_unknown_detail_is_refused() -> None:
    with pytest.raises(ValueError, match="no such detail: office/usage"):
        parsed("--details", "office/usage")


def test_the_command_tells_where_it_is_and_serves_until_it_is_told_to_stop() -> None:
    with command() as process:
        assert process.stdout
        ready = json.loads(process.stdout.readline())
        request = Request(
            f"{ready['base_url']}/invoices", headers={"Authorization": f"Bearer {ready['token']}"}
        )
        with urlopen(request, timeout=5) as answer:
            body = json.loads(answer.read().decode("utf-8-sig"))
        process.send_signal(signal.SIGTERM)
        rest, hint = process.communicate(timeout=5)

    of_graph = {"graph_url", "graph_token", "blob_url"}
    assert set(ready) == {"base_url", "token", "pid", "authority", "tenant_id"} | of_graph
    assert ready["pid"] == process.pid
    assert len(body["items"]) == 6
    assert (process.returncode, rest) == (0, "")
    assert ready["base_url"] in hint


def test_the_command_can_end_with_its_standard_input() -> None:
    with command("--until-stdin-closes") as process:
        assert process.stdout
        process.stdout.readline()
        process.communicate(timeout=5)

    assert process.returncode == 0


def test_the_command_refuses_what_makes_no_sense() -> None:
    with command("--details", "nothing/at_all") as process:
        _, words = process.communicate(timeout=5)

    assert process.returncode == 2
    assert "no such detail" in words
