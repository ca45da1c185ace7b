"""Graceful shutdown of the connections of one loop."""

from __future__ import annotations

import asyncio
import logging

from asgi_poller.loops.drain_counts import Drained, Left
from asgi_poller.loops.server_state import Connection, ServerState

_log = logging.getLogger("asgi_poller.error")

_ARRIVAL_S = 1.0  # for TLS handshakes and PROXY headers that are on their way
_SPREAD_STEP_S = 0.02  # between two of those that end one after the other, at least


async def drain(
    state: ServerState, arriving: set[asyncio.Task[None]], timeout_s: float, spread_s: float
) -> Drained:
    """End every connection in an orderly way; what has not ended after `timeout_s` seconds is cut
    off.

    Idle connections close, requests finish, WebSockets get 1012 and their closing handshake: with
    `spread_s`, evenly over so many seconds, which come on top of `timeout_s`. `arriving` are
    connections that are not made yet. Cancelling it cuts everything off at once; what became of
    them is in `state.drained` then.
    """
    start_s = state.loop.time()
    changed = state.begin_drain()
    counts = state.drained
    if not counts.began_with.count:  # else it is the second order
        counts.began_with = left(state, set())
    late = []
    for connection in list(state.connections):
        if spread_s > 0 and connection.is_websocket:
            late.append(connection)
        else:
            _shut_down(connection)
    try:
        async with asyncio.timeout(spread_s + timeout_s):
            give_up = state.loop.call_later(_ARRIVAL_S, _give_up, arriving)
            await _shut_down_evenly(late, spread_s)
            while state.connections or state.conversations or arriving:
                changed.clear()
                await changed.wait()
            give_up.cancel()
    except TimeoutError:
        pass
    finally:
        # else a second order has cut them off, and they are about to end
        if not counts.cut_off.count:
            counts.cut_off = left(state, arriving)
        await _cut_off(state, arriving)
    return Drained.of([counts], state.loop.time() - start_s)


def left(state: ServerState, arriving: set[asyncio.Task[None]]) -> Left:
    """What has not ended, of what a drain waits for. Any thread."""
    connections, calls = list(state.connections), list(state.conversations.values())
    websockets = sum(each.is_websocket for each in connections)
    requests = sum(each.scope["type"] == "http" for each in calls)
    of_websockets = len(calls) - requests
    return Left(
        websockets,
        requests,
        max(0, of_websockets - websockets),
        max(0, len(connections) - websockets - requests) + len(arriving),
    )


def _give_up(arriving: set[asyncio.Task[None]]) -> None:
    """Who has not said all of a TLS handshake or PROXY header by now is not waited for."""
    for task in arriving:
        task.cancel("the server is shutting down")


def _shut_down(connection: Connection) -> None:
    """A connection that fails ends alone: all others are still to be ended."""
    try:
        connection.shutdown()
    except Exception:
        _log.exception("A connection could not be ended in order, and is cut off.")
        _abort(connection)


def _abort(connection: Connection) -> None:
    try:
        connection.abort()
    except Exception:
        _log.exception("A connection could not be cut off.")


async def _shut_down_evenly(connections: list[Connection], spread_s: float) -> None:
    """The first at once, the last `spread_s` seconds later."""
    clock = asyncio.get_running_loop().time
    start = clock()
    count = len(connections)
    done = 0
    while connections:
        due = min(count, int((clock() - start) / spread_s * count) + 1)
        while done < due:
            _shut_down(connections.pop())  # does nothing for one that has ended meanwhile
            done += 1
        if connections:
            await asyncio.sleep(max(_SPREAD_STEP_S, spread_s / count))


async def _cut_off(state: ServerState, arriving: set[asyncio.Task[None]]) -> None:
    for connection in list(state.connections):
        _abort(connection)
    tasks = [*state.conversations, *arriving]
    for task in tasks:
        task.cancel("the server is shutting down")
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
