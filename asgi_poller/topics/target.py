"""From what an application has of a WebSocket to the WebSocket itself."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from asgi_poller.asgi.topics_port import SESSION
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.asgi.websocket_context import CONNECTING, OPEN
from asgi_poller.errors import ApplicationFault, ClientDisconnected
from asgi_poller.topics.subscription import Subscription


class TopicTarget:
    """A WebSocket as a subscriber (see Target), made at its first subscription. Owned by the loop's
    thread. `deliver` is the session's own method, since every publication goes through it.
    """

    __slots__ = ("_session", "deliver", "subscriptions")

    deliver: Callable[[bytes, int], bool]

    def __init__(self, session: WebSocketSession) -> None:
        self._session = session
        self.deliver = session.send_frames
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def framing(self) -> int:
        wire = self._session._wire
        assert wire is not None  # it has been accepted
        return wire.framing

    def greet(self, frames: bytes) -> None:
        self._session.send_frames_anyway(frames)

    async def drain(self) -> None:
        flow = self._session._flow
        if flow is not None and not flow.is_writable:
            await flow.drain()

    def frame(self, data: str | bytes) -> bytes:
        wire = self._session._wire
        assert wire is not None  # it has been accepted
        return wire.text(data) if isinstance(data, str) else wire.binary(data)

    def close(self, code: int, reason: str) -> None:
        self._session.close(code, reason)

    def abort(self) -> None:
        self._session._port.abort()


def session_of(websocket: Any) -> WebSocketSession:
    """`websocket` is a scope, or has one. Raises ApplicationFault and ClientDisconnected."""
    scope = (
        websocket if isinstance(websocket, MutableMapping) else getattr(websocket, "scope", None)
    )
    if not isinstance(scope, MutableMapping) or scope.get("type") != "websocket":
        raise TypeError(f"a WebSocket or its scope is wanted, not {websocket!r:.60}")
    session = scope.get(SESSION)
    if session is None:
        raise ClientDisconnected("the WebSocket has ended")
    assert isinstance(session, WebSocketSession)
    return session


def target_of(session: WebSocketSession) -> TopicTarget:
    """`session` as a subscriber. Raises ApplicationFault and ClientDisconnected."""
    if session.state is CONNECTING:
        raise ApplicationFault("subscribe after the WebSocket is accepted")
    if session.state is not OPEN:
        raise ClientDisconnected("the WebSocket has ended")
    target: TopicTarget | None = session.topic_target
    if target is None:
        target = session.topic_target = TopicTarget(session)
    return target
