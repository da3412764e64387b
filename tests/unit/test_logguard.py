from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkfetch.logguard import guard_logs

CANARY = "canary/secret+0123456789=="
LIBRARIES = [
    *("aiohttp.client", "azure.core.pipeline", "botocore.auth", "google.auth", "msal.token_cache"),
    *("urllib3.connectionpool", "requests", "obstore", "asyncio", "of.the.user"),
]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_no_record_of_any_library_has_a_secret(
    name: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    guard_logs(CANARY)
    with caplog.at_level(logging.DEBUG):
        logger = logging.getLogger(name)
        logger.log(level, "GET /x?se=1&%s and control", f"key={CANARY}")
        logger.log(level, "%(a)s", {"a": "canary%2Fsecret%2B0123456789%3D%3D"})
        try:
            raise ValueError(f"refused {CANARY}")
        except ValueError:
            logger.log(level, "failed", exc_info=True)
    shown = caplog.text + str([record.__dict__ for record in caplog.records])
    assert "control" in shown or "not shown" in shown
    assert len(caplog.records) == 3
    assert CANARY not in shown
    assert "0123456789" not in shown


def test_a_signature_that_nobody_told_of_is_hidden_in_what_libraries_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard_logs()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("urllib3.connectionpool").debug(
            '"%s %s HTTP/1.1" %s', "DELETE", "/c/key?se=2030&sig=canarySignature%3D&sp=d", 202
        )
    assert "canarySignature" not in caplog.text
    assert "DELETE /c/key?se=2030&sig=***" in caplog.text


PROGRAM = """
import asyncio, logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(message)s")
for name in ("aiohttp", "azure", "botocore", "msal", "obstore", "urllib3", "requests", "google"):
    logging.getLogger(name).setLevel(logging.DEBUG)
from bulkfetch.cli import main
code = main(sys.argv[1:])
logging.getLogger("urllib3").debug("control-that-must-be-found")
print("code", code)
"""
STORES = {
    "key": ("az://box/lake", {"STORAGE_KEY": "Y2FuYXJ5LWFjY291bnQta2V5LTAxMjM0NTY3ODk="}),
    "sas": (
        "az://box/lake",
        {"STORAGE_SAS": "sv=2024-01-01&sp=rwdl&sig=canarySignature0123456789%3D"},
    ),
    "s3": (
        "s3://box/lake",
        {"STORAGE_KEY": "canary-secret-key-0123456789", "STORAGE_KEY_ID": "ID"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
def test_no_secret_of_an_object_store_is_logged_at_any_level(kind: str, tmp_path: Path) -> None:
    address, given = STORES[kind]
    names = {f"BULKFETCH_{name}": value for name, value in given.items()}
    environment = {**os.environ, **names, "BULKFETCH_TOKEN": "canary-token-0123456789"}
    environment |= {
        "BULKFETCH_STORAGE_ENDPOINT": "http://127.0.0.1:9",
        "BULKFETCH_STORAGE_PATIENCE_S": "0.5",
        "BULKFETCH_STORAGE_ACCOUNT": "account",
        "BULKFETCH_BASE_URL": "http://127.0.0.1:9/v1",
        "BULKFETCH_MAX_ATTEMPTS": "1",
        "PYTHONASYNCIODEBUG": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "export", address],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "control-that-must-be-found" in said
    assert "code 0" not in said
    for canary in ("canary", "0123456789", given.get("STORAGE_KEY", "canary")):
        assert canary not in said, said
