"""A WebSocket of another server, or of a test client, as a subscriber.

Messages go through the framework's own `send`, so that its states stay right, in a task that runs
while there is something to send. While it runs the subscriber is slow: what comes meanwhile stays
in the loop's log of the topic.

There, nobody says that a WebSocket has ended. It is noticed when the object is garbage, as after
the end of its handler, or when a message cannot be sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from typing import Any, Final

from asgi_poller.asgi.types import Send
from asgi_poller.errors import ApplicationFault, ClientDisconnected
from asgi_poller.topics.current import current
from asgi_poller.topics.framing import MESSAGES
from asgi_poller.topics.loop_topics import LoopTopics
from asgi_poller.topics.process_topics import of_running_loop
from asgi_poller.topics.subscription import Subscription

_logger = logging.getLogger("asgi_poller.error")

#: In the scope of a WebSocket: what it is as a subscriber.
TARGET: Final = "asgi_poller.topics"
#: Those without a scope: a `send`, or the object that it is a method of.
_targets: weakref.WeakKeyDictionary[Any, SendTarget] = weakref.WeakKeyDictionary()

# Frameworks' names for what an application may not or cannot send to.
_NOT_ACCEPTED = ("CONNECTING", "init")
_ENDED = ("DISCONNECTED", "disconnect")

GetSend = Callable[[], "Send | None"]


class SendTarget:
    """A `send` as a subscriber (see Target). Owned by its loop's thread."""

    framing = MESSAGES

    def __init__(self, topics: LoopTopics) -> None:
        self.topics = topics
        self.subscriptions: dict[str, Subscription] = {}
        self.is_over = False
        self._get_send: GetSend = _nothing
        self._messages: deque[str | bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_sending = False
        self._sent = asyncio.Event()
        self._sent.set()
        self._context = contextvars.copy_context()

    def use(self, get_send: GetSend) -> None:
        """`get_send` gives None when the WebSocket is garbage."""
        self._get_send = get_send

    def deliver(self, messages: Sequence[str | bytes], count: int) -> bool:
        if self.is_over or self._is_sending:
            return False
        self.greet(messages, count)
        return True

    def greet(self, messages: Sequence[str | bytes], count: int) -> None:
        self._messages.extend(messages)
        self._sent.clear()
        if self._task is None and not self.is_over:
            self._task = self._run(self._send_all())

    async def drain(self) -> None:
        await self._sent.wait()

    def close(self, code: int, reason: str) -> None:
        get_send, task = self._get_send, self._task
        self.end()
        if task is not None:
            task.cancel()  # it waits for a peer that does not read
        self._closing = self._run(self._send_close(get_send, code, reason))

    def abort(self) -> None:
        self.end()

    def end(self) -> None:
        """Nothing more is sent."""
        if not self.is_over:
            self.is_over = True
            self.topics.leave(self)
            self._messages.clear()
            self._sent.set()

    def end_threadsafe(self, _: object = None) -> None:
        """The WebSocket is garbage. Any thread."""
        try:
            self.topics.loop.call_soon_threadsafe(self.end)
        except RuntimeError:
            pass  # the loop has ended before it

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # what the application's log says of it has the handler's context variables
        return self.topics.loop.create_task(work, context=self._context)

    async def _send_all(self) -> None:
        self._is_sending = True
        try:
            while self._messages:
                send = self._get_send()
                if send is None:
                    self.end()
                    return
                await send(_message(self._messages.popleft()))
                del send  # it may be the last that holds the WebSocket
        except Exception as error:  # each server and framework has its own
            _logger.debug("A subscriber of topics has ended: %r", error)
            self.end()
        except BaseException:  # raised again; the subscription ends with it
            self.end()
            raise
        finally:
            self._task = None
            self._is_sending = False
            self._sent.set()
        self.topics.resume(self)

    async def _send_close(self, get_send: GetSend, code: int, reason: str) -> None:
        send = get_send()
        if send is None:
            return
        try:
            await send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception as error:
            _logger.debug("A slow subscriber of topics could not be closed: %r", error)


def target_of(websocket: Any) -> SendTarget:
    """`websocket` is a framework's, a Channels consumer, or ASGI's `send`. Made at its first
    subscription, on the running loop. Raises TypeError, ApplicationFault and ClientDisconnected.
    """
    target = known_target(websocket)
    if target is not None and not target.is_over:
        return target
    _check_state(websocket)
    owner, make = _sender(websocket)
    topics = current()
    if topics is None or topics.loop is not asyncio.get_running_loop():
        topics = of_running_loop(None if topics is None else topics.make_link)
    target = SendTarget(topics)
    target.use(_weakly(owner, make, target))
    scope = getattr(websocket, "scope", None)
    if isinstance(scope, MutableMapping):
        scope[TARGET] = target
    else:
        _targets[owner] = target
    return target


def known_target(websocket: Any) -> SendTarget | None:
    """`websocket` may be the scope, too."""
    scope = (
        websocket if isinstance(websocket, MutableMapping) else getattr(websocket, "scope", None)
    )
    if isinstance(scope, MutableMapping):
        target: SendTarget | None = scope.get(TARGET)
        return target
    return _targets.get(getattr(websocket, "__self__", websocket))


def _nothing() -> None:
    return None


def _message(data: str | bytes) -> dict[str, Any]:
    key = "text" if isinstance(data, str) else "bytes"
    return {"type": "websocket.send", key: data}


def _check_state(websocket: Any) -> None:
    states = [
        getattr(state, "name", state)
        for name in ("application_state", "client_state", "connection_state")
        if (state := getattr(websocket, name, None)) is not None
    ]
    if any(state in _ENDED for state in states):
        raise ClientDisconnected("the WebSocket has ended")
    if any(state in _NOT_ACCEPTED for state in states):
        raise ApplicationFault("subscribe after the WebSocket is accepted")


def _sender(websocket: Any) -> tuple[Any, Callable[[Any], Send]]:
    """What lives as long as the WebSocket does, and how to get ASGI's `send` from it."""
    if hasattr(websocket, "base_send"):  # a Channels consumer: its `send` takes something else
        return websocket, _send_of_consumer
    if isinstance(websocket, MutableMapping):
        raise TypeError("under another server subscribe takes the WebSocket, or its `send`")
    if hasattr(websocket, "scope") and callable(getattr(websocket, "send", None)):
        return websocket, lambda owner: owner.send
    method = getattr(websocket, "__func__", None)
    if method is not None:
        return websocket.__self__, lambda owner: method.__get__(owner)
    return websocket, lambda owner: owner


def _send_of_consumer(consumer: Any) -> Send:
    send: Send = consumer.base_send
    return getattr(send, "awaitable", send)  # of a sync consumer it is an AsyncToSync


def _weakly(owner: Any, make: Callable[[Any], Send], target: SendTarget) -> GetSend:
    """`make(owner)`, without holding `owner` where that is possible."""
    try:
        reference = weakref.ref(owner, target.end_threadsafe)
    except TypeError:  # Litestar's have no room for a reference: but their `send` is their own
        reference = weakref.ref(make(owner), target.end_threadsafe)
        return reference

    def get() -> Send | None:
        held = reference()
        return None if held is None else make(held)

    return get
