"""Messages between the supervisor and its children, however they are cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_poller.ipc.control import Control, Lines, Message, encoded


def test_messages_are_read_however_they_are_cut() -> None:
    data = encoded("ready", threads=[1, 2]) + encoded("leaving")
    for cut in range(len(data)):
        lines = Lines()
        messages = lines.feed(data[:cut]) + lines.feed(data[cut:])
        assert messages == [{"kind": "ready", "threads": [1, 2]}, {"kind": "leaving"}]


@pytest.mark.parametrize("data", [b"[]\n", b"{}\n", b'{"kind": 1}\n', b"\xff\n", b"x" * 2_000_000])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        Lines().feed(data)


@contextlib.asynccontextmanager
async def controlled() -> AsyncIterator[tuple[Control, socket.socket, asyncio.Queue[Any]]]:
    """A Control, the other end, and a queue of what it told; None is the end."""
    told: asyncio.Queue[Message | None] = asyncio.Queue()
    ours, theirs = socket.socketpair()
    control = Control(ours, on_message=told.put_nowait, on_end=lambda: told.put_nowait(None))
    with theirs:
        yield control, theirs, told
    control.close()


async def test_a_slow_reader_gets_everything_in_the_end() -> None:
    async with controlled() as (control, theirs, _):
        for number in range(3000):
            control.send("drain", number=number, padding="x" * 1000)
        theirs.setblocking(False)
        lines = Lines()
        messages: list[Message] = []
        while len(messages) < 3000:
            messages += lines.feed(await asyncio.get_running_loop().sock_recv(theirs, 65536))
        assert [message["number"] for message in messages] == list(range(3000))


async def test_the_end_is_told_once_and_sending_to_nobody_is_harmless() -> None:
    async with controlled() as (control, theirs, told):
        theirs.sendall(encoded("leaving"))
        theirs.close()
        control.send("drain")
        control.read_now()
        assert told.get_nowait() == {"kind": "leaving"}
        assert told.get_nowait() is None
        control.send("drain")
        control.read_now()
        assert told.empty()


async def test_one_that_babbles_is_hung_up_on(caplog: pytest.LogCaptureFixture) -> None:
    async with controlled() as (_, theirs, told):
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert await told.get() is None
        assert theirs.recv(1) == b""
    assert "what came is no message" in caplog.text
