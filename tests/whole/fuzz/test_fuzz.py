"""A little of the fuzzing that `python tests/whole/fuzz/run.py` does at length, and what it has
found."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole.fuzz import oracle
from whole.fuzz.draws import CANARY, SCHEMAS
from whole.fuzz.run import Share, case_of, main, run_share
from whole.fuzz.targets import TARGETS

GUIDED = Path(__file__).with_name("guided.py")
SMOKE = {name: 60 if name in ("line_items", "client", "sockets") else 300 for name in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_drawn_cases_hold(target: str) -> None:
    outcome = run_share(Share(target, seed=1, first=0, step=1, cases=SMOKE[target], seconds=60))
    assert outcome.failures == ()
    assert outcome.done == SMOKE[target]


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in ("client", "sockets")])
@given(data=st.data())
def test_any_bytes_hold(target: str, data: st.DataObject) -> None:
    drawn = st.randoms(use_true_random=False).map(TARGETS[target].draw)
    with TARGETS[target].opened() as check:
        check(data.draw(st.one_of(st.binary(max_size=60), drawn)))


@pytest.mark.parametrize("target", TARGETS)
def test_a_case_is_the_same_every_time_it_is_drawn(target: str) -> None:
    assert case_of(target, 3, 14) == case_of(target, 3, 14)
    assert case_of(target, 3, 14) != case_of(target, 4, 14) or case_of(target, 3, 15) != case_of(
        target, 4, 15
    )


FOUND = {
    "line_items": [
        b'\x14{"items":[],"Links":{"Next":{"uri":"","headers":[]},"NEXT":{"method":true,"uri":true}}}',
    ],
    "envelope": [
        b'{"items":[],"items":[]}',
        b'{"links":{},"items":[],"Links":{"next":{"uri":"/x"}}}',
        b'{"links":{"next":{"uri":"/x"},"next":null},"items":[]}',
        b'{"links":{"next":{"uri":"/x","uri":null}},"items":[]}',
        b'{"links":{"next":{"uri":1.5}},"items":[]}',
        b'{"continuationToken":1.5,"items":[]}',
        b'{"links":{"\\u0000":{"a":1}},"items":["items"]}',
        b'{"items":[],"links":{"previous":{"uri":true,"uri":1.5}}}',
    ],
    "invoices": [
        b'\x00{"items":[],"linKs":{"previous":{},"Next":1e3,"next":{}},"Items":"/b?offset=4"}'
    ],
    "refusal": [
        (401).to_bytes(2, "big") + b'\0{"description":"Bearer %s\x1b[31m"}' % CANARY.encode()
    ],
}


@pytest.mark.parametrize(
    ("target", "data"), [(name, data) for name, found in FOUND.items() for data in found]
)
def test_what_was_found_holds(target: str, data: bytes) -> None:
    with TARGETS[target].opened() as check:
        check(data)


@pytest.mark.parametrize("number", range(len(SCHEMAS) + 1))
def test_pages_are_read_and_refused_under_every_schema(number: int) -> None:
    """A target that refused, or took, whatever it is given would find nothing."""
    taken = 0
    for seed in range(40):
        body = bytes([number]) + TARGETS["line_items"].draw(Random(seed))[1:]
        with TARGETS["line_items"].opened() as check:
            check(body)
        taken += is_page(body[1:])
    assert 8 <= taken <= 32


def test_the_oracle_knows_what_a_checksum_speaks_for() -> None:
    body = gzip.compress(b"first") + gzip.compress(b"second")
    assert oracle.is_attested(b"firstsecond", body)
    assert not oracle.is_attested(b"firstsecomd", body)
    assert not oracle.is_attested(b"", body)
    assert not oracle.is_attested(b"firstsecond", body + b"x")


def is_page(body: bytes) -> bool:
    try:
        oracle.page_of(body)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"[]"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]x", b"[]"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n",
            b"[]",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[]", None),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", None),
        (b"HTTP/1.1 103 E\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"[]"),
        (
            b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            None,
        ),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n[]", None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]", None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: \xe2\x80\xa8\r\nContent-Length: 2\r\n\r\n[]", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\n[]", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n", None),
    ],
)
def test_the_oracle_knows_a_whole_answer(wire: bytes, body: bytes | None) -> None:
    assert list(oracle.possible_bodies(wire)) == ([] if body is None else [body])


def test_a_failure_names_the_case_and_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("whole.fuzz.targets.retry_after_s", broken)
    outcome = run_share(Share("retry_after", seed=7, first=0, step=1, cases=3, seconds=60))
    assert len(outcome.failures) == 3
    assert outcome.failures[0].startswith(
        "python tests/whole/fuzz/run.py --target retry_after --seed 7 --case 0\n"
    )
    assert "RuntimeError: no" in outcome.failures[0]


def test_the_command_runs_one_case_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--target", "gunzip", "--seed", "7", "--case", "3"])
    assert main() == 0
    assert capsys.readouterr().out == f"{case_of('gunzip', 7, 3)!r}\n"


def test_without_atheris_the_guided_command_says_what_is_missing() -> None:
    hidden = (
        "import sys, runpy; sys.modules['atheris'] = None; sys.argv = ['x']; "
        f"runpy.run_path({str(GUIDED)!r})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "atheris is not installed: "
        "install bulkfetch with the extra `fuzz` (Linux, CPython up to 3.13)\n"
    )
