"""What a browser asks for on its WebSocket, and whether it may: the server's side of `topics.js`.

A client sends JSON, or a line of JSON and bytes:

    {"subscribe": "room:1", "since": "…"}           answered as `framing.py` says; since may be null
    {"unsubscribe": "room:1"}                        {"topic": "room:1", "unsubscribed": true}
    {"publish": "room:1", "json": …} or "text": …
    {"publish": "room:1"}, a line feed, the bytes    in a binary message
    {"ping": true}                                   {"pong": true}: the connection is alive

What is not done is answered with {"error": …, "action": …, "topic": …, "detail": …}, where the
error is one of those below. Nothing is trusted that a client sends, and nothing is allowed that the
application has not allowed.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from asgi_poller.asgi.types import Message
from asgi_poller.errors import TopicsUnavailable
from asgi_poller.protocols.websocket.frames import CLOSE_TRY_AGAIN_LATER
from asgi_poller.topics.api import publish, subscribe, unsubscribe
from asgi_poller.topics.publication import BYTES, JSON, TEXT, checked_topic
from asgi_poller.topics.subscription import DROP

#: The client for browsers: a module without dependencies, to be served as a file.
CLIENT_JS: Final = Path(__file__).with_name("topics.js")

SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"
PUBLISH: Final = "publish"
ACTIONS: Final = (SUBSCRIBE, UNSUBSCRIBE, PUBLISH)

FORBIDDEN: Final = "forbidden"  # by the application
INVALID: Final = "invalid"  # no message of this protocol, or nothing that may be published
LIMIT: Final = "limit"  # too many topics, or too large
UNAVAILABLE: Final = "unavailable"  # not published: what joins workers and machines is away

#: (websocket, action, topic): whether this client may "subscribe" or "publish".
May = Callable[[Any, str, str], bool | Awaitable[bool]]
#: (websocket, topic, value): what is published instead of what the client sent.
Prepare = Callable[[Any, str, Any], Any]

_ID_BYTES = 255
_TURN_COUNT = 16  # messages of one client, after which others have a turn


class _Refused(Exception):
    def __init__(self, error: str, detail: str = "") -> None:
        super().__init__(error, detail)
        self.error = error
        self.detail = detail


async def serve(
    websocket: Any,
    *,
    may: May,
    prepare: Prepare | None = None,
    slow: str = DROP,
    max_topics: int = 100,
    max_bytes: int = 65536,
) -> None:
    """Let a client subscribe and publish, as `topics.js` does, until its WebSocket ends.

    `websocket` has a `scope`, `receive` and `send`, as Starlette's has; it is accepted if it has
    not been. `may(websocket, action, topic)` says whether this client may "subscribe" or "publish";
    `prepare(websocket, topic, value)` returns what is published instead of what it sent, or raises
    ValueError. Both may be coroutines; what else they raise ends the WebSocket, as any mistake.
    A client has `max_topics` at once, and messages of `max_bytes`. `slow` is that of `subscribe`.
    """
    client = _Client(websocket, may, prepare, slow)
    client.max_topics, client.max_bytes = max_topics, max_bytes
    served_count = 0
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.connect":
            await websocket.send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            await client.on_message(message)
            served_count += 1
            if not served_count % _TURN_COUNT:
                await asyncio.sleep(0)
        else:
            return


class _Client:
    __slots__ = ("_may", "_prepare", "_slow", "_topics", "_websocket", "max_bytes", "max_topics")

    max_topics: int
    max_bytes: int

    def __init__(self, websocket: Any, may: May, prepare: Prepare | None, slow: str) -> None:
        self._websocket = websocket
        self._may = may
        self._prepare = prepare
        self._slow = slow
        self._topics: set[str] = set()

    async def on_message(self, message: Message) -> None:
        asked: dict[str, Any] = {}
        try:
            fields, payload = self._parsed(message)
            if "ping" in fields:  # a browser's page does not see the server's pings
                await self._say({"pong": True})
                return
            action = _action(fields)
            asked["action"] = action
            asked["topic"] = topic = _topic(fields[action])
            if action == SUBSCRIBE:
                await self._subscribe(topic, fields.get("since"))
            elif action == UNSUBSCRIBE:
                await self._unsubscribe(topic)
            else:
                await self._publish(topic, fields, payload)
        except _Refused as refused:
            await self._say({"error": refused.error, **asked, "detail": refused.detail})

    async def _subscribe(self, topic: str, since: object) -> None:
        known = _since(since)
        if topic not in self._topics and len(self._topics) >= self.max_topics:
            raise _Refused(LIMIT, f"no more than {self.max_topics} topics")
        await self._check(SUBSCRIBE, topic)
        self._topics.add(topic)
        try:
            await subscribe(self._websocket, topic, since=known, ids=True, slow=self._slow)
        except TopicsUnavailable:  # it comes back, and asks for what it missed
            reason = "topics are not available"
            await self._send(
                {"type": "websocket.close", "code": CLOSE_TRY_AGAIN_LATER, "reason": reason}
            )
        except OSError:
            pass  # it has gone: `receive` says so

    async def _unsubscribe(self, topic: str) -> None:
        self._topics.discard(topic)
        try:
            await unsubscribe(self._websocket, topic)
        except OSError:
            return  # as above
        await self._say({"topic": topic, "unsubscribed": True})

    async def _publish(self, topic: str, fields: dict[str, Any], payload: bytes | None) -> None:
        form, value = _content(fields, payload)
        await self._check(PUBLISH, topic)
        try:
            if self._prepare is not None:
                value = await _awaited(self._prepare(self._websocket, topic, value))
            await publish(topic, **{form: value})
        except TopicsUnavailable:
            raise _Refused(UNAVAILABLE) from None
        except ValueError:  # its text is the application's, and not for the client
            raise _Refused(INVALID, "this is not published here") from None

    async def _check(self, action: str, topic: str) -> None:
        if not await _awaited(self._may(self._websocket, action, topic)):
            raise _Refused(FORBIDDEN)

    def _parsed(self, message: Message) -> tuple[dict[str, Any], bytes | None]:
        """The JSON of a message, and the bytes behind it, if it is binary."""
        text, payload = message.get("text"), None
        data = text.encode() if text is not None else message["bytes"]
        if len(data) > self.max_bytes:
            raise _Refused(LIMIT, f"no more than {self.max_bytes} bytes")
        if text is None:
            data, _, payload = data.partition(b"\n")
        try:
            fields = json.loads(data.decode())
        except (ValueError, RecursionError):
            raise _Refused(INVALID, "not JSON") from None
        if not isinstance(fields, dict):
            raise _Refused(INVALID, "not a JSON object")
        return fields, payload

    async def _say(self, fields: dict[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(fields)})

    async def _send(self, message: Message) -> None:
        try:
            await self._websocket.send(message)
        except Exception as error:  # frameworks raise their own in the place of the server's
            if not isinstance(error, OSError) and not isinstance(error.__context__, OSError):
                raise


def _action(fields: dict[str, Any]) -> str:
    found = [action for action in ACTIONS if action in fields]
    if len(found) != 1:
        raise _Refused(INVALID, f"not one of {', '.join(ACTIONS)}")
    return found[0]


def _topic(value: object) -> str:
    try:
        return checked_topic(value)
    except ValueError as error:
        raise _Refused(INVALID, str(error)) from None


def _since(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _ID_BYTES:
        raise _Refused(INVALID, "since is an id, or null")
    if not (value.isascii() and value.isprintable()):
        raise _Refused(INVALID, "since is an id, or null")
    return value


def _content(fields: dict[str, Any], payload: bytes | None) -> tuple[str, Any]:
    """The form of what is to be published, and the value."""
    if payload is not None:
        return BYTES, payload
    if JSON in fields and TEXT not in fields:
        return JSON, fields[JSON]
    if TEXT in fields and JSON not in fields and isinstance(fields[TEXT], str):
        return TEXT, fields[TEXT]
    raise _Refused(INVALID, "publish takes one of text and json, or bytes behind a line feed")


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
