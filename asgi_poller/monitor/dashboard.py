"""The dashboard: one page with its style and its script inside, so that it loads nothing else.

Its parts are files in page/, of which each can be read by itself; they are joined once.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from asgi_poller.errors import HttpFault
from asgi_poller.metrics.snapshot import Source
from asgi_poller.monitor.access import Audience
from asgi_poller.monitor.application import Headers, Live, Page, Response, status_text
from asgi_poller.monitor.live import LiveFeed

#: In the order in which they use each other.
SCRIPTS = ("readings.js", "words.js", "elements.js", "charts.js", "view.js", "live.js")
_HTML = b"text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Document:
    """A page as it is sent. `policy` is its Content-Security-Policy: it names what the page has
    inside by its hash, and allows nothing but connections to where it comes from.
    """

    body: bytes
    policy: str

    def response(self, status: int = 200, headers: Headers = ()) -> Response:
        """With it."""
        ours = ((b"content-security-policy", self.policy.encode()),)
        return Response(self.body, _HTML, status, (*ours, *headers))


def dashboard_pages() -> dict[str, Page]:
    """The dashboard, by its path."""
    return {"/": Page(Audience.OPERATORS, lambda scope: dashboard().response(), sign_in_page)}


def dashboard_lives(source: Source) -> dict[str, Live]:
    """What the dashboard gets its figures from, by path. For one event loop."""
    return {"/live": Live(Audience.OPERATORS, LiveFeed(lambda: status_text(source)).view)}


@cache
def dashboard() -> Document:
    """The page. The same bytes for every server and every viewer: all figures come later."""
    script = "\n".join(map(_part, SCRIPTS))
    return _document("index.html", f'\n"use strict";\n(() => {{\n{script}}})();\n')


def sign_in_page(fault: HttpFault) -> Response:
    """For a browser that has not given the token yet, or a wrong one."""
    return sign_in().response(fault.status, fault.headers)


@cache
def sign_in() -> Document:
    """A form for the token. Without any script."""
    return _document("sign_in.html", "")


def _document(name: str, script: str) -> Document:
    style = f"\n{_part('style.css')}"
    page = _part(name).replace("/* style.css */", style).replace("/* script.js */", script)
    return Document(page.encode(), policy(style=style, script=script))


def policy(*, style: str, script: str) -> str:
    """A Content-Security-Policy for a page that has one style and one script inside."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "img-src data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


def _part(name: str) -> str:
    return (files("asgi_poller.monitor") / "page" / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """What allows this text, and nothing else, to be inside a page (CSP Level 3, 2.3.1)."""
    if not text:
        return "'none'"
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
