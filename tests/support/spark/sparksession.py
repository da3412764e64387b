"""The process of a Spark session: runs the functions that it reads from stdin, as `sparks` says."""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module
from typing import IO, Any

QUICK = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.session.timeZone": "UTC",
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Java prints to stdout
    spark = start(sys.argv[1], dict(each.split("=", 1) for each in sys.argv[2:]))
    try:
        serve(spark, sys.stdin.buffer, answers)
    finally:
        spark.stop()


def start(master: str, conf: dict[str, str]) -> Any:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(master)
    for name, value in {**QUICK, **conf}.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    return spark


def serve(spark: Any, calls: IO[bytes], answers: IO[bytes]) -> None:
    while True:
        try:
            module, name, arguments, keywords = pickle.load(calls)
        except EOFError:
            return
        try:
            answer = True, getattr(import_module(module), name)(spark, *arguments, **keywords)
        except Exception as error:
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
