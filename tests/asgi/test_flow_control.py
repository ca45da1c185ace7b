"""send() waits while writing is paused, and goes on when it is resumed, cancelled or over."""

from __future__ import annotations

import asyncio

from asgi_poller.asgi.flow_control import FlowControl
from tests.support.fake_connection import until_idle


async def test_who_is_woken_when_it_is_shut_again_waits_on() -> None:
    flow = FlowControl(asyncio.get_running_loop())
    flow.pause()
    waiting = asyncio.ensure_future(flow.drain())
    await until_idle()
    flow.resume()
    flow.pause()
    await until_idle()
    assert not waiting.done()
    flow.resume()
    await waiting


async def test_who_gives_up_holds_nobody_else() -> None:
    flow = FlowControl(asyncio.get_running_loop())
    flow.pause()
    first, second = (asyncio.ensure_future(flow.drain()) for _ in range(2))
    await until_idle()
    first.cancel()
    await until_idle()
    flow.resume()
    await second
