"""The gate that send() waits at."""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.flow_control import WriteGate
from tests.fakes import run, turns


def test_who_comes_while_it_is_open_does_not_wait() -> None:
    async def main() -> None:
        gate = WriteGate(asyncio.get_running_loop())
        passing = gate.passed()
        try:
            passing.send(None)
        except StopIteration:
            return
        raise AssertionError("it waited")

    run(main())


def test_all_are_let_through_together() -> None:
    async def main() -> None:
        gate = WriteGate(asyncio.get_running_loop())
        gate.shut()
        gate.shut()
        waiting = [asyncio.ensure_future(gate.passed()) for _ in range(3)]
        await turns()
        assert not any(each.done() for each in waiting)
        gate.open()
        await asyncio.gather(*waiting)
        gate.open()

    run(main())


def test_who_is_woken_when_it_is_shut_again_waits_on() -> None:
    async def main() -> None:
        gate = WriteGate(asyncio.get_running_loop())
        gate.shut()
        waiting = asyncio.ensure_future(gate.passed())
        await turns()
        gate.open()
        gate.shut()
        await turns()
        assert not waiting.done()
        gate.open()
        await waiting

    run(main())


def test_who_gives_up_holds_nobody_else() -> None:
    async def main() -> None:
        gate = WriteGate(asyncio.get_running_loop())
        gate.shut()
        first, second = (asyncio.ensure_future(gate.passed()) for _ in range(2))
        await turns()
        first.cancel()
        await turns()
        gate.open()
        await second

    run(main())
