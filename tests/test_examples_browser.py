"""The chat example in a real browser, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from asgi_poller import Config, Server
from tests.support.browser import Page, browser, executable

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the path"),
]

LAST_LINE = "document.querySelector('#lines li:last-child')?.textContent"


def serve(port: int = 0) -> Server:
    config = Config("examples.chat:app", port=port, pollers=8, access_log=False, log_config=None)
    server = Server(config)
    server.start()
    return server


def say(page: Page, name: str, text: str) -> None:
    """Type it and press the button."""
    page.run(
        f"document.getElementById('name').value = {name!r};"
        f"document.getElementById('text').value = {text!r};"
        "document.querySelector('button').click()"
    )


def test_two_windows_talk_and_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    server = serve()
    try:
        with browser(tmp_path) as windows:
            ann, bob = windows.open(server.urls[0]), windows.open(server.urls[0])
            for page in (ann, bob):
                page.wait_for("document.getElementById('state').textContent === '2 people here'")
            say(ann, "Ann", "hello <b>there</b>")
            bob.wait_for(f"{LAST_LINE} === 'Annhello <b>there</b>'")  # text, not markup
            say(bob, "Bob", "hi")
            ann.wait_for(f"{LAST_LINE} === 'Bobhi'")
            port = int(server.urls[0].rpartition(":")[2])
            server.stop()
            ann.wait_for("document.getElementById('state').textContent === 'connecting again…'")
            server = serve(port)
            for page in (ann, bob):
                page.wait_for("document.getElementById('state').textContent === '2 people here'")
            say(bob, "Bob", "back again")
            ann.wait_for(f"{LAST_LINE} === 'Bobback again'")
    finally:
        server.stop()
