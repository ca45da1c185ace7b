"""Logging configurations that were written for uvicorn, and the access log of a running server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from asgi_poller import logs
from asgi_poller.config import Config
from tests.support.apps import answer
from tests.support.client import get, handshake
from tests.support.frames import close as close_frame
from tests.support.server import serving
from tests.test_logs import ANSI
from tests.test_logs import _logging_as_it_was as _logging_as_it_was  # a fixture for each test


async def greeter(scope: Any, receive: Any, send: Any) -> None:
    """Answers a request, opens a WebSocket; denies `/no`."""
    if scope["type"] == "http":
        await answer(send, b"")
    else:
        await receive()
        if scope["path"] == "/no":
            await send({"type": "websocket.close"})
        else:
            await send({"type": "websocket.accept"})
            await receive()


def access_config(class_name: str, file: Path) -> dict[str, Any]:
    """A user's configuration for uvicorn, with a format of the user's own."""
    return {
        "version": 1,
        "formatters": {
            "access": {
                "()": class_name,
                "fmt": "%(levelprefix)s %(client_addr)s|%(request_line)s|%(status_code)s",
            },
            "plain": {"format": "%(name)s %(message)s"},
        },
        "handlers": {
            "access": {
                "class": "logging.FileHandler",
                "filename": str(file),
                "formatter": "access",
            },
            "plain": {
                "class": "logging.FileHandler",
                "filename": f"{file}.2",
                "formatter": "plain",
            },
        },
        "loggers": {
            "uvicorn": {"handlers": ["plain"], "level": "INFO", "propagate": False},
            "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        },
    }


@pytest.mark.parametrize("use_colors", [False, True])
@pytest.mark.parametrize("house", ["uvicorn.logging", "asgi_poller.logs"])
def test_a_running_server_writes_a_user_s_format_for_requests_and_websockets(
    tmp_path: Path, use_colors: bool, house: str
) -> None:
    """The configuration names uvicorn's loggers alone: they are ours."""
    file = tmp_path / "access"
    given = access_config(f"{house}.AccessFormatter", file)
    logs.configure_logging(Config("a:b", log_config=given, use_colors=use_colors))
    with serving(greeter, access_log=True, lifespan="off") as site:
        with site.connect() as client:
            client.sendall(get())
            assert client.response().status == 200
        with site.websocket() as client:
            client.sendall(close_frame(1000))
            client.rest()
        with site.connect() as client:
            client.sendall(handshake(path="/no"))
            assert client.response().status == 403
    written = file.read_text()
    assert bool(ANSI.search(written)) is use_colors
    if use_colors:
        assert "|\x1b[1mWebSocket /\x1b[0m|" in written
    lines = [line.split("|") for line in ANSI.sub("", written).splitlines()]
    assert [line[1:] for line in lines if not line[2].startswith("[closed")] == [
        ["GET / HTTP/1.1", "200 OK"],
        ["WebSocket /", "[accepted]"],
        ["WebSocket /no", "403 Forbidden"],
    ]
    (ended,) = (line for line in lines if line[2].startswith("[closed"))
    assert ended[2].startswith("[closed 1000 by peer] ")
    assert all(line[0].startswith("INFO:     127.0.0.1:") for line in lines)
    assert "asgi_poller.error Shutting down" in Path(f"{file}.2").read_text()


def test_an_ini_file_for_uvicorn_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "log.ini"
    path.write_text(
        "[loggers]\nkeys=root,uvicorn\n[handlers]\nkeys=h\n[formatters]\nkeys=f\n"
        "[logger_root]\nhandlers=\n"
        "[logger_uvicorn]\nqualname=uvicorn.error\nlevel=INFO\nhandlers=h\npropagate=0\n"
        f"[handler_h]\nclass=FileHandler\nargs=({str(tmp_path / 'out')!r},)\nformatter=f\n"
        "[formatter_f]\nclass=uvicorn.logging.DefaultFormatter\n"
        "format=%(levelprefix)s F %(message)s\n"
    )
    logs.configure_logging(Config("a:b", log_config=path))
    logging.getLogger(logs.ERROR_LOGGER).info("line")
    assert (tmp_path / "out").read_text() == "INFO:     F line\n"


def test_a_configuration_that_names_our_loggers_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = access_config("uvicorn.logging.AccessFormatter", tmp_path / "access")
    given["disable_existing_loggers"] = False
    given["loggers"]["asgi_poller.access"] = {"handlers": [], "propagate": False}
    logs.configure_logging(Config("a:b", log_config=given))
    logging.getLogger(logs.ACCESS_LOGGER).info(logs.ACCESS_HTTP, "a", "GET", "/", "1.1", 200)
    assert (tmp_path / "access").read_text() == ""
