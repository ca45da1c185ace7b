"""The dashboard's page as it is sent: all of it in one piece, nothing from elsewhere, nothing that
a policy would stop. What it does in a browser is in test_dashboard_browser.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import pytest

from asgi_poller.monitor.dashboard import SCRIPTS, Document, dashboard, sign_in
from tests.monitor.sources import answering, monitor, snapshot
from tests.monitor.test_application import ask

DOCUMENTS = pytest.mark.parametrize("document", [dashboard(), sign_in()], ids=["page", "sign-in"])


def directives(document: Document) -> dict[str, str]:
    """The policy's sources by their directive."""
    pairs = (each.partition(" ")[::2] for each in document.policy.split("; "))
    return dict(pairs)


@DOCUMENTS
def test_the_policy_allows_what_is_inside_and_nothing_else(document: Document) -> None:
    page, allowed = document.body.decode(), directives(document)
    assert allowed["default-src"] == "'none'"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        inside = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in inside]
        hashes = [f"'sha256-{base64.b64encode(each).decode()}'" for each in digests]
        assert allowed[directive].split() == (hashes or ["'none'"])
    assert "unsafe" not in document.policy


@DOCUMENTS
def test_it_is_whole_and_asks_nobody_else(document: Document) -> None:
    page = document.body.decode().replace("http://www.w3.org/2000/svg", "")
    assert "/* style.css */" not in page
    assert "/* script.js */" not in page
    assert re.findall(r"https?://", page) == []
    assert re.findall(r"""(?:src|href)=["'](?!data:|#|metrics|status)""", page) == []
    assert re.findall(r"\son\w+=|\sstyle=", page) == [], "a policy stops these"


def test_the_script_makes_no_markup_of_what_it_is_told() -> None:
    folder = files("asgi_poller.monitor") / "page"
    scripts = {each.name for each in folder.iterdir() if each.name.endswith(".js")}
    assert scripts == set(SCRIPTS)
    for name in SCRIPTS:
        text = (folder / name).read_text(encoding="utf-8")
        assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval", text) == []


def test_who_may_see_it() -> None:
    with monitor(answering(snapshot())) as port:
        answer = ask(port, "/")
        assert (answer.status, answer.body) == (200, dashboard().body)
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert answer.header("content-security-policy") == dashboard().policy
        assert ask(port, "/", host="evil.example").status == 403
        assert ask(port, "/", method="HEAD").body == b""
    with monitor(answering(snapshot()), metrics="0.0.0.0:0") as port:
        assert ask(port, "/").status == 403


def test_a_browser_is_asked_for_the_token() -> None:
    with monitor(answering(snapshot()), metrics_token="s3cret") as port:
        for path in ("/", "/?token=wrong"):
            answer = ask(port, path)
            assert (answer.status, answer.body) == (401, sign_in().body)
            assert answer.header("content-security-policy") == sign_in().policy
            assert answer.header("www-authenticate") == "Bearer"
        signed_in = ask(port, "/?token=s3cret")
        assert (signed_in.status, signed_in.header("location")) == (303, "/")
        cookie = (signed_in.header("set-cookie") or "").partition(";")[0]
        assert ask(port, "/", f"Cookie: {cookie}").body == dashboard().body
