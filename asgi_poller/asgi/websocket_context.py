"""What a WebSocket stands on: its states, its connection, and what all WebSockets share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from asgi_poller.asgi.access_log import AccessLog
from asgi_poller.asgi.response_port import ResponsePort
from asgi_poller.asgi.topics_port import Topics
from asgi_poller.asgi.turn_output import TurnOutput
from asgi_poller.asgi.types import Loop, Message
from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.permessage_deflate import Deflate
from asgi_poller.protocols.websocket.protocol import FrameCache, WebSocketWire


class State(Enum):
    CONNECTING = "waiting for websocket.accept or websocket.close"
    DENYING = "streaming a denial response"
    OPEN = "open"
    CLOSING = "the closing handshake has begun"
    CLOSED = "closed"

    handlers: Mapping[str, Callable[[Any, Message], None]]
    """What the application may send in this state, but messages on an open WebSocket: the table at
    the end of `websocket.py`.
    """


# Asking an Enum class for its member is a function call in Python 3.11; these are not.
CONNECTING: Final = State.CONNECTING
DENYING: Final = State.DENYING
OPEN: Final = State.OPEN
CLOSING: Final = State.CLOSING
CLOSED: Final = State.CLOSED


class WebSocketPort(Protocol):
    """The connection as its WebSocket sees it: `accept`, `deny` or `denial_port` answers the
    handshake in whatever version of HTTP it came; frames follow.
    """

    def accept(self, subprotocol: object, headers: Iterable[tuple[bytes, bytes]]) -> Deflate | None:
        """Answer the handshake (RFC 6455, 4.2.2) with what the application gives; the compression
        that was agreed. Raises ApplicationFault, and writes nothing, for what may not be answered.
        """

    def deny(self, status: int) -> None:
        """Answer the handshake with this status and no body of the application's."""

    def denial_port(self, done: Callable[[], None]) -> ResponsePort:
        """Takes the application's own response to the handshake; `done` is called when that is
        complete or cannot be.
        """

    @property
    def write(self) -> Callable[[bytes | bytearray], None]:
        """Frames."""

    def abort(self) -> None:
        """The connection is of no use any more."""

    def set_reading(self, on: bool) -> None: ...

    def state_changed(self) -> None:
        """The WebSocket is in another state: deadlines change, and in CLOSED the connection ends
        once all is written.
        """


@dataclass(slots=True)
class WebSocketContext:
    """What all WebSockets of one loop share."""

    loop: Loop
    clock: Callable[[], float]  # seconds, monotonic
    wire: type[WebSocketWire]
    max_bytes: int
    max_queue: int
    deflate_threshold: int
    cache: FrameCache
    output: TurnOutput
    access_log: AccessLog | None = None
    counts: LoopCounts = field(default_factory=LoopCounts)
    topics: Topics | None = None
