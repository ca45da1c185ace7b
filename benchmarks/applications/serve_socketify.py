"""`python -m serve_socketify PORT`: each message goes to all by socketify's own topics."""

from __future__ import annotations

import sys
from typing import Any

from socketify import App, CompressOptions  # type: ignore[import-not-found]


def subscribe(websocket: Any) -> None:
    """Everybody is in one topic."""
    websocket.subscribe("all")


def publish(websocket: Any, message: Any, opcode: Any) -> None:
    """To all others, and to its sender."""
    websocket.publish("all", message, opcode)
    websocket.send(message, opcode)


app = App()
app.ws("/*", {"compression": CompressOptions.DISABLED, "open": subscribe, "message": publish})
app.get("/", lambda response, request: response.end("ready"))
app.listen({"host": "127.0.0.1", "port": int(sys.argv[1])}, lambda config: None)
app.run()
