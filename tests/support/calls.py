"""Which functions of the package are called, and from which of its files: for tests that hold a
description of a connection's way to what really happens.

`python -m tests.support.calls APP ...` is the command with every call of each process written to
the file that CALLS_FILE names, a JSON line for each kind of call.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

PACKAGE = f"{Path(__file__).parents[2] / 'asgi_poller'}{os.sep}"
APPLICATION = "application"
FILE_VARIABLE = "CALLS_FILE"
# what runs a loop is below everything that happens on it
_RUN_LOOPS = ("serve/", "worker/")


class Call(NamedTuple):
    """`path` is the file of the function below asgi_poller/ ("" for the application), `stack` the
    files that called it, the nearest first, down to what runs the thread or the loop.
    """

    path: str
    name: str
    stack: tuple[str, ...]


class Calls:
    """Records on each thread that is started after `begin`, and on the one that calls it."""

    def __init__(self, write: Callable[[Call], object]) -> None:
        self._write = write
        self._paths: dict[CodeType, str | None] = {}

    def begin(self) -> None:
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def end(self) -> None:
        """Threads that run already record until they end."""
        threading.setprofile(None)
        sys.setprofile(None)

    def note_application(self) -> None:
        """The application is called; to be called by it."""
        self._write(Call("", APPLICATION, self._stack(sys._getframe(1))))

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            path = self._path(frame)
            if path is not None:
                self._write(Call(path, frame.f_code.co_qualname, self._stack(frame.f_back)))

    def _path(self, frame: FrameType) -> str | None:
        code = frame.f_code
        if code not in self._paths:
            name = code.co_filename
            is_ours = name.startswith(PACKAGE)
            self._paths[code] = name.removeprefix(PACKAGE) if is_ours else None
        return self._paths[code]

    def _stack(self, frame: FrameType | None) -> tuple[str, ...]:
        found = []
        while frame is not None:
            path = self._path(frame)
            if path is not None:
                if path.startswith(_RUN_LOOPS):
                    break
                found.append(path)
            frame = frame.f_back
        return tuple(dict.fromkeys(found))


def _to_file(path: str) -> Calls:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen: set[Call] = set()

    def write(call: Call) -> None:
        if call not in seen:
            seen.add(call)
            os.write(descriptor, (json.dumps(call) + "\n").encode())

    return Calls(write)


def read(path: Path) -> list[Call]:
    """What was written to `path` so far."""
    lines = path.read_text().splitlines()
    return [Call(path, name, tuple(stack)) for path, name, stack in map(json.loads, lines)]


_calls = _to_file(os.environ[FILE_VARIABLE]) if FILE_VARIABLE in os.environ else None
if _calls is not None:
    _calls.begin()


def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> Awaitable[None]:
    """Answers with its process id, or accepts and returns. No coroutine function, so that it sees
    who calls it.
    """
    if _calls is not None and scope["type"] != "lifespan":
        _calls.note_application()
    return _answer(scope, send)


async def _answer(scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


if __name__ == "__main__":
    from asgi_poller.cli import main

    main()
