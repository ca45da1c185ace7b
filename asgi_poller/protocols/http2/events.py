"""What an HTTP/2 connection says of what it has received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from asgi_poller.errors import HttpFault
from asgi_poller.protocols.http1.parser import RequestHead


@dataclass(slots=True)
class RequestReceived:
    """A request's head. `is_complete`: no body follows."""

    stream_id: int
    head: RequestHead
    is_complete: bool


@dataclass(slots=True)
class RequestRefused:
    """A request that is not valid: its stream waits for the answer that `fault` names."""

    stream_id: int
    fault: HttpFault
    is_head: bool  # HEAD: the answer has no body
    is_complete: bool  # there is nothing more of it


@dataclass(slots=True)
class BodyReceived:
    """A piece of a request's body. `window_bytes` of the stream's window are used up by it, until
    they are credited.
    """

    stream_id: int
    data: bytes
    window_bytes: int


@dataclass(slots=True)
class BodyEnded:
    """The request is complete."""

    stream_id: int


@dataclass(slots=True)
class StreamReset:
    """The stream has ended, by the peer (RFC 9113, 6.4) or for the peer's fault."""

    stream_id: int
    code: int


@dataclass(slots=True)
class WindowOpened:
    """More may be sent on a stream; 0: on all of them."""

    stream_id: int


@dataclass(slots=True)
class EndKnown:
    """The peer has heard that the connection will end; what it sent before that has come."""


@dataclass(slots=True)
class PeerLeaves:
    """GOAWAY: the peer begins no more streams (RFC 9113, 6.8)."""


Event: TypeAlias = (
    RequestReceived
    | RequestRefused
    | BodyReceived
    | BodyEnded
    | StreamReset
    | WindowOpened
    | EndKnown
    | PeerLeaves
)
