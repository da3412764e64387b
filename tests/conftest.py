"""Settings that all tests share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same examples every time, so that a landing does not hang on luck; "deep" draws new ones.
settings.register_profile("ci", deadline=None, max_examples=100, print_blob=True, derandomize=True)
settings.register_profile(
    "deep", deadline=None, max_examples=20_000, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("BULKFETCH_TEST_PROFILE", "ci"))
