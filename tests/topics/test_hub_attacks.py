"""What can go wrong between loops and their hub: it is killed, a loop stands still or is slow, one
sends nonsense. Nobody else is touched, nothing comes twice, and whoever has lost something is told.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics import hub_end, inbox, wire
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.hub_server import HubServer
from asgi_poller.topics.local_link import LocalHub
from asgi_poller.topics.loop_topics import MakeLink
from asgi_poller.topics.mailbox import through
from tests.support.hub import HubProcess, Recorder, hub_process, links
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with hub_process("1000000,600s") as hub:
        yield hub


async def test_a_hub_that_is_killed_while_messages_flow(hub: HubProcess) -> None:
    """Three times. Each loop is told; what `publish` has returned comes, but where it is told."""
    taken: list[int] = []
    unknown: list[int] = []

    async def publish(link: HubLink) -> None:
        for number in range(6000):
            try:
                await link.publish("a", "text", str(number))
                taken.append(number)
            except TopicsUnavailable:
                unknown.append(number)

    async with links(hub, 3) as ((one, at_one), (two, at_two), (publisher, _)):
        for link, recorder in ((one, at_one), (two, at_two)):
            await recorder.join(link)
        publishing = asyncio.create_task(publish(publisher))
        for _ in range(3):
            before = len(taken)
            while len(taken) < before + 1000 and not publishing.done():
                await asyncio.sleep(0)
            hub.kill()
            hub.start()
        await publishing
        last = await publisher.publish("a", "text", "last")
        for recorder in (at_one, at_two):
            await recorder.until_at("a", last)
            got = recorder.got["a"]
            assert got.count(None) == 3
            numbers = [int(str(each)) for each in got[:-1] if each is not None]
            assert numbers == sorted(set(numbers))
            assert len(unknown) <= 3  # one was in flight each time
            at = 0
            for number in sorted(set(taken) - set(numbers)):
                # only the new hub took it, before this loop was there again
                while (each := got[at]) is None or int(str(each)) < number:
                    at += 1
                assert got[at - 1] is None


async def test_publications_wait_while_there_is_no_hub_and_come_once(hub: HubProcess) -> None:
    async with links(hub, 2) as ((one, at_one), (two, _)):
        await at_one.join(one)
        hub.kill()
        while one._line is not None:
            await asyncio.sleep(0)
        publishing = [
            asyncio.create_task(one.publish("a", "text", str(number))) for number in range(100)
        ]
        await asyncio.sleep(0)
        hub.start()
        await asyncio.gather(*publishing)
        await two.publish("a", "text", "last")
        await at_one.until(lambda: at_one.got["a"][-1] == "last")
        assert at_one.got["a"] == [None, *(str(number) for number in range(100)), "last"]


class OwnLoop:
    """A link on a loop of its own, in a thread that is blocked after the first message."""

    def __init__(self, make_link: MakeLink) -> None:
        self.make_link = make_link
        self.ready = threading.Event()
        self.blocked = threading.Event()
        self.go_on = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()), daemon=True)
        self.got: list[str] = []

    async def main(self) -> None:
        recorder = Recorder()
        link = self.make_link(recorder)
        await recorder.join(link)
        self.ready.set()
        await recorder.until(lambda: bool(recorder.got))
        self.blocked.set()
        self.go_on.wait(DEADLINE_S)  # the whole loop
        await recorder.until(lambda: recorder.got["a"][-1] == "last")
        self.got = ["gap" if each is None else str(each)[:8] for each in recorder.got["a"]]
        link.close()


@pytest.mark.parametrize("history", ["1000000,600s", ""])
async def test_a_loop_that_is_blocked_is_cut_off_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, history: str
) -> None:
    """Its backlog in the hub has a bound, publishers do not wait for it, and it misses nothing that
    is kept.
    """
    monkeypatch.setattr(hub_end, "CUT_OFF_BYTES", 4 << 20)
    monkeypatch.setattr(hub_end, "STILL_S", 0.1)
    theirs, mailbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended = asyncio.Event()
    server = HubServer(HistoryRules.parsed([history] if history else []))
    serving = asyncio.create_task(server.serve(theirs, ended))
    blocked = OwnLoop(lambda receiver: HubLink(through(mailbox), receiver))
    blocked.thread.start()
    recorder = Recorder()
    link = HubLink(through(mailbox), recorder)
    await recorder.join(link)
    await asyncio.to_thread(blocked.ready.wait, DEADLINE_S)
    await link.publish("a", "text", "first")
    await asyncio.to_thread(blocked.blocked.wait, DEADLINE_S)
    for number in range(1000):  # 8 MB
        await link.publish("a", "text", f"{number:08}" * 1000)
    assert len(server) == 1  # the blocked one has been cut off
    blocked.go_on.set()
    while len(server._hub.links("a")) < 2:
        await asyncio.sleep(0)
    await link.publish("a", "text", "last")
    await asyncio.to_thread(blocked.thread.join, DEADLINE_S)
    is_what_is_kept(blocked.got, history)
    is_what_is_kept([str(each)[:8] for each in recorder.got["a"]], "all")
    link.close()
    ended.set()
    await serving


def is_what_is_kept(got: list[str], history: str) -> None:
    numbers = [f"{number:08}" for number in range(1000)]
    if history:
        assert got == ["first", *numbers, "last"]
        return
    at = got.index("gap")
    assert got[1:at] == numbers[: at - 1]  # what was on its way
    assert got[at:] == ["gap", "last"]


@pytest.mark.parametrize("history", ["1000000,600s", ""])
async def test_so_is_one_of_the_same_process(monkeypatch: pytest.MonkeyPatch, history: str) -> None:
    monkeypatch.setattr(inbox, "OVERRUN_BYTES", 4 << 20)
    monkeypatch.setattr(inbox, "STILL_S", 0.1)
    hub = LocalHub(HistoryRules.parsed([history] if history else []))
    recorder = Recorder()
    link = hub.link(recorder)
    await recorder.join(link)
    blocked = OwnLoop(hub.link)
    blocked.thread.start()
    await asyncio.to_thread(blocked.ready.wait, DEADLINE_S)
    await link.publish("a", "text", "first")
    await asyncio.to_thread(blocked.blocked.wait, DEADLINE_S)
    for number in range(1000):  # 8 MB
        await link.publish("a", "text", f"{number:08}" * 1000)
    other = next(each for each in hub.links if each is not link)
    assert other.inbox._is_overrun
    blocked.go_on.set()
    while other.inbox._is_overrun:
        await asyncio.sleep(0)
    await link.publish("a", "text", "last")
    await asyncio.to_thread(blocked.thread.join, DEADLINE_S)
    is_what_is_kept(blocked.got, history)
    await recorder.until_count("a", 1002)


async def test_nonsense_ends_one_link_alone(hub: HubProcess) -> None:
    noise = random.Random(1)
    async with links(hub, 2) as ((one, at_one), (two, _)):
        await at_one.join(one)
        connect = through(hub.mailbox)
        for number in range(30):
            with connect() as bad:
                bad.settimeout(DEADLINE_S)
                assert bad.recv(100) == wire.welcome()
                bad.sendall(noise.randbytes(noise.choice((5, 100, 70_000))) + b"\xff" * 9)
                try:
                    while bad.recv(4096):
                        pass  # cut off
                except ConnectionResetError:
                    pass
            await two.publish("a", "text", str(number))
        await at_one.until(lambda: len(at_one.got["a"]) == 30)
        assert at_one.got["a"] == [str(number) for number in range(30)]


async def test_a_hub_that_sends_nonsense_is_left(caplog: pytest.LogCaptureFixture) -> None:
    theirs: list[socket.socket] = []

    def connect() -> socket.socket:
        ours, other = socket.socketpair()
        theirs.append(other)
        return ours

    link = HubLink(connect, Recorder())
    while not theirs:
        await asyncio.sleep(0)
    theirs[0].sendall(wire.welcome() + b"\xff" * 100)
    while len(theirs) < 2:
        await asyncio.sleep(0)
    theirs[1].sendall(wire.welcome(99))
    while len(theirs) < 3:
        await asyncio.sleep(0)
    assert "nonsense" in caplog.text
    assert "another version" in caplog.text
    link.close()
    for each in theirs:
        each.close()


async def test_all_loops_see_one_order_which_keeps_each_publishers(hub: HubProcess) -> None:
    async with links(hub, 3) as joined:
        for link, recorder in joined:
            await recorder.join(link)

        async def publish(link: HubLink, name: str) -> None:
            for number in range(300):
                await link.publish("a", "text", f"{name} {number}")

        names = [f"{at}{each}" for at in range(3) for each in "xy"]
        await asyncio.gather(*(publish(joined[int(name[0])][0], name) for name in names))
        for _, recorder in joined:
            await recorder.until_count("a", 1800)
        orders = [recorder.got["a"] for _, recorder in joined]
        assert orders[0] == orders[1] == orders[2]
        for name in names:
            own = [str(each) for each in orders[0] if str(each).startswith(name)]
            assert own == [f"{name} {number}" for number in range(300)]


async def test_a_hub_that_stands_still_does_not_hold_up_a_loop(hub: HubProcess) -> None:
    async with links(hub, 1) as ((one, at_one),):
        await at_one.join(one)
        os.kill(hub.pid, signal.SIGSTOP)
        try:
            publishing = asyncio.create_task(one.publish("a", "bytes", bytes(1 << 20)))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not publishing.done()
        finally:
            os.kill(hub.pid, signal.SIGCONT)
        await publishing
