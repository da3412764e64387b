"""Whether answers belong to requests, by the id that both have."""

from __future__ import annotations

from collections.abc import Callable

REQUEST_ID = "MS-RequestId"
_FIRST = 20
"""If so many answers have an id of their own, it is not the request's: some gateways make one."""


class Echoes:
    """Compares the ids of a run's answers with those of its requests.

    An id that differs means something only once another answer had the right one. If none of the
    first ones had, the check is off, and `on_off` is called.
    """

    def __init__(self, on_off: Callable[[], None] = lambda: None) -> None:
        self._on_off = on_off
        self._differing = 0
        self._has_matched = False

    def belongs(self, sent: str, echoed: str | None) -> bool:
        """Return whether an answer with the id `echoed` may be that to the request with the id
        `sent`."""
        if echoed is None or self._is_off:
            return True
        # a gateway may have added an id of its own
        if sent.casefold() in [each.strip().casefold() for each in echoed.split(",")]:
            self._has_matched = True
            return True
        if self._has_matched:
            return False
        self._differing += 1
        if self._is_off:
            self._on_off()
        return True

    @property
    def _is_off(self) -> bool:
        return self._differing >= _FIRST
