"""What the tests of whole runs share."""

from __future__ import annotations

import pytest

from bulkfetch.graph import operations


@pytest.fixture(autouse=True)
def exports_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for an export a moment after it was ordered: the sandbox makes it at once. The waits
    themselves are tested with a clock of their own."""
    monkeypatch.setattr(operations, "_FIRST_POLL_S", 0.02)
