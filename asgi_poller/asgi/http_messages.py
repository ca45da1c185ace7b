"""What applications put into messages of a response, checked."""

from __future__ import annotations

from typing import Any

from asgi_poller.asgi.types import Message
from asgi_poller.errors import ApplicationFault


def as_bytes(body: object) -> bytes:
    """A piece of a body. Raises ApplicationFault."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise ApplicationFault(f"`body` is bytes, not {type(body).__name__}")


def link_headers(message: Message) -> list[tuple[bytes, Any]]:
    """The fields of an early hint (ASGI: Extensions, Early Hints). Raises ApplicationFault."""
    try:
        return [(b"link", link) for link in message["links"]]
    except (KeyError, TypeError) as error:
        raise ApplicationFault(f"`links` are values of Link fields: {error!r}") from error
