"""What a WebSocket knows of topics."""

from __future__ import annotations

from typing import Any, Final, Protocol

from asgi_poller.asgi.types import Message

#: The extension in a WebSocket's scope; its messages are websocket.topic.subscribe, ...
EXTENSION: Final = "websocket.topic"
#: In the scope of a WebSocket: its session, while the connection lasts.
SESSION: Final = "asgi_poller.websocket"


class Topics(Protocol):
    """The topics of a loop, as its WebSockets see them."""

    def leave(self, target: Any) -> None:
        """`target` has ended."""

    def resume(self, target: Any) -> None:
        """The peer of `target` has read: it is not slow any more."""

    async def on_message(self, session: Any, message: Message) -> None:
        """A message of the extension. Raises ApplicationFault."""
