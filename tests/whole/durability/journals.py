"""What may happen to the journals of a killed run before the next one reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

STAGING = Path("_bulkfetch", "staging")

Damage = Callable[[bytes, int, int], bytes]
"""Makes other bytes of those of a journal, at a place and of a length."""

DAMAGES: Mapping[str, Damage] = {
    "nothing": lambda content, at, length: content,
    "cut off": lambda content, at, length: content[:at],
    "a bit flipped": lambda content, at, length: (
        content[:at] + bytes([content[at] ^ 1 << length % 8]) + content[at + 1 :]
    ),
    "zeros to the end": lambda content, at, length: content[:at] + bytes(len(content) - at),
    "a hole": lambda content, at, length: content[:at] + bytes(length) + content[at + length :],
    "something left out": lambda content, at, length: content[:at] + content[at + length :],
    "something twice": lambda content, at, length: content[: at + length] + content[at:],
    "rubbish behind": lambda content, at, length: content + content[at : at + length],
    "empty": lambda content, at, length: b"",
}


def damage_journals(root: Path, random: Random) -> int:
    """Damage each journal of an archive in a way of its own; return how many there are."""
    journals = sorted(root.joinpath(STAGING).glob("*.journal"))
    for journal in journals:
        content = journal.read_bytes()
        damage = DAMAGES[random.choice(sorted(DAMAGES))]
        if content:
            at, length = random.randrange(len(content)), random.randint(1, 2 * len(content))
            journal.write_bytes(damage(content, at, length))
    return len(journals)
