"""Spark in a process of its own: an environment with PySpark, and a session that runs functions.

PySpark is not installed where the tests run: it is large, and takes other versions of pandas.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.environments import environment, give_up

ROOT = Path(__file__).parents[3]
AT_LENGTH = os.environ.get("BULKFETCH_TEST_SPARK") == "all"
"""Whether to try all that there is, as `.ci/long spark` does."""
LONG = pytest.mark.skipif(not AT_LENGTH, reason="takes minutes: `.ci/long spark` runs it")
SPARK_3_5 = "3.5"
SPARK_4 = "4"
_PANDAS = "pandas<3"
_NEEDED = "CI_NEEDS_SPARK"
_END_S = 30.0


def versions() -> tuple[str, ...]:
    """The versions of Spark to try: the newest, or also the first that has data sources."""
    return (SPARK_4, "4.0") if AT_LENGTH else (SPARK_4,)


def writing_versions() -> tuple[str, ...]:
    """The versions of Spark to write archives with: also one without data sources."""
    return (*versions(), SPARK_3_5) if AT_LENGTH else (SPARK_4,)


def spark_python(version: str) -> str:
    """The interpreter of an environment with a version of PySpark and what the project needs.

    Skips where there is no Java or PySpark cannot be installed, unless CI_NEEDS_SPARK says that
    it has to be.
    """
    if shutil.which("java") is None:
        give_up("there is no java: install openjdk-17-jre-headless", _NEEDED)
    return python_with(f"pyspark=={version}.*", _PANDAS)


def python_with(*packages: str) -> str:
    """The interpreter of an environment with packages and what the project needs, which is made
    once and kept; skips as `spark_python` does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    folder = environment(
        re.split("[=<>]", packages[0])[0],
        (*packages, *project["dependencies"]),
        needed=_NEEDED,
        constraints=[each for each in lines if not each.startswith("pandas==")],  # Spark's own
    )
    return str(folder / "python")


CONTROL = "control-in-the-configuration"
"""A value of the configuration whose name says nothing: it is seen wherever secrets would be."""


def watched(folder: Path) -> dict[str, str]:
    """The configuration of a session that shows all that it can, with a control in it."""
    events = folder / "events"
    events.mkdir()
    return {
        "spark.ui.enabled": "true",
        "spark.ui.port": "0",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": events.as_uri(),
        "spark.bulkfetch.handle": CONTROL,
    }


class SparkError(Exception):
    """What a function raised in Spark's process, as the text that a user sees there."""


class Spark:
    """A process with a Spark session."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, version: str) -> None:
        self.version = version
        self._process = process
        self.log = log

    def kill(self) -> None:
        """Kill it, as a machine does that is out of memory."""
        self._process.kill()

    def run(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Return what `function(spark, …)` returns there. Its module is imported there as well.

        Raises SparkError for whatever it raises.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = (function.__module__, function.__name__, arguments, keywords)
        try:
            pickle.dump(call, self._process.stdin)
            self._process.stdin.flush()
            is_good, result = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError) as error:
            raise SparkError(f"the process has ended: {self.log.read_text()[-4000:]}") from error
        if not is_good:
            raise SparkError(result)
        return result


@contextmanager
def open_cluster(folder: Path, *hosts: str) -> Iterator[str]:
    """Start a cluster with one core on each of `hosts`, and yield its address.

    A cluster of `local-cluster` is one host, on which Spark does not run an attempt beside another.
    """
    home = Path(spark_python(SPARK_4)).parents[1]
    (program,) = home.glob("lib/python*/site-packages/pyspark/bin/spark-class")
    deploy = "org.apache.spark.deploy"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"spark://127.0.0.1:{port}"
    master = [f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port)]
    size = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / "work")]
    with ExitStack() as stack:

        def start(host: str, *words: str) -> None:
            log = stack.enter_context((folder / f"cluster-{host}.log").open("wb"))
            process = subprocess.Popen(
                [str(program), *words, "--webui-port", "0"],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={
                    **os.environ,
                    "SPARK_LOCAL_IP": host,
                    "SPARK_DAEMON_MEMORY": "256m",
                    "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
                },
            )
            stack.callback(_end, process)

        start("127.0.0.1", *master)
        for host in hosts:
            start(host, f"{deploy}.worker.Worker", "--host", host, *size, address)
        yield address


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def open_spark(
    folder: Path,
    version: str = SPARK_4,
    *,
    master: str = "local[2]",
    conf: Mapping[str, str] | None = None,
) -> Iterator[Spark]:
    """Start a session in `folder`, and end it after the block."""
    python = spark_python(version)
    log = folder / "spark.log"
    settings = [f"{name}={value}" for name, value in (conf or {}).items()]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [python, "-m", "support.spark.sparksession", master, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env={
                **os.environ,
                "PYSPARK_PYTHON": python,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                "SPARK_LOCAL_IP": "127.0.0.1",
                "TZ": "UTC",
            },
        )
        with process:
            try:
                yield Spark(process, log, version)
            finally:
                if process.stdin is not None:
                    process.stdin.close()
                try:
                    process.wait(_END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
