"""Messages between the supervisor and its children, however they are cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from asgi_poller.ipc.control import Control, Lines, Message, encoded
from tests.support.waiting import DEADLINE_S


def test_messages_are_read_however_they_are_cut() -> None:
    octets = encoded("ready", threads=[1, 2]) + encoded("leaving")
    for cut in range(len(octets)):
        lines = Lines()
        messages = lines.feed(octets[:cut]) + lines.feed(octets[cut:])
        assert messages == [{"kind": "ready", "threads": [1, 2]}, {"kind": "leaving"}]


@pytest.mark.parametrize(
    "octets", [b"[]\n", b"{}\n", b'{"kind": 1}\n', b"\xff\n", b"x" * 2_000_000]
)
def test_what_is_no_message_is_an_error(octets: bytes) -> None:
    with pytest.raises(ValueError):
        Lines().feed(octets)


def with_control(work: Callable[[Control, socket.socket, asyncio.Queue[Any]], Any]) -> None:
    """Run `work` with a Control, the other end, and a queue of what it told; None is the end."""

    async def main() -> None:
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        ours, theirs = socket.socketpair()
        control = Control(ours, on_message=told.put_nowait, on_end=lambda: told.put_nowait(None))
        with theirs:
            async with asyncio.timeout(DEADLINE_S):
                await work(control, theirs, told)
        control.close()

    asyncio.run(main())


def test_a_slow_reader_gets_everything_in_the_end() -> None:
    async def work(control: Control, theirs: socket.socket, told: asyncio.Queue[Any]) -> None:
        for number in range(3000):
            control.send("drain", number=number, padding="x" * 1000)
        theirs.setblocking(False)
        lines = Lines()
        messages: list[Message] = []
        while len(messages) < 3000:
            messages += lines.feed(await asyncio.get_running_loop().sock_recv(theirs, 65536))
        assert [message["number"] for message in messages] == list(range(3000))

    with_control(work)


def test_the_end_is_told_once_and_sending_to_nobody_is_harmless() -> None:
    async def work(control: Control, theirs: socket.socket, told: asyncio.Queue[Any]) -> None:
        theirs.sendall(encoded("leaving"))
        theirs.close()
        control.send("drain")
        control.read_now()
        assert told.get_nowait() == {"kind": "leaving"}
        assert told.get_nowait() is None
        control.send("drain")
        control.read_now()
        assert told.empty()

    with_control(work)


def test_one_that_babbles_is_hung_up_on(caplog: pytest.LogCaptureFixture) -> None:
    async def work(control: Control, theirs: socket.socket, told: asyncio.Queue[Any]) -> None:
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert await told.get() is None
        assert theirs.recv(1) == b""

    with_control(work)
    assert "what came is no message" in caplog.text
