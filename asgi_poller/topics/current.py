"""Which topics an application means that does not say so.

A request, a WebSocket and a lifespan run in a context that knows their loop's topics, and so do the
tasks and threads that they start. Others get those of the loop that started last.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from asgi_poller.topics.loop_topics import LoopTopics
from asgi_poller.topics.process_topics import of_running_loop

T = TypeVar("T")
_current: contextvars.ContextVar[LoopTopics] = contextvars.ContextVar("asgi_poller.topics")
_open: list[LoopTopics] = []  # of this process, the oldest first; any thread


def enter(topics: LoopTopics, *contexts: contextvars.Context) -> None:
    """Who runs in these contexts means `topics`. Once for each loop."""
    _open.append(topics)
    for context in contexts:
        context.run(_current.set, topics)


def leave(topics: LoopTopics) -> None:
    """That loop ends."""
    if topics in _open:
        _open.remove(topics)


def current() -> LoopTopics | None:
    """None: no loop of this server runs in this process."""
    topics = _current.get(None)
    if topics is not None and _is_running(topics):
        return topics
    return next(filter(_is_running, reversed(_open)), None)


def _is_running(topics: LoopTopics) -> bool:
    """Not where its loop was stopped without a word: nobody would do what it is asked."""
    return not topics.is_closed and topics.loop.is_running()


def here() -> LoopTopics:
    """Those that the caller means; without a server of ours, those of the running loop."""
    return current() or of_running_loop()


async def on_loop(topics: LoopTopics, work: Coroutine[Any, Any, T]) -> T:
    """Do it on the loop that the topics are of."""
    if topics.loop is asyncio.get_running_loop():
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, topics.loop))
