"""The progress of a run as a block that is redrawn in place, on a terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bulkfetch.cli.progress import live_block, show_final_line
from bulkfetch.stats import RunStats


class LiveBlock:
    """A block that rich redraws in place, and that the final line replaces.

    No thread draws it, so that nothing is left running when the run is cancelled.
    """

    def __init__(self, stats: RunStats, stream: TextIO) -> None:
        self._stats = stats
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )

    def show(self, now: float) -> None:
        """Draw the block again."""
        ascii_only = not self._console.encoding.lower().startswith("utf")
        lines = live_block(self._stats, now, width=self._console.width, ascii_only=ascii_only)
        text = Text("\n".join(lines), no_wrap=True, overflow="crop")
        text.highlight_regex("━+|#+", "green")
        self._live.start()  # does nothing if it has started
        self._live.update(text, refresh=True)

    def finish(self, now: float) -> None:
        """Remove the block, and write the final line."""
        self._live.stop()
        show_final_line(self._stats, self._stream, now)
