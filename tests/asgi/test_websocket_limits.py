"""What waits, and for whom: queues, slow peers, floods, and tasks that give up waiting."""

from __future__ import annotations

import asyncio

import pytest

from asgi_poller.asgi.types import Message
from asgi_poller.asgi.websocket import Channel
from tests.asgi.websocket_peer import MAX_OCTETS, MAX_QUEUE, Peer, closing, disconnect, text
from tests.fakes import run, turns
from tests.frames import BINARY, CLOSE, PING, PONG, ServerFrame, deflated, frame
from tests.frames import binary as binary_frame
from tests.frames import close as close_frame
from tests.frames import text as text_frame

DEFLATE = (b"sec-websocket-extensions", b"permessage-deflate")


async def drained(channel: Channel, count: int) -> list[Message]:
    return [await channel.receive() for _ in range(count)]


# The application is slow


def test_a_full_queue_stops_the_peer_until_it_is_empty() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        for _ in range(MAX_QUEUE):
            channel.inbox.feed(text_frame("a"))
        assert peer.wire.is_read
        channel.inbox.feed(text_frame("b"))
        assert not peer.wire.is_read
        assert channel.inbox.is_paused
        await drained(channel, MAX_QUEUE)
        assert not peer.wire.is_read
        assert (await channel.receive())["text"] == "b"
        assert peer.wire.is_read
        assert not channel.inbox.is_paused

    run(main())


def test_octets_fill_the_queue_too() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        fed = 0
        while peer.wire.is_read:
            channel.inbox.feed(binary_frame(b"x" * MAX_OCTETS))
            fed += 1
        assert 3 <= fed <= 5
        await drained(channel, fed)
        assert peer.wire.is_read

    run(main())


def test_octets_of_messages_in_small_pieces_fill_it_too() -> None:
    """A large message arrives in many reads, of which only the last one gives a message."""

    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        data = binary_frame(b"x" * MAX_OCTETS) * 40
        at = 0
        while peer.wire.is_read and at < len(data):
            channel.inbox.feed(data[at : at + 4096])
            at += 4096
        assert at < 8 * MAX_OCTETS

    run(main())


def test_inflated_octets_fill_it_too() -> None:
    async def main() -> None:
        peer = Peer(DEFLATE, deflate="on")
        channel = await peer.accepted()
        message = bytes(MAX_OCTETS)
        small = frame(BINARY, deflated(message), rsv=4)
        fed = 0
        while peer.wire.is_read:
            channel.inbox.feed(small)
            fed += 1
        assert fed <= 5
        assert len(await drained(channel, fed)) == fed

    run(main())


@pytest.mark.parametrize("fragments", [False, True])
def test_one_read_cannot_inflate_into_all_of_the_memory(fragments: bool) -> None:
    async def main() -> None:
        peer = Peer(DEFLATE, deflate="on")
        channel = await peer.accepted()
        payload = deflated(bytes(MAX_OCTETS))
        small = frame(BINARY, payload, rsv=4)
        if fragments:
            small = frame(BINARY, payload[:9], rsv=4, fin=False) + frame(0, payload[9:])
        channel.inbox.feed(small * 100)
        await turns()
        waiting = [event for event in channel.inbox.queue if isinstance(event, bytes)]
        assert sum(map(len, waiting)) <= 2 * 1024 * 1024
        assert not peer.wire.is_read
        for _ in range(100):
            message = await channel.receive()
            assert len(message["bytes"]) == MAX_OCTETS
        await turns()
        assert peer.wire.is_read

    run(main())


def test_messages_of_one_read_come_in_helpings_and_all_of_them() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        channel.inbox.feed(b"".join(text_frame(str(number)) for number in range(2000)))
        assert len(channel.inbox.queue) < 2000
        assert not peer.wire.is_read
        for number in range(2000):
            assert (await channel.receive())["text"] == str(number)
        await turns()
        assert peer.wire.is_read

    run(main())


def test_a_flood_of_pings_is_not_piled_up() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        channel.inbox.feed(frame(PING, b"a") * 5000)
        assert not peer.wire.is_read  # until these have been answered
        await turns(100)
        assert len(peer.frames()) == 5000
        assert peer.wire.is_read

    run(main())


@pytest.mark.parametrize("by", ["application", "server"])
def test_the_end_does_not_wait_for_an_application_that_is_behind(by: str) -> None:
    """The peer's Close lies behind more than the application has taken."""

    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        channel.inbox.feed(text_frame("a") * 1000 + close_frame(1000))
        assert not peer.wire.is_read
        if by == "application":
            await channel.send(closing(4000))
        else:
            channel.close(1012)
        await turns(100)
        assert peer.state().name == "CLOSED"
        assert [each.opcode for each in peer.frames()] == [CLOSE]
        last = None
        while last is None or last["type"] == "websocket.receive":
            last = await channel.receive()
        assert last["type"] == "websocket.disconnect"

    run(main())


# The peer is slow


def test_send_waits_while_the_peer_is_slow() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        channel.block_writing()
        sending = [asyncio.ensure_future(channel.send(text(str(n)))) for n in range(3)]
        await turns()
        assert not any(each.done() for each in sending)
        assert len(peer.frames()) == 3  # what was given is on its way
        channel.unblock_writing()
        await asyncio.gather(*sending)
        channel.block_writing()
        last = asyncio.ensure_future(channel.send(text("x")))
        await turns()
        channel.connection_lost()
        await last

    run(main())


def test_a_slow_peer_that_pings_gets_one_pong_in_the_end() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        channel.block_writing()
        for number in range(100):
            channel.inbox.feed(frame(PING, str(number).encode()))
        assert peer.wire.written == b""
        channel.unblock_writing()
        assert peer.frames() == [ServerFrame(PONG, b"99")]
        channel.block_writing()
        channel.unblock_writing()
        assert peer.wire.written == b""

    run(main())


def test_closing_ends_the_wait_for_a_slow_peer() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        channel.block_writing()
        sending = asyncio.ensure_future(channel.send(text("a")))
        await turns()
        channel.inbox.feed(close_frame(1000))
        await sending

    run(main())


# Tasks that receive


def test_giving_up_waiting_loses_nothing() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        for number in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(channel.receive(), 0)
            waiting = asyncio.ensure_future(channel.receive())
            await turns()
            if number % 2:  # at the very moment when a message is there
                channel.inbox.feed(text_frame(str(number)))
            waiting.cancel()
            await turns()
            if not number % 2:
                channel.inbox.feed(text_frame(str(number)))
            got = waiting.result() if not waiting.cancelled() else await channel.receive()
            assert got["text"] == str(number)

    run(main())


def test_two_tasks_receive() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        first, second, third = (asyncio.ensure_future(channel.receive()) for _ in range(3))
        await turns()
        channel.inbox.feed(text_frame("a"))
        await turns()
        assert [first.done(), second.done(), third.done()].count(True) == 1
        channel.inbox.feed(text_frame("b"))
        await turns()
        channel.inbox.feed(text_frame("c"))
        messages = await asyncio.gather(first, second, third)
        assert sorted(message["text"] for message in messages) == ["a", "b", "c"]

    run(main())


def test_the_second_task_goes_on_when_the_first_is_cancelled() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        first, second = (asyncio.ensure_future(channel.receive()) for _ in range(2))
        await turns()
        first.cancel()
        await turns()
        channel.inbox.feed(text_frame("a"))
        assert (await second)["text"] == "a"

    run(main())


def test_the_disconnect_is_given_once() -> None:
    async def main() -> None:
        peer = Peer()
        channel = await peer.accepted()
        waiting = asyncio.ensure_future(channel.receive())
        await turns()
        channel.connection_lost()
        assert await waiting == disconnect(1006)
        again = asyncio.ensure_future(channel.receive())
        await turns()
        assert not again.done()
        again.cancel()

    run(main())
