"""Spark 3.5 reads an archive without options: every row, exact amounts, the unset date of year 1.

It runs in an environment of its own, because it takes other versions of pandas than the project.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.spark.sparks import SPARK_3_5, spark_python
from support.tables.priced import (
    OFFICE,
    ONE_TIME,
    USAGE,
    WHOLE,
    WITH_DECIMALS,
    archive_prices,
    total_of,
)

PAGE = (Path(__file__).parents[3] / "docs" / "reading.md").read_text()
RECIPE = re.findall(r"<!-- recipe: price-spark -->\n```python\n(.*?)^```$", PAGE, re.M | re.S)[0]
CAST = re.findall(r"^\| Spark \| `(.+)` \|$", PAGE, re.M)[0]
UNSET_AS_NULL = re.findall(r"`(nullif\([^`]+\))`", PAGE)[0]
FINER_PRICE = ("1", "100.5")
"""A price of more digits before the point than the cast of usage keeps."""

PROGRAM = """
import json, sys
from pyspark.sql import SparkSession

spark = (
    SparkSession.builder.master("local[1]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")
    .config("spark.sql.shuffle.partitions", "1")
    .config("spark.sql.codegen.wholeStage", "false")
    .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("OFF")
found = {}
for name in sys.argv[3:]:
    folder = f"lake/line_items/provider={name.split('/')[0]}/line_item_type={name.split('/')[1]}"
    frame = spark.read.parquet(folder)
    rows = frame.selectExpr(
        "cast(unitPrice as string) as price",
        "cast(pcToBCExchangeRateDate as string) as day" if "one_time" in name else "null as day",
        f"cast({sys.argv[1]} as string) as product",
        f"{sys.argv[2]} as collected" if "one_time" in name else "null as collected",
    ).collect()
    found[name] = [row.asDict() for row in rows]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_spark_reads_every_row_without_options_and_multiplies_exactly(tmp_path: Path) -> None:
    python = spark_python(SPARK_3_5)
    details = ["/".join(each) for each in (OFFICE, ONE_TIME, USAGE)]
    anyio.run(archive_prices, tmp_path / "lake", [*WITH_DECIMALS, FINER_PRICE])

    ended = subprocess.run(
        [python, "-c", PROGRAM + RECIPE, CAST, UNSET_AS_NULL, *details],
        cwd=tmp_path,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert ended.returncode == 0, ended.stderr
    first, *shown = ended.stdout.splitlines()
    found: dict[str, list[dict[str, Any]]] = json.loads(first)
    assert [len(found[each]) for each in details] == [4, 4, 5]
    for name, pairs in zip(details, (WHOLE, WHOLE, [*WITH_DECIMALS, FINER_PRICE]), strict=True):
        prices = [Decimal(row["price"]) for row in found[name]]
        assert prices == [Decimal(price.strip('"')) for _, price in pairs]
    dates = {(row["day"], row["collected"]) for row in found[details[1]]}
    assert dates == {("0001-01-01 00:00:00", None)}
    for name in details[:2]:
        assert sum(Decimal(row["product"]) for row in found[name]) == total_of(WHOLE)
    total, inexact = re.findall(r"[-\d.]+", shown[3])
    assert (Decimal(total), inexact) == (total_of(WITH_DECIMALS), "1")
