"""--reload under the real gunicorn: changes are shown, and mistakes are waited out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.gunicorn import Gunicorn, gunicorn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is not for Windows")

ANSWER = """
async def app(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{}"}})
"""
_RELOADER_S = 3.0  # gunicorn's reloader looks once a second
_ATTEMPTS = 10


def change(server: Gunicorn, module: Path, source: str) -> None:
    """Save `source` until it is noticed: what changes before the reloader's first look is not."""
    reloads = len(server.said("Worker reloading"))
    starts = len(server.said("Application startup complete"))
    for _ in range(_ATTEMPTS):
        draft = module.with_suffix(".draft")
        draft.write_text(source)
        draft.replace(module)
        if server.says("Worker reloading", count=reloads + 1, within_s=_RELOADER_S):
            break
    server.wait_for("Application startup complete", count=starts + 1)


def test_changes_are_shown_and_mistakes_waited_out(tmp_path: Path) -> None:
    module = tmp_path / "edited.py"
    module.write_text(ANSWER.format("first"))
    options = ("--reload", "--reload-engine", "poll", "--pythonpath", str(tmp_path))
    with gunicorn(*options, app="edited:app") as server:
        assert server.get().text == "first"
        change(server, module, "this is (no Python")
        failed = server.get()
        assert failed.status_code == 500
        assert "SyntaxError" in failed.text
        change(server, module, "nothing.at_all")
        assert "NameError" in server.get().text
        change(server, module, ANSWER.format("second"))
        assert server.get().text == "second"


def test_a_mistake_without_reload_ends_gunicorn(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("this is (no Python")
    with gunicorn("--pythonpath", str(tmp_path), app="broken:app", ready=0) as server:
        assert server.wait() == 3
        assert server.said("SyntaxError")
