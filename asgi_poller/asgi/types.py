"""ASGI 3 in types, and the seam to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ASGI_VERSION = "3.0"
HTTP_SPEC_VERSION = "2.4"
WEBSOCKET_SPEC_VERSION = "2.5"
LIFESPAN_SPEC_VERSION = "2.0"


class Loop(Protocol):
    """What this layer needs of an event loop."""

    def create_future(self) -> asyncio.Future[Any]: ...

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Any: ...
