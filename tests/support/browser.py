"""A real browser, driven over its DevTools protocol with what the tests have anyway.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import DEADLINE_S, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """The browser of this machine, if it has one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def command(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol for this tab; its result."""
        return self._browser.call(method, parameters, self._session)

    def look_like(self, *, width: int, height: int, scheme: str = "light") -> None:
        """Be a window of so many CSS pixels for somebody who likes light or dark."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str) -> None:
        """A key, down and up."""
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13}[key]
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def picture(self) -> bytes:
        """The whole page as PNG, also what has to be scrolled to."""
        shown = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shown["data"])

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript; a promise is waited for."""
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self._browser.call("Runtime.evaluate", parameters, self._session)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        happened = self.run(
            "new Promise((resolve) => {"
            f"  const give_up = Date.now() + {DEADLINE_S * 1000};"
            "  const look = () => {"
            f"    if ({condition}) resolve(true);"
            "    else if (Date.now() > give_up) resolve(false);"
            "    else setTimeout(look, 20);"
            "  };"
            "  look();"
            "})"
        )
        assert happened, (
            f"{condition} is still false; the page: {self.run('document.body.innerText')}"
        )

    def arrive(self, condition: str) -> None:
        """Wait until a JavaScript expression is true on this page or on one that comes after it."""

        def is_there() -> bool:
            try:
                return self.run(condition) is True
            except CallFailed:  # between two pages
                return False

        wait_until(is_there, condition)


class CallFailed(Exception):
    """What the browser says of a call that it could not do."""


class Browser:
    """A headless browser."""

    def __init__(self, channel: ClientConnection) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)

    def open(self, url: str, *, first: str = "") -> Page:
        """A new tab, once it shows the page at `url`, which is an origin: no path, no slash. The
        script `first` runs before those of the page.
        """
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, attached["sessionId"])
        if first:
            page.command("Page.enable")
            page.command("Page.addScriptToEvaluateOnNewDocument", source=first)
        page.command("Page.navigate", url=url)
        page.arrive(f"location.origin === {url!r} && document.readyState === 'complete'")
        return page

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        """Call a method of the protocol; its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._channel.send(json.dumps(message))
        while True:  # events come in between
            answer = json.loads(self._channel.recv(timeout=2 * DEADLINE_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise CallFailed(answer["error"])
                return answer["result"]


@contextmanager
def browser(profile: Path, *more: str) -> Iterator[Browser]:
    """Run one with an empty profile in the directory `profile`, and `more` options."""
    path = executable()
    assert path is not None
    # Without a sandbox, which containers do not allow: it sees nothing but our own pages.
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [path, *options, *more, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        with connect(_address(process.stderr), max_size=None) as channel:
            yield Browser(channel)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _address(errors: IO[str]) -> str:
    for line in errors:
        found = re.search(r"DevTools listening on (ws://\S+)", line)
        if found is not None:
            return found[1]
    raise AssertionError("the browser ended before it listened")
