from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.scratch import close_scratch, open_scratch

NAME = PurePosixPath("_bulkfetch/staging/T.journal")


def opened(place: Path, owner: str = "s3://bucket/lake") -> LocalStore:
    store, why = open_scratch([place], owner, needed_bytes=1)
    assert store is not None, why
    return store


def fill(store: LocalStore) -> None:
    with store.create(NAME) as file:
        file.write(b"page")


def test_a_scratch_directory_is_open_to_its_user_alone(tmp_path: Path) -> None:
    place = tmp_path / "new" / "place"
    for _ in range(2):
        store = opened(place)
        for folder in (store.root, store.root.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            folder.chmod(0o755)  # and it is closed again


def test_each_owner_has_a_directory_and_finds_it_again(tmp_path: Path) -> None:
    fill(opened(tmp_path, "one"))

    assert opened(tmp_path, "one").read(NAME) == b"page"
    assert opened(tmp_path, "two").read(NAME) is None


def test_what_is_empty_is_removed_at_the_end_and_nothing_else(tmp_path: Path) -> None:
    one, two = opened(tmp_path, "one"), opened(tmp_path, "two")
    for store in (one, two):
        fill(store)
    one.unlink(NAME)

    close_scratch(one)
    close_scratch(two)

    assert not one.root.exists()
    assert two.read(NAME) == b"page"
    two.unlink(NAME)
    close_scratch(two)
    assert list(tmp_path.iterdir()) == []


def make_file(place: Path) -> None:
    place.write_bytes(b"")


def make_link(place: Path) -> None:
    store = opened(place)
    (place / "elsewhere").mkdir()
    store.root.rmdir()
    store.root.parent.rmdir()
    store.root.parent.symlink_to(place / "elsewhere")


@pytest.mark.parametrize("spoil", [make_file, make_link])
def test_a_place_that_is_not_usable_is_passed_over(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    spoil(bad)

    store, _ = open_scratch([bad, good], "owner", needed_bytes=1)
    none, why = open_scratch([bad], "owner", needed_bytes=1)

    assert store is not None
    assert store.root.is_relative_to(good)
    assert none is None
    assert str(bad) in why


def test_a_place_without_room_is_passed_over_and_left_as_it_was(tmp_path: Path) -> None:
    store, why = open_scratch([tmp_path], "owner", needed_bytes=1 << 60)

    assert store is None
    assert why.endswith("MiB free, 1099511627776 are needed")
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_there_is_none() -> None:
    assert open_scratch([], "owner") == (None, "there is no place for them")
