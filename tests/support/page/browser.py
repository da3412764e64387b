"""A real Chromium without a window, spoken to over a pipe; it reaches loopback and nothing else."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE_S = 60
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def find_browser() -> str | None:
    """Return the path of a Chromium, or None if there is none on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass(slots=True)
class Browser:
    """A running browser: commands go in, and answers and events come out, each ended by NUL."""

    to: int
    back: int
    _numbers: int = 0
    _rest: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        self._numbers += 1
        message = {"id": self._numbers, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._numbers:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> None:
        """Wait until an event has come."""
        while not self.seen(method, session):
            self.events.append(self._receive())

    def seen(self, method: str, session: str) -> list[dict[str, Any]]:
        """Return the parameters of all events of a kind."""
        return [
            each["params"]
            for each in self.events
            if each.get("method") == method and each.get("sessionId") == session
        ]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.back], [], [], _PATIENCE_S)
            assert ready, f"the browser has said nothing for {_PATIENCE_S} s"
            piece = os.read(self.back, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@dataclass(frozen=True, slots=True)
class Tab:
    """A page that is open in a browser."""

    browser: Browser
    session: str

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, session=self.session, **params)

    def evaluate(self, script: str) -> Any:
        """Return what an expression of JavaScript is; the policy of the page does not hold here."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    @property
    def requests(self) -> list[str]:
        """The addresses of all that the page has asked for."""
        sent = self.browser.seen("Network.requestWillBeSent", self.session)
        return [each["request"]["url"] for each in sent]

    @property
    def complaints(self) -> list[str]:
        """What the browser logged: errors, and what the policy of the page forbids."""
        logged = self.browser.seen("Log.entryAdded", self.session)
        return [each["entry"]["text"] for each in logged]


@contextmanager
def running_browser(program: str, folder: Path) -> Iterator[Browser]:
    """Run a browser until the block ends; its profile is in `folder`."""
    their_end, to = os.pipe()
    back, their_start = os.pipe()

    def arrange() -> None:  # it reads from 3 and writes to 4
        os.dup2(their_end, 100)
        os.dup2(their_start, 101)
        os.dup2(100, 3)
        os.dup2(101, 4)

    flags = [*_FLAGS, f"--user-data-dir={folder}"]
    if os.getuid() == 0:
        flags.append("--no-sandbox")  # it refuses to run as root with it
    process = subprocess.Popen(
        [program, *flags],
        preexec_fn=arrange,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_end)
    os.close(their_start)
    browser = Browser(to, back)
    try:
        yield browser
    finally:
        with suppress(OSError, AssertionError):
            browser.call("Browser.close")
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to)
        os.close(back)


@contextmanager
def opened(
    browser: Browser, address: str, *, width: int = 1000, scheme: str = "light"
) -> Iterator[Tab]:
    """Open a page until the block ends, once all that it asks for has come or failed."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
    tab = Tab(browser, attached["sessionId"])
    for domain in ("Page", "Network", "Log", "Runtime"):
        tab.call(f"{domain}.enable")
    tab.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    tab.call("Emulation.setEmulatedMedia", features=features)
    tab.call("Page.navigate", url=address)
    browser.wait_for("Page.loadEventFired", tab.session)
    try:
        yield tab
    finally:
        browser.call("Target.closeTarget", targetId=target)
