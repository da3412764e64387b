"""One run in a process of its own, that kills itself at a step: `python child.py OUT BASE_URL TOKEN
STEP`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import anyio
from whole.durability.disks import WatchedDisk, killing
from whole.durability.trial import CUT

from bulkfetch.archive.layout import ARCHIVE, LOCK
from bulkfetch.runs.export import archive
from bulkfetch.runs.run import ExportOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore, prepare_directory


async def main(*words: str) -> None:
    output, base_url, token, step = words
    prepare_directory(Path(output), ARCHIVE)
    store = LocalStore(Path(output), WatchedDisk(killing(int(step))))
    settings = Settings(base_url=base_url, token=Secret(token), **CUT)
    with store.locked(LOCK):
        await archive(ExportOptions(output), settings, store, RunStats())


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
