"""The garbage collector of a server's own process is set for many objects that live long."""

from __future__ import annotations

import gc
import sys
import sysconfig

import pytest

from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import answer
from tests.support.command import get, started

KEPT_COUNT = 150_000
kept: list[object] = []
looked_at: list[int] = []


class Circle:
    """It refers to itself."""

    count = 0

    def __init__(self) -> None:
        self.me = self
        Circle.count += 1

    def __del__(self) -> None:
        Circle.count -= 1


def note_search(phase: str, info: dict[str, int]) -> None:
    if phase == "start" and info["generation"] < 2:
        looked_at.append(sum(len(gc.get_objects(each)) for each in range(info["generation"] + 1)))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """/keep: what many WebSockets do; /circles: what careless code does."""
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/keep":
        gc.callbacks.append(note_search)
        kept.extend([] for _ in range(KEPT_COUNT))
        gc.callbacks.remove(note_search)
        await answer(send, str(max(looked_at)).encode())
    else:
        for _ in range(KEPT_COUNT):
            Circle()
        await answer(send, str(Circle.count).encode())


@pytest.mark.skipif(
    sys.version_info >= (3, 14) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="its collector has no such generations",
)
def test_no_search_of_what_is_young_takes_long() -> None:
    """CPython's own rule looks at 110,000 objects at once: 30 ms in which nobody is served."""
    with started(app=f"{__name__}:app") as command:
        command.wait_for("running on")
        assert int(get(command.address, "/keep")) < 25_000
        # and what is garbage is found as soon as before
        assert int(get(command.address, "/circles")) <= 20_000
