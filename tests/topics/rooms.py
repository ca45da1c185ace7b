"""An application that tests serve with workers: rooms, and what its process knows of them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import urllib.parse
from typing import Any

from asgi_poller import topics
from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.topics.loop_topics import LoopTopics
from tests.supervisor.forking import nap
from tests.support.apps import accept, answer, live

came: list[str] = []  # the topics of all publications that have come to this process
_on_publication = LoopTopics.on_publication


def _noted(self: LoopTopics, publication: Any) -> None:
    came.append(publication.topic)
    _on_publication(self, publication)


LoopTopics.on_publication = _noted  # type: ignore[method-assign]  # to see what comes to a loop


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket is told its process and subscribed to ?topic=; what it sends is published there.
    `/publish` publishes its body when that is complete, `/count` counts subscribers, `/came` says
    how many publications of the topic have come to the process, `/fork` leaves a child.
    """
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    query = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
    if scope["type"] == "websocket":
        await accept(receive, send)
        await room(scope, query, receive, send)
        return
    try:
        said: Any = {"pid": os.getpid(), **await work(scope["path"], query, receive)}
        status = 200
    except topics.TopicsUnavailable as problem:
        said, status = {"pid": os.getpid(), "problem": str(problem)}, 503
    headers = [(b"connection", b"close")]
    if scope["path"] == "/pid":
        said = said["pid"]
    await answer(send, json.dumps(said).encode(), status, headers)


async def room(scope: Scope, query: dict[str, str], receive: Receive, send: Send) -> None:
    await send({"type": "websocket.send", "text": json.dumps({"pid": os.getpid()})})
    topic, since = query["topic"], query.get("since")
    subscribed = await topics.subscribe(scope, topic, since=since, ids="ids" in query)
    if "ids" not in query:
        told = json.dumps([subscribed.id, subscribed.is_complete])
        await send({"type": "websocket.send", "text": told})
    while (message := await receive())["type"] == "websocket.receive":
        await topics.publish(topic, text=message["text"])


async def work(path: str, query: dict[str, str], receive: Receive) -> dict[str, Any]:
    topic = query.get("topic", "")
    match path:
        case "/publish":
            body = bytearray()
            while (message := await receive()).get("more_body"):
                body += message["body"]
            body += message["body"]
            return {"id": await topics.publish(topic, text=body.decode())}
        case "/count":
            found = await topics.subscribers(topic)
            return {"here": found.here, "everywhere": found.everywhere}
        case "/came":
            return {"came": came.count(topic)}
        case "/fork":
            child = multiprocessing.get_context("fork").Process(target=nap, daemon=True)
            await asyncio.to_thread(child.start)
            return {"child": child.pid}
    return {}
