"""An application whose WebSockets subscribe to ?topic=&since=, or on /publish send what is to be
published, a topic and a number at a time, and are told the ids.
"""

from __future__ import annotations

import os
import urllib.parse

from asgi_poller import topics
from asgi_poller.asgi.types import Receive, Scope, Send
from tests.support.apps import accept, answer, live


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """See above."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "http":
        await answer(send, str(os.getpid()).encode(), headers=[(b"connection", b"close")])
    elif scope["path"] == "/publish":
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            said = message["text"]
            topic, _, number = said.partition(" ")
            taken = await topics.publish(topic, text=number)
            await send({"type": "websocket.send", "text": f"{said} {taken}"})
    else:
        await accept(receive, send)
        query = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
        await topics.subscribe(scope, query["topic"], since=query.get("since"), ids=True)
        while (await receive())["type"] == "websocket.receive":
            pass
