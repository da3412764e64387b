"""A Store in an object store: names, conditions, what is small and what is large, and what a run
that died left."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from random import Random
from typing import Any

import obstore
import pytest
from support.stores.objects_in_memory import Memory

from bulkfetch.archive.layout import ARCHIVE, LOCK, STATE
from bulkfetch.errors import NameTakenError, StorageError
from bulkfetch.storage.objects import ConditionError, Entry, without_folders
from bulkfetch.storage.objectstore import ObjectStore

STAGED = PurePosixPath("_bulkfetch/staging/D1+00000.part")
NAME = PurePosixPath("line_items/provider=office/D%41~1+x-00000.parquet")
LARGE = Random(7).randbytes(300_000)


def staged(store: ObjectStore, content: bytes, name: PurePosixPath = STAGED) -> None:
    file = store.create(name)
    for start in range(0, len(content), 1000):
        file.write(content[start : start + 1000])
    store.seal(file)


def locked(memory: Memory, **options: Any) -> Any:
    """A store that holds the lock, as a context."""
    store = memory.open(**{"chunk_bytes": 100_000, **options})
    lock = store.locked(LOCK)

    class Held:
        def __enter__(self) -> ObjectStore:
            lock.__enter__()
            return store

        def __exit__(self, *error: Any) -> None:
            lock.__exit__(*error)

    return Held()


@pytest.mark.parametrize(
    "content", [b"", b"rows", LARGE[:100_000], LARGE], ids=["empty", "small", "chunk", "large"]
)
def test_a_part_is_seen_when_it_is_linked_and_not_before(content: bytes) -> None:
    memory = Memory()

    with locked(memory) as store:
        staged(store, content)
        before = [name for name in memory.there if not name.startswith(str(STATE))]
        assert store.size(STAGED) == len(content)
        store.link(STAGED, NAME)
        store.unlink(STAGED)

        assert before == []
        assert store.size(STAGED) is None
        assert store.list(PurePosixPath("line_items")) == [NAME]
        assert store.open(NAME).read() == content
    assert memory.there == {str(NAME): content, str(LOCK): b""}


def test_what_is_small_is_sent_once_and_what_is_large_is_staged() -> None:
    memory = Memory()

    with locked(memory) as store:
        staged(store, b"rows")
        assert str(STAGED) not in memory.there
        store.settle(STAGED)
        assert memory.there[str(STAGED)] == b"rows"
        store.settle(STAGED)
        store.link(STAGED, NAME)
        assert memory.there[str(NAME)] == b"rows"
        store.unlink(STAGED)
        store.unlink(NAME)

        staged(store, LARGE)
        assert memory.there[str(STAGED)] == LARGE
        store.settle(STAGED)
        store.link(STAGED, NAME)
        store.unlink(STAGED)
        assert memory.there[str(NAME)] == LARGE
        assert str(STAGED) not in memory.there


def test_an_upload_that_is_given_up_leaves_nothing() -> None:
    memory = Memory()

    with locked(memory) as store:
        for content in (b"rows", LARGE):
            file = store.create(STAGED)
            file.write(content)
            file.close()
            store.remove(STAGED)

        assert memory.ended == [str(STAGED)]
        assert store.list(PurePosixPath()) == [LOCK]
        assert list(memory.there) == [str(LOCK)]


def test_uploads_of_a_run_that_died_are_ended_by_the_next() -> None:
    memory = Memory()
    with locked(memory) as store:
        store.create(STAGED).write(LARGE)
        marker = [name for name in memory.there if "uploads" in name]
        assert marker == [f"_bulkfetch/uploads/{STAGED}"]
        assert store.list(STATE) == [LOCK], "markers are nobody's business"
        died = dict(memory.there)
    survivor = Memory()
    for name, content in died.items():
        obstore.put(survivor.store, name, b"" if name == str(LOCK) else content)
    obstore.put(survivor.store, f"{LOCK}.0123", b"")

    with locked(survivor):
        assert survivor.ended == [str(STAGED)]

    assert list(survivor.there) == [str(LOCK)]


def test_an_upload_that_was_completed_stays_though_its_marker_is_there() -> None:
    memory = Memory()
    obstore.put(memory.store, f"_bulkfetch/uploads/{STAGED}", b"")
    obstore.put(memory.store, str(STAGED), b"whole")

    with locked(memory) as store:
        assert store.read(STAGED) == b"whole"

    assert list(memory.there) == [str(LOCK), str(STAGED)]


def test_a_small_file_is_replaced_only_if_it_is_the_one_that_is_known() -> None:
    memory = Memory()
    with locked(memory) as store:
        store.write(ARCHIVE, b"1")
        store.write(ARCHIVE, b"2")
        obstore.put(memory.store, str(ARCHIVE), b"of somebody else")

        with pytest.raises(ConditionError, match=r"archive\.json was changed by another program"):
            store.write(ARCHIVE, b"3")

        store.read(ARCHIVE)
        store.write(ARCHIVE, b"4")
    assert memory.there[str(ARCHIVE)] == b"4"


def test_a_commit_is_created_only_if_there_is_none_that_this_run_does_not_know() -> None:
    memory = Memory()
    with locked(memory) as store:
        obstore.put(memory.store, str(NAME), b"of somebody else")

        with pytest.raises(ConditionError):
            store.write(NAME, b"mine")

        store.write(ARCHIVE, b"mine")
        obstore.put(memory.store, "same", b"mine")
        store.write(PurePosixPath("same"), b"mine")  # as after an answer that was lost
    assert memory.there[str(NAME)] == b"of somebody else"


def test_what_earlier_runs_left_is_known_from_a_listing_and_can_be_replaced() -> None:
    memory = Memory()
    obstore.put(memory.store, str(ARCHIVE), b"earlier")

    with locked(memory) as store:
        assert store.read(ARCHIVE) == b"earlier"
        store.write(ARCHIVE, b"later")
        assert store.remove(ARCHIVE)
        assert not store.remove(ARCHIVE)
        assert store.read(ARCHIVE) is None
        with pytest.raises(StorageError, match="the object is gone"):
            store.open(ARCHIVE)


def test_what_is_not_there_costs_no_request() -> None:
    memory = Memory()
    store = memory.open()
    assert store.list(PurePosixPath()) == []
    memory.store = None
    store._objects._store = None  # type: ignore[assignment]  # every request to it fails

    assert store.read(NAME) is None
    assert store.size(NAME) is None
    assert not store.remove(NAME)


def test_a_file_that_was_removed_meanwhile_is_not_there() -> None:
    memory = Memory()
    obstore.put(memory.store, str(NAME), b"rows")
    store = memory.open()
    file = store.open(NAME)
    obstore.delete(memory.store, str(NAME))

    with pytest.raises(StorageError, match="the object is gone"):
        file.read()
    assert store.read(NAME) is None
    assert store.size(NAME) is None


def test_a_part_that_is_gone_cannot_be_linked() -> None:
    memory = Memory()

    with locked(memory) as store, pytest.raises(StorageError, match="the object is gone"):
        store.link(STAGED, NAME)
    with locked(memory) as store:
        staged(store, LARGE)
        obstore.delete(memory.store, str(STAGED))
        with pytest.raises(StorageError, match="the object is gone"):
            store.link(STAGED, NAME)


def test_an_object_of_others_is_not_replaced() -> None:
    memory = Memory()
    with locked(memory) as store:
        staged(store, b"rows")
        obstore.put(memory.store, str(NAME), b"of others")
        with pytest.raises(NameTakenError, match="did not write"):
            store.link(STAGED, NAME)
    assert memory.there[str(NAME)] == b"of others"


def test_a_record_is_renamed_by_a_copy_and_a_removal() -> None:
    memory = Memory()
    source, target = (
        PurePosixPath("_bulkfetch/commits/T.next"),
        PurePosixPath("_bulkfetch/commits/T.json"),
    )
    with locked(memory) as store:
        store.put(source, b"{}")
        store.rename(source, target)
        assert store.read(target) == b"{}"
        assert not store.is_free(target)
        assert store.is_free(source)
        assert not store.is_free(target.parent)
    assert str(source) not in memory.there


@pytest.mark.parametrize("seed", range(5))
def test_a_file_reads_like_one_on_a_disk(seed: int) -> None:
    memory, random = Memory(), Random(seed)
    content = random.randbytes(9_000_000)
    obstore.put(memory.store, str(NAME), content)
    file, disk = memory.open().open(NAME), io.BytesIO(content)

    for _ in range(40):
        if random.random() < 0.5:
            place, whence = random.choice(
                [(0, 2), (random.randrange(9_000_000), 0), (-random.randrange(10_000), 2)]
            )
            assert file.seek(place, whence) == disk.seek(place, whence)
        size = random.choice([0, 1, 8, 1000, 65_536, 1 << 20, 5 << 20])
        assert file.read(size) == disk.read(size)
        assert file.tell() == disk.tell()
    assert file.read() == disk.read()


def test_an_archive_is_told_from_other_things_below_a_prefix() -> None:
    memory = Memory()
    assert not memory.open().lacks(ARCHIVE)
    obstore.put(memory.store, "_bulkfetch/lock", b"")
    assert not memory.open().lacks(ARCHIVE)
    obstore.put(memory.store, "photos/1.jpg", b"")
    assert memory.open().lacks(ARCHIVE)
    obstore.put(memory.store, str(ARCHIVE), b"")
    assert not memory.open().lacks(ARCHIVE)


@pytest.mark.parametrize("name", [".keep", "lost+found/x", "_$folder$", ".DS_Store", "a_$folder$"])
def test_what_a_tool_leaves_in_an_empty_prefix_does_not_fill_it(name: str) -> None:
    memory = Memory()
    obstore.put(memory.store, name, b"")
    assert not memory.open().lacks(ARCHIVE)
    obstore.put(memory.store, "photo.jpg", b"")
    assert memory.open().lacks(ARCHIVE)


def test_empty_objects_that_stand_for_folders_are_not_listed() -> None:
    entry = Entry(0, datetime.now(UTC), None, None)
    whole = replace(entry, size=4)
    found = {
        PurePosixPath(): entry,
        PurePosixPath("line_items"): entry,
        PurePosixPath("line_items/a"): entry,
        PurePosixPath("line_items/a/part.parquet"): whole,
        PurePosixPath("line_items/ab"): entry,
        PurePosixPath("full"): whole,
        PurePosixPath("full/below"): whole,
    }

    left = {str(name) for name in without_folders(found)}

    assert left == {"line_items/a/part.parquet", "line_items/ab", "full", "full/below"}
    assert without_folders({}) == {}
