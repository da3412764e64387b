"""What systems and tools put into a directory or bucket that nobody has filled."""

from __future__ import annotations

import re

_NAMES = frozenset(
    name.casefold()
    for name in (
        # the root of a volume: ext, NetApp, ZFS, Lustre, GPFS, quotas
        "lost+found",
        ".snapshot",
        ".snapshots",
        "~snapshot",
        ".zfs",
        ".lustre",
        ".snap",
        ".glusterfs",
        "aquota.user",
        "aquota.group",
        "quota.user",
        "quota.group",
        ".autorelabel",
        # macOS
        ".DS_Store",
        ".localized",
        ".Trashes",
        ".Spotlight-V100",
        ".fseventsd",
        ".TemporaryItems",
        ".DocumentRevisions-V100",
        ".PKInstallSandboxManager",
        ".VolumeIcon.icns",
        ".com.apple.timemachine.donotpresent",
        "Icon\r",
        ".AppleDouble",
        ".AppleDesktop",
        ".AppleDB",
        ".apdisk",
        "Network Trash Folder",
        "Temporary Items",
        # Windows
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "System Volume Information",
        "$RECYCLE.BIN",
        "RECYCLER",
        # network storage and desktops
        "@eaDir",
        "#recycle",
        "#snapshot",
        "@Recycle",
        "@Recently-Snapshot",
        ".@__thumb",
        ".directory",
        ".ipynb_checkpoints",
        ".stfolder",
        # what keeps an empty folder in git and in object stores
        ".gitkeep",
        ".gitignore",
        ".keep",
        ".empty",
        ".placeholder",
    )
)
_PATTERNS = re.compile(
    r"\.Trash-[0-9]+|\._.+|\.nfs[0-9a-f]{8,}|\.fuse_hidden[0-9a-f]+|.*_\$folder\$", re.IGNORECASE
)
"""Trash, what macOS keeps beside a file, deleted files that are open, folders of Hadoop."""


def is_system_file(name: str) -> bool:
    """Return whether a name at the top of a directory or bucket is no data of anybody."""
    return name.casefold() in _NAMES or bool(_PATTERNS.fullmatch(name))
