from __future__ import annotations

import json
import logging

import pytest

from bulkfetch import runlog
from bulkfetch.runlog import RunLog


def test_an_event_is_a_line_of_json_with_its_time() -> None:
    lines: list[bytes] = []
    RunLog(lines.append).note("retry", status=503, wait_s=0.25, pace=None)
    (line,) = lines
    assert line.endswith(b"}\n")
    fact = json.loads(line)
    assert fact.pop("at").startswith("20")
    assert fact == {"event": "retry", "status": 503, "wait_s": 0.25, "pace": None}


def test_events_reach_the_logger_on_one_line_without_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="bulkfetch"):
        RunLog().note("retry", error="a\r\nINFO all is well \x1b[2J", status=None)
    (message,) = caplog.messages
    assert message == "retry error=a  INFO all is well  [2J"


def test_what_is_ordinary_is_traced_only(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[bytes] = []
    log = RunLog(lines.append)
    with caplog.at_level(logging.INFO, logger="bulkfetch"):
        log.trace("answered", bytes=5)
    assert (lines, caplog.messages) == ([], [])
    with caplog.at_level(logging.DEBUG, logger="bulkfetch"):
        log.trace("answered", bytes=5)
    assert caplog.messages == ["answered bytes=5"]


def test_a_log_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "MAX_LINES", 3)
    lines: list[bytes] = []
    log = RunLog(lines.append)
    for _ in range(10):
        log.note("retry")
    assert [json.loads(line)["event"] for line in lines] == ["retry", "retry", "log_full"]


def test_a_disk_that_is_full_ends_the_log_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    def full(_line: bytes) -> None:
        nonlocal asked
        asked += 1
        raise OSError(28, "No space left on device")

    log = RunLog(full)
    log.note("retry")
    log.note("retry")
    assert asked == 1
    assert "cannot be written any more: No space left on device" in caplog.text
