"""The functions of `asgi_poller.topics`."""

from __future__ import annotations

import asyncio
import concurrent.futures
from dataclasses import dataclass
from typing import Any

from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.topics import portable
from asgi_poller.topics.current import current, here, on_loop
from asgi_poller.topics.loop_topics import LoopTopics
from asgi_poller.topics.process_topics import process_hub
from asgi_poller.topics.publication import checked_topic, content
from asgi_poller.topics.subscription import Subscribed, Target
from asgi_poller.topics.target import session_of, target_of

_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Subscribers:
    """How many subscribers a topic has: `here`, on this machine, and `everywhere`."""

    here: int
    everywhere: int


async def subscribe(
    websocket: Any,
    topic: str,
    *,
    since: str | None = None,
    ids: bool = False,
    slow: str = "drop",
) -> Subscribed:
    """Send to `websocket`, from now on, what is published to `topic`, until it ends.

    `websocket` is what the framework gives (anything with a `scope`), ASGI's `send` or, under this
    server, the scope; it has been accepted. `since` is an id: what was published after it comes
    first, in order. `ids`: the client gets the id of each message, wrapped in JSON (docs/topics.md
    has the form), so that it can say `since` when it comes back. `slow` is what happens if it does
    not read and more than 1 MiB waits for it: "drop" (it loses the oldest; counted, and told where
    it has ids) or "close" (1008). Nobody waits for it.

    Raises ValueError for what is no topic, ClientDisconnected for a WebSocket that has ended,
    ApplicationFault for one that is not accepted, and TopicsUnavailable.
    """
    session = session_of(websocket)
    if session is None:
        elsewhere = portable.target_of(websocket)
        work = elsewhere.topics.subscribe(elsewhere, topic, since=since, ids=ids, slow=slow)
        return await on_loop(elsewhere.topics, work)
    topics = _topics_of(session)

    async def subscribe_session() -> Subscribed:
        target = target_of(session)
        return await topics.subscribe(target, topic, since=since, ids=ids, slow=slow)

    return await on_loop(topics, subscribe_session())


async def unsubscribe(websocket: Any, topic: str) -> bool:
    """Send nothing more of `topic` to `websocket`; whether it was subscribed."""
    session = session_of(websocket)
    if session is None:
        elsewhere = portable.known_target(websocket)
        return elsewhere is not None and await on_loop(
            elsewhere.topics, _left(elsewhere.topics, elsewhere, topic)
        )
    topics = _topics_of(session)
    return await on_loop(topics, _left(topics, session.topic_target, topic))


async def publish(
    topic: str, *, text: str = _NOTHING, bytes: Any = _NOTHING, json: Any = _NOTHING
) -> str:
    """Send one message to every subscriber of `topic`, of all event loops, workers and machines;
    its id. From a WebSocket, a request, a task, any thread with an event loop.

    It has been taken over when this returns, and is delivered to all that can be reached; who
    publishes faster than the subscribers of this loop are written to waits. Raises ValueError or
    TypeError for what cannot be published, and TopicsUnavailable.
    """
    topics = here()
    form, data = content(text, bytes, json, nothing=_NOTHING)
    return await on_loop(topics, topics.publish(topic, form, data))


def publish_threadsafe(
    topic: str, *, text: str = _NOTHING, bytes: Any = _NOTHING, json: Any = _NOTHING
) -> concurrent.futures.Future[str]:
    """As `publish`, from a thread without an event loop; the future gives the id."""
    topics = current()
    form, data = content(text, bytes, json, nothing=_NOTHING)
    if topics is None:
        published: concurrent.futures.Future[str] = concurrent.futures.Future()
        published.set_result(process_hub().publish(checked_topic(topic), form, data))
        return published
    return asyncio.run_coroutine_threadsafe(topics.publish(topic, form, data), topics.loop)


async def subscribers(topic: str) -> Subscribers:
    """How many subscribers `topic` has now."""
    topics = here()
    return Subscribers(*await on_loop(topics, topics.subscribers(topic)))


async def _left(topics: LoopTopics, target: Target | None, topic: str) -> bool:
    return target is not None and topics.unsubscribe(target, topic)


def _topics_of(session: WebSocketSession) -> LoopTopics:
    topics = session._context.topics
    assert isinstance(topics, LoopTopics)  # the server has given it
    return topics
