from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from support.stores import objectservers
from support.stores.objectservers import (
    AZURITE_VARIABLE,
    ObjectServer,
    ServerFailedError,
    ServerMissingError,
    azurite,
    find_azurite,
    moto,
    opened,
)

pytestmark = pytest.mark.slow  # these test what tests use

MIB = 1 << 20
NAMES = ["a/b.parquet", "provider=x/é +%41#?&=y z.json", " lead", "c"]


def test_what_a_client_puts_is_there_to_list_and_read(
    object_server: ObjectServer, container: str
) -> None:
    store = opened(object_server, container)

    for name in NAMES:
        obstore.put(store, name, name.encode())

    assert object_server.names(container) == {name: len(name.encode()) for name in NAMES}
    assert [object_server.read(container, name) for name in NAMES] == [
        name.encode() for name in NAMES
    ]


def test_what_is_written_is_there_for_a_client_until_it_is_removed(
    object_server: ObjectServer, container: str
) -> None:
    store = opened(object_server, container)

    for name in NAMES:
        object_server.write(container, name, name.encode())

    assert [bytes(obstore.get(store, name).bytes()) for name in NAMES] == [
        name.encode() for name in NAMES
    ]
    for name in NAMES:
        object_server.remove(container, name)
    assert obstore.list(store).collect() == []
    assert object_server.names(container) == {}


def test_an_object_may_be_empty(object_server: ObjectServer, container: str) -> None:
    object_server.write(container, "empty", b"")

    assert object_server.names(container) == {"empty": 0}
    assert object_server.read(container, "empty") == b""


@pytest.mark.parametrize("page_names", [1, 2, 3, 7, 8])
def test_a_listing_of_several_pages_is_whole(
    object_server: ObjectServer, container: str, page_names: int
) -> None:
    names = {f"{number:03}&+": number for number in range(7)}
    for name, size in names.items():
        object_server.write(container, name, b"x" * size)

    assert replace(object_server, page_names=page_names).names(container) == names


def test_an_upload_that_was_begun_and_dropped_is_unfinished(
    object_server: ObjectServer, container: str
) -> None:
    store = opened(object_server, container)
    obstore.put(store, "whole", b"x")
    for name in ("begun/é +", "begun/b"):
        writer = obstore.open_writer(store, name, buffer_size=5 * MIB)
        writer.write(os.urandom(12 * MIB))
        wait_until_unfinished(object_server, container, name)  # blocks are sent in the background
        del writer

    assert object_server.unfinished(container) == ["begun/b", "begun/é +"]
    assert replace(object_server, page_names=1).unfinished(container) == ["begun/b", "begun/é +"]
    assert object_server.names(container) == {"whole": 1}


def wait_until_unfinished(server: ObjectServer, container: str, name: str) -> None:
    until = time.monotonic() + 20
    while name not in server.unfinished(container):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_upload_that_was_completed_is_not_unfinished(
    object_server: ObjectServer, container: str
) -> None:
    content = os.urandom(12 * MIB)

    with obstore.open_writer(
        opened(object_server, container), "big", buffer_size=5 * MIB
    ) as writer:
        writer.write(content)

    assert object_server.unfinished(container) == []
    assert object_server.read(container, "big") == content


def test_what_is_not_there_is_an_error(object_server: ObjectServer, container: str) -> None:
    with pytest.raises(Exception, match=r"NoSuchKey|BlobNotFound"):
        object_server.read(container, "nothing")


@pytest.fixture(params=[moto, azurite], ids=["moto", "azurite"])
def start(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[ObjectServer]]:
    request.getfixturevalue(
        "s3_server" if request.param is moto else "azure_server"
    )  # skips where it is missing
    starts: Callable[[], AbstractContextManager[ObjectServer]] = request.param
    return starts


def test_a_server_ends_and_leaves_nothing(
    start: Callable[[], AbstractContextManager[ObjectServer]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    processes = watched(monkeypatch)
    with start() as server:
        server.create("lake")
        assert server.names("lake") == {}
        assert len(list(tmp_path.iterdir())) == 1

    assert [process.poll() is None for process in processes] == [False]
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_server_ends_when_a_test_fails(
    start: Callable[[], AbstractContextManager[ObjectServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = watched(monkeypatch)
    with pytest.raises(ZeroDivisionError), start():
        raise ZeroDivisionError

    assert [process.poll() is None for process in processes] == [False]


def test_a_server_ends_when_the_tests_are_killed(
    start: Callable[[], AbstractContextManager[ObjectServer]], tmp_path: Path
) -> None:
    program = f"""
import tempfile, time
from support.stores import objectservers
tempfile.tempdir = {str(tmp_path)!r}
with objectservers.{start.__name__}() as server:
    print(server.port, flush=True)
    time.sleep(60)
"""
    tests = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    with tests:
        assert tests.stdout is not None
        port = int(tests.stdout.readline())
        assert is_open(port)
        tests.kill()

    until = time.monotonic() + 20
    while is_open(port) or list(tmp_path.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.02)


def is_open(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def watched(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return the processes that are started from now on."""
    processes: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, args: list[str], **others: object) -> None:
            super().__init__(args, **others)  # type: ignore[call-overload]  # whatever was passed
            processes.append(self)

    monkeypatch.setattr("support.stores.objectservers.subprocess.Popen", Watched)
    return processes


def test_azurite_is_told_to_report_to_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        AZURITE_VARIABLE, str(program(tmp_path / "azurite-blob", 'echo "$@"; exit 3'))
    )

    with pytest.raises(ServerFailedError, match="ended with 3") as caught, azurite():
        pass

    for word in (
        "--blobHost 127.0.0.1",
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ):
        assert word in str(caught.value).partition("ended with 3")[2]


def test_a_server_that_does_not_answer_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        AZURITE_VARIABLE, str(program(tmp_path / "azurite-blob", "echo hello; exec sleep 60"))
    )
    monkeypatch.setattr(objectservers, "READY_WITHIN_S", 0.5)
    processes = watched(monkeypatch)

    with pytest.raises(ServerFailedError, match="did not answer: hello"), azurite():
        pass

    assert [process.poll() is None for process in processes] == [False]


def test_azurite_is_found_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".bin").mkdir()
    there = program(tmp_path / ".bin" / "azurite-blob", "exit 0")

    for told in (there, tmp_path):
        monkeypatch.setenv(AZURITE_VARIABLE, str(told))
        assert find_azurite() == there


def test_azurite_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = program(tmp_path / "azurite-blob", "exit 0")
    monkeypatch.delenv(AZURITE_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_azurite() == there


def test_an_azurite_that_is_not_where_the_environment_says_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(AZURITE_VARIABLE, str(tmp_path / "nothing"))

    with pytest.raises(ServerMissingError, match=r"names .*nothing.*npm install azurite"):
        find_azurite()


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
