"""From what an application has of a WebSocket to the WebSocket itself."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from asgi_poller.asgi.topics_port import EXTENSION, SESSION
from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.asgi.websocket_context import CONNECTING, OPEN
from asgi_poller.errors import ApplicationFault, ClientDisconnected
from asgi_poller.protocols.websocket.protocol import FRAMED_ALONE
from asgi_poller.topics.subscription import Subscription


class TopicTarget:
    """A WebSocket as a subscriber (see Target), made at its first subscription. Owned by the loop's
    thread.
    """

    __slots__ = ("_session", "_wire", "framing", "subscriptions")

    def __init__(self, session: WebSocketSession) -> None:
        wire = session._wire
        assert wire is not None  # it has been accepted
        self._session = session
        self._wire = wire
        self.framing = wire.framing
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def direct(self) -> WebSocketSession | None:
        """The WebSocket, if it takes frames as they are."""
        return None if self.framing == FRAMED_ALONE else self._session

    def deliver(self, frames: Any, count: int) -> bool:
        session = self._session
        if self.framing != FRAMED_ALONE:
            return session.send_frames(frames, count)
        # frames that depend on what was sent before are made only when they are sent
        return session.is_ready and session.send_frames(self._framed(frames), count)

    def greet(self, frames: Any, count: int) -> None:
        session = self._session
        if session.state is OPEN:
            is_alone = self.framing == FRAMED_ALONE
            session.send_frames_anyway(self._framed(frames) if is_alone else frames, count)

    async def drain(self) -> None:
        flow = self._session._flow
        if flow is not None and not flow.is_writable:
            await flow.drain()

    def _framed(self, messages: Sequence[str | bytes]) -> bytes:
        wire = self._wire
        return b"".join(
            [wire.text(each) if isinstance(each, str) else wire.binary(each) for each in messages]
        )

    def close(self, code: int, reason: str) -> None:
        self._session.close(code, reason)

    def abort(self) -> None:
        self._session._port.abort()


def session_of(websocket: Any) -> WebSocketSession | None:
    """`websocket` is a scope, has one, or is ASGI's `send`; None: it is not a WebSocket of ours.
    Raises TypeError, and ClientDisconnected if it was one of ours.
    """
    owner = getattr(websocket, "__self__", None)
    if isinstance(owner, WebSocketSession):
        return owner
    scope = (
        websocket if isinstance(websocket, MutableMapping) else getattr(websocket, "scope", None)
    )
    if scope is None and callable(websocket):
        return None
    if not isinstance(scope, MutableMapping) or scope.get("type") != "websocket":
        raise TypeError(f"a WebSocket, its scope or its send is wanted, not {websocket!r:.60}")
    session = scope.get(SESSION)
    if session is None:
        if EXTENSION in (scope.get("extensions") or ()):
            raise ClientDisconnected("the WebSocket has ended")
        return None
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
