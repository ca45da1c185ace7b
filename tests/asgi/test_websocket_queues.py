"""Queues between peer and application are bounded, and nobody who waits is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket import WebSocketSession
from tests.asgi.websocket_peer import (
    MAX_BYTES,
    MAX_QUEUE,
    closing,
    disconnect,
    gives_nothing_more,
    opened,
    text,
)
from tests.support.fake_connection import until_idle
from tests.support.frames import BINARY, CLOSE, PING, PONG, ServerFrame, deflated, frame
from tests.support.frames import binary as binary_frame
from tests.support.frames import close as close_frame
from tests.support.frames import text as text_frame

DEFLATE = (b"sec-websocket-extensions", b"permessage-deflate")


async def drained(session: WebSocketSession, count: int) -> list[Message]:
    return [await session.receive() for _ in range(count)]


# The application is slow


async def test_a_full_queue_stops_the_peer_until_it_is_empty() -> None:
    peer, session = await opened()
    for _ in range(MAX_QUEUE):
        session.received.feed(text_frame("a"))
    assert peer.wire.is_read
    session.received.feed(text_frame("b"))
    assert not peer.wire.is_read
    assert session.received.is_paused
    await drained(session, MAX_QUEUE)
    assert not peer.wire.is_read
    assert (await session.receive())["text"] == "b"
    assert peer.wire.is_read
    assert not session.received.is_paused


async def test_bytes_fill_the_queue_too() -> None:
    peer, session = await opened()
    fed = 0
    while peer.wire.is_read:
        session.received.feed(binary_frame(b"x" * MAX_BYTES))
        fed += 1
    assert 3 <= fed <= 5
    await drained(session, fed)
    assert peer.wire.is_read


async def test_bytes_of_messages_in_small_pieces_fill_it_too() -> None:
    """A large message arrives in many reads, of which only the last one gives a message."""
    peer, session = await opened()
    data = binary_frame(b"x" * MAX_BYTES) * 40
    at = 0
    while peer.wire.is_read and at < len(data):
        session.received.feed(data[at : at + 4096])
        at += 4096
    assert at < 8 * MAX_BYTES


async def test_inflated_bytes_fill_it_too() -> None:
    peer, session = await opened(DEFLATE, deflate="on")
    message = bytes(MAX_BYTES)
    small = frame(BINARY, deflated(message), rsv=4)
    fed = 0
    while peer.wire.is_read:
        session.received.feed(small)
        fed += 1
    assert fed <= 5
    assert len(await drained(session, fed)) == fed


@pytest.mark.parametrize("fragments", [False, True])
async def test_one_read_cannot_inflate_into_all_of_the_memory(fragments: bool) -> None:
    peer, session = await opened(DEFLATE, deflate="on")
    payload = deflated(bytes(MAX_BYTES))
    small = frame(BINARY, payload, rsv=4)
    if fragments:
        small = frame(BINARY, payload[:9], rsv=4, fin=False) + frame(0, payload[9:])
    session.received.feed(small * 100)
    await until_idle()
    waiting = [event for event in session.received.queue if isinstance(event, bytes)]
    assert sum(map(len, waiting)) <= 2 * 1024 * 1024
    assert not peer.wire.is_read
    for _ in range(100):
        message = await session.receive()
        assert len(message["bytes"]) == MAX_BYTES
    await until_idle()
    assert peer.wire.is_read


async def test_messages_of_one_read_come_in_helpings_and_all_of_them() -> None:
    peer, session = await opened()
    session.received.feed(b"".join(text_frame(str(number)) for number in range(2000)))
    assert len(session.received.queue) < 2000
    assert not peer.wire.is_read
    for number in range(2000):
        assert (await session.receive())["text"] == str(number)
    await until_idle()
    assert peer.wire.is_read


async def test_a_flood_of_pings_is_not_piled_up() -> None:
    peer, session = await opened()
    session.received.feed(frame(PING, b"a") * 5000)
    assert not peer.wire.is_read  # until these have been answered
    await until_idle()
    assert len(peer.frames()) == 5000
    assert peer.wire.is_read


@pytest.mark.parametrize("by", ["application", "server"])
async def test_the_end_does_not_wait_for_an_application_that_is_behind(by: str) -> None:
    """The peer's Close lies behind more than the application has taken."""
    peer, session = await opened()
    session.received.feed(text_frame("a") * 1000 + close_frame(1000))
    assert not peer.wire.is_read
    if by == "application":
        await session.send(closing(4000))
    else:
        session.close(1012)
    await until_idle()
    assert peer.state().name == "CLOSED"
    assert [each.opcode for each in peer.frames()] == [CLOSE]
    last = None
    while last is None or last["type"] == "websocket.receive":
        last = await session.receive()
    assert last["type"] == "websocket.disconnect"


# The peer is slow


async def test_send_waits_while_the_peer_is_slow() -> None:
    peer, session = await opened()
    session.block_writing()
    sending = [asyncio.ensure_future(session.send(text(str(n)))) for n in range(3)]
    await until_idle()
    assert not any(each.done() for each in sending)
    assert len(peer.frames()) == 3  # what was given is on its way
    session.unblock_writing()
    await asyncio.gather(*sending)
    session.block_writing()
    last = asyncio.ensure_future(session.send(text("x")))
    await until_idle()
    session.connection_lost()
    await last


async def test_a_slow_peer_that_pings_gets_one_pong_in_the_end() -> None:
    peer, session = await opened()
    session.block_writing()
    for number in range(100):
        session.received.feed(frame(PING, str(number).encode()))
    assert peer.wire.written == b""
    session.unblock_writing()
    assert peer.frames() == [ServerFrame(PONG, b"99")]
    session.block_writing()
    session.unblock_writing()
    assert peer.wire.written == b""


async def test_closing_ends_the_wait_for_a_slow_peer() -> None:
    _, session = await opened()
    session.block_writing()
    sending = asyncio.ensure_future(session.send(text("a")))
    await until_idle()
    session.received.feed(close_frame(1000))
    await sending


# Tasks that receive


async def test_giving_up_waiting_loses_nothing() -> None:
    _, session = await opened()
    for number in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.receive(), 0)
        waiting = asyncio.ensure_future(session.receive())
        await until_idle()
        if number % 2:  # at the very moment when a message is there
            session.received.feed(text_frame(str(number)))
        waiting.cancel()
        await until_idle()
        if not number % 2:
            session.received.feed(text_frame(str(number)))
        got = waiting.result() if not waiting.cancelled() else await session.receive()
        assert got["text"] == str(number)


async def test_two_tasks_receive() -> None:
    _, session = await opened()
    first, second, third = (asyncio.ensure_future(session.receive()) for _ in range(3))
    await until_idle()
    session.received.feed(text_frame("a"))
    await until_idle()
    assert [first.done(), second.done(), third.done()].count(True) == 1
    session.received.feed(text_frame("b"))
    await until_idle()
    session.received.feed(text_frame("c"))
    messages = await asyncio.gather(first, second, third)
    assert sorted(message["text"] for message in messages) == ["a", "b", "c"]


async def test_the_second_task_goes_on_when_the_first_is_cancelled() -> None:
    _, session = await opened()
    first, second = (asyncio.ensure_future(session.receive()) for _ in range(2))
    await until_idle()
    first.cancel()
    await until_idle()
    session.received.feed(text_frame("a"))
    assert (await second)["text"] == "a"


async def test_the_disconnect_is_given_once() -> None:
    _, session = await opened()
    waiting = asyncio.ensure_future(session.receive())
    await until_idle()
    session.connection_lost()
    assert await waiting == disconnect(1006)
    assert await gives_nothing_more(session)
