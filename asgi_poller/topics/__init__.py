"""Topics: one message to everybody who has subscribed, on all event loops, workers and machines.

from asgi_poller import topics

await topics.subscribe(websocket, "room:1")
await topics.publish("room:1", text="hello")
"""

from asgi_poller.errors import FellBehind, TopicsUnavailable
from asgi_poller.topics.api import (
    Subscribers,
    publish,
    publish_threadsafe,
    subscribe,
    subscribers,
    unsubscribe,
)
from asgi_poller.topics.reading import Message, Reading, reading
from asgi_poller.topics.service import CLIENT_JS, serve
from asgi_poller.topics.subscription import Subscribed

__all__ = [
    "CLIENT_JS",
    "FellBehind",
    "Message",
    "Reading",
    "Subscribed",
    "Subscribers",
    "TopicsUnavailable",
    "publish",
    "publish_threadsafe",
    "reading",
    "serve",
    "subscribe",
    "subscribers",
    "unsubscribe",
]
