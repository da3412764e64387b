"""A stand-in for Google Cloud Storage on loopback: the XML API that clients speak, in front of an
S3 server.

The two APIs differ in the names of headers and in generations, numbers that stand for the versions
of an object: https://cloud.google.com/storage/docs/xml-api/reference-headers. It is not Google's:
it shows that bulkfetch speaks as that page says, no more. Tokens are not looked at.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

_TO_S3 = {"x-goog-copy-source": "x-amz-copy-source"}
_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=moto/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
"""Moto wants a signature, and does not look at it."""
_NOT_PASSED_ON = ("authorization", "host", "connection", "transfer-encoding", "content-length")


class StandIn(ThreadingHTTPServer):
    """The server: which generation stands for which ETag of S3, and what clients said of
    themselves."""

    daemon_threads = True

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.tags: dict[str, str] = {}
        self.authorizations: set[str | None] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def generation_of(self, tag: str) -> str:
        number = str(int.from_bytes(tag.strip('"').encode()[:7]) | 1)
        self.tags[number] = tag
        return number


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_GET(self) -> None:
        self._pass_on()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815  the names that http.server calls

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.authorizations.add(self.headers.get("Authorization"))
        connection = HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=30)
        try:
            path, question, query = self.path.partition("?")
            target = (
                quote(unquote(path)) + question + query
            )  # S3 spells hyphens and slashes as they are
            connection.request(self.command, target, body=body, headers=self._for_s3())
            answer = connection.getresponse()
            self._answer(answer, answer.read())
        finally:
            connection.close()

    def _for_s3(self) -> dict[str, str]:
        headers = {
            _TO_S3.get(name.lower(), name): value
            for name, value in self.headers.items()
            if name.lower() not in _NOT_PASSED_ON
        }
        wanted = headers.pop("x-goog-if-generation-match", None)
        if wanted is not None:
            condition = (
                {"If-None-Match": "*"}
                if wanted == "0"
                else {"If-Match": self.server.tags.get(wanted, '"none"')}
            )
            headers |= condition
        return {**headers, "Authorization": _SIGNED}

    def _answer(self, answer: HTTPResponse, content: bytes) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (
                "transfer-encoding",
                "connection",
                "content-length",
                "server",
                "date",
            ):
                self.send_header(name, value)
        tag = answer.getheader("ETag") or _tag_in(content)
        if tag:
            self.send_header("x-goog-generation", self.server.generation_of(tag))
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the output is that of the tests."""


def _tag_in(content: bytes) -> str | None:
    found = re.search(rb"<ETag>([^<]+)</ETag>", content[:1000])
    return found[1].decode().replace("&quot;", '"') if found else None


@contextmanager
def gcs_before(upstream_port: int) -> Iterator[StandIn]:
    """Serve the stand-in before an S3 server until the block ends."""
    with StandIn(upstream_port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
