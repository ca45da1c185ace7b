"""The topics' hub as its parent keeps it: it dies again and again, or cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from asgi_poller.config import Config
from asgi_poller.metrics.event_log import EventLog
from asgi_poller.supervisor import hub_keeper
from asgi_poller.supervisor.backoff import Backoff
from asgi_poller.supervisor.hub_keeper import HubKeeper
from asgi_poller.topics.mail_slot import MailSlot
from tests.support.processes import is_alive, open_descriptors
from tests.support.waiting import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no workers on Windows")


class AtOnce(Backoff):
    """For tests that do not wait."""

    @property
    def delay_s(self) -> float:
        return 0.0


@contextlib.asynccontextmanager
async def kept(
    events: EventLog | None = None, backoff: Backoff | None = None
) -> AsyncIterator[HubKeeper]:
    """A keeper on this loop, as workers' parents have one. The application cannot be passed."""
    config = Config(lambda scope: None, preload=True)
    keeper = HubKeeper(config, nice=0, events=events or EventLog(), backoff=backoff)
    try:
        yield keeper
    finally:
        await keeper.end()


async def greeted(keeper: HubKeeper, slot: MailSlot) -> None:
    """Have a link that a hub serves, kill the hub, and see the link end."""
    loop = asyncio.get_running_loop()
    with slot.connect() as link:
        link.setblocking(False)
        assert await loop.sock_recv(link, 1000)
        os.kill(keeper.pid, signal.SIGKILL)
        assert await loop.sock_recv(link, 1000) == b""


@pytest.mark.long
def test_twenty_deaths_leave_nothing() -> None:
    async def main() -> list[int]:
        pids = []
        async with kept(backoff=AtOnce()) as keeper:
            slot = MailSlot(keeper.mailbox.loops_end)
            await greeted(keeper, slot)
            for _ in range(20):
                await greeted(keeper, slot)
                pids.append(keeper.pid)
        return pids

    run(main())
    before = open_descriptors()
    pids = run(main())
    assert open_descriptors() == before
    assert not any(map(is_alive, pids))


def test_early_deaths_back_off_and_are_in_the_event_log(caplog: pytest.LogCaptureFixture) -> None:
    events = EventLog()

    async def main() -> None:
        async with kept(events) as keeper:
            slot = MailSlot(keeper.mailbox.loops_end)
            await asyncio.sleep(0)
            assert keeper.pid == 0, "nobody has wanted one yet"
            await greeted(keeper, slot)
            await greeted(keeper, slot)
            with slot.connect() as link:
                link.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(link, 1000)

    run(main())
    deaths = [record.getMessage() for record in caplog.records if "killed" in record.getMessage()]
    assert [text.partition("]")[2] for text in deaths] == [
        " was killed by SIGKILL; starting another",
        " was killed by SIGKILL; starting another in 0.5 s (failure 2)",
    ]
    assert [(each.kind, each.detail) for each in events.events] == [
        ("started", "topic hub"),
        ("crashed", "topic hub: it was killed by SIGKILL"),
        ("started", "topic hub"),
        ("crashed", "topic hub: it was killed by SIGKILL"),
        ("started", "topic hub"),
        ("ended", "topic hub: it ended with exit code 0"),
    ]


def test_one_that_cannot_start_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        def __init__(self, module: str) -> None:
            """As SpawnLauncher."""

        async def launch(self, end: object) -> None:
            monkeypatch.undo()  # the next time it works
            raise OSError("no process is left")

    monkeypatch.setattr(hub_keeper, "SpawnLauncher", Refused)

    async def main() -> None:
        async with kept() as keeper:
            await greeted(keeper, MailSlot(keeper.mailbox.loops_end))

    run(main())
    assert "The topic hub cannot start: no process is left; trying again" in caplog.text


def test_an_end_while_it_starts_leaves_no_process() -> None:
    async def main() -> None:
        async with kept() as keeper:
            with MailSlot(keeper.mailbox.loops_end).connect():
                while not keeper.pid:
                    await asyncio.sleep(0)
                pid = keeper.pid
        assert not is_alive(pid)

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before
