from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.sandbox.breaking import REWRITES, SCRIPTS, instead, rows_of
from bulkfetch.sandbox.faults import (
    KINDS,
    Fault,
    Faults,
    FaultScript,
    Met,
    concerns,
    is_time,
    read_faults,
)
from bulkfetch.sandbox.graph.api import BROKEN_MANIFESTS
from bulkfetch.sandbox.graph.blobforms import FORMS

PAGE = Met(
    "line_items", "/invoices/D1/lineitems/Office/BillingLineItems", "size=50&offset=0", size=50
)


def met(script: FaultScript, request: Met = PAGE, now: float = 0.0) -> str | None:
    fault = script.meet(request, now)
    return fault.kind if fault else None


def script(*rules: Fault, seed: int = 1) -> FaultScript:
    return FaultScript(Faults(rules, seed))


# --- Which requests meet a fault.


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, True),
        ({"endpoint": "line_items"}, True),
        ({"endpoint": "invoices"}, False),
        ({"path": "*/lineitems/office/*"}, True),
        ({"path": "*/lineitems/azure/*"}, False),
        ({"min_size": 50}, True),
        ({"min_size": 51}, False),
    ],
)
def test_a_rule_is_about_some_requests(rule: dict[str, Any], expected: bool) -> None:
    assert concerns(Fault("close", **rule), PAGE) is expected


def test_signing_in_is_meant_only_by_its_name() -> None:
    signing_in = Met("token", "/t/oauth2/v2.0/token")
    assert not concerns(Fault("close"), signing_in)
    assert concerns(Fault("close", endpoint="token"), signing_in)


def test_the_first_rule_that_fits_decides() -> None:
    rules = script(Fault("close", times=1), Fault("reset"))
    assert [met(rules) for _ in range(3)] == ["close", "reset", "reset"]
    assert rules.met == {"close": 1, "reset": 2}


def test_the_third_request_to_a_path_is_counted_for_each_path() -> None:
    rules = script(Fault("close", nth=(3,)))
    other = replace(PAGE, path="/invoices/D2/lineitems/Office/BillingLineItems")
    assert [met(rules) for _ in range(4)] == [None, None, "close", None]
    assert [met(rules, other) for _ in range(3)] == [None, None, "close"]


def test_only_the_first_attempts_of_a_request_may_be_meant() -> None:
    rules = script(Fault("close", attempts=2))
    first, second = replace(PAGE, request_id="a"), replace(PAGE, request_id="b")
    assert [met(rules, each) for each in (first, first, second, first, second)] == ["close"] * 3 + [
        None,
        "close",
    ]


def test_a_rule_may_hold_for_a_time_only() -> None:
    storm = Fault("close", from_s=2.0, every_s=10.0, for_s=1.0)
    assert [second for second in range(40) if is_time(storm, float(second))] == [2, 12, 22, 32]
    assert not is_time(Fault("close", until_s=5.0), 5.0)
    rules = script(Fault("close", from_s=1.0))
    assert [met(rules, now=now) for now in (100.0, 100.9, 101.0)] == [None, None, "close"]


@given(st.permutations(range(60)), st.integers(0, 9))
def test_the_same_requests_meet_the_same_faults_in_any_order(order: list[int], seed: int) -> None:
    def faulted(offsets: list[int]) -> set[int]:
        rules = script(Fault("close", probability=0.3), seed=seed)
        return {offset for offset in offsets if met(rules, replace(PAGE, query=f"offset={offset}"))}

    assert faulted(order) == faulted(list(range(60)))


def test_a_probability_is_about_the_share_of_the_requests_that_meet_it() -> None:
    rules = script(Fault("close", probability=0.1))
    found = sum(
        met(rules, replace(PAGE, query=f"offset={offset}")) is not None for offset in range(5000)
    )
    assert 400 < found < 600


# --- The file.


def test_a_file_may_say_everything(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(
        """
        seed = 7
        [[fault]]
        kind = "status"
        status = 429
        retry_after = "57"
        path = "*/lineitems/azure/*"
        nth = 3
        probability = 1
        headers = { X-Odd = "yes" }
        [[fault]]
        kind = "reset_body"
        nth = [1, 2]
        share = 0.5
        """
    )
    faults = read_faults(str(path))
    assert faults.seed == 7
    status, reset = faults.rules
    assert (status.status, status.retry_after, status.nth, status.headers) == (
        429,
        "57",
        (3,),
        (("X-Odd", "yes"),),
    )
    assert (reset.kind, reset.nth, reset.share) == ("reset_body", (1, 2), 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no toml", "is not TOML"),
        ("sede = 1", "no such key 'sede'; did you mean 'seed'?"),
        ("[[fault]]\nstatus = 1", "fault 1: its kind is missing"),
        ('[[fault]]\nkind = "rest"', "fault 1: no such kind 'rest'; did you mean 'reset'?"),
        (
            '[[fault]]\nkind = "close"\n[[fault]]\nkind = "reset"\nprobablity = 1',
            "fault 2: no such key 'probablity'",
        ),
        (
            '[[fault]]\nkind = "close"\nprobability = 2',
            "fault 1: probability and share are between 0 and 1",
        ),
        (
            '[[fault]]\nkind = "close"\nprobability = "x"',
            "fault 1: probability is a number, not 'x'",
        ),
        ('[[fault]]\nkind = "close"\nnth = [0]', "fault 1: nth counts from 1"),
        ('[[fault]]\nkind = "close"\nnth = "x"', "fault 1: nth is a number, or a list of them"),
        ('[[fault]]\nkind = "close"\nendpoint = "x"', "fault 1: endpoint is one of any, invoices"),
        ('[[fault]]\nkind = "close"\nbody = "x"', "fault 1: body is one of service"),
        ('[[fault]]\nkind = "status"\nstatus = 42', "fault 1: status has three digits"),
        ('[[fault]]\nkind = "status"\nretry_after = 5', "fault 1: retry_after is a text, not 5"),
        ('[[fault]]\nkind = "status"\nheaders = "x"', "fault 1: headers is a table of texts"),
        ('fault = "x"', "faults are tables"),
    ],
)
def test_a_wrong_file_is_told_by_its_rule_and_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"faults\.toml") as caught:
        read_faults(str(path))
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match=r"nowhere\.toml cannot be read: No such file"):
        read_faults("nowhere.toml")


def test_the_command_refuses_a_wrong_file_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('[[fault]]\nkind = "rest"')
    command = [sys.executable, "-m", "bulkfetch.sandbox", "--faults", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert "did you mean 'reset'?" in ended.stderr.splitlines()[-1]


def test_the_command_lists_every_kind_and_every_key() -> None:
    command = [sys.executable, "-m", "bulkfetch", "sandbox", "--list-faults"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    for name in (*KINDS, *(each.name for each in fields(Fault))):
        assert name in shown


@pytest.mark.parametrize("flag", ["--list-faults", "--help"])
def test_a_list_that_nobody_reads_is_no_bug(flag: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as after `| head`
    command = [sys.executable, "-m", "bulkfetch", "sandbox", flag]
    ended = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


# --- What they do.


def test_every_kind_does_something() -> None:
    by_server = {"delay", "forget_tokens", *FORMS, *BROKEN_MANIFESTS}
    by_graph = {"operation_forgotten", "operation_failed", "operation_running"}
    by_graph |= {"new_generation", "foreign_addresses", "blob_gone", "blob_changed", "no_ranges"}
    done = {
        kind
        for kind in KINDS
        if kind in REWRITES or kind in SCRIPTS or instead(Fault(kind)) is not None
    }
    assert done | by_server | by_graph == set(KINDS)
    assert not set(REWRITES) & set(SCRIPTS)


def test_the_rows_of_a_page_are_told_apart() -> None:
    assert rows_of('{"a":"},{"},{"b":[{"c":1.50}]},{}') == [
        '{"a":"},{"}',
        '{"b":[{"c":1.50}]}',
        "{}",
    ]
    assert rows_of("") == []
