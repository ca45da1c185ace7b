"""Every ASGI message in the log, at level trace: their kinds and sizes, not their contents."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from asgi_poller.asgi.types import Application, Message, Receive, Scope, Send
from asgi_poller.logs import ASGI_LOGGER, TRACE

_logger = logging.getLogger(ASGI_LOGGER)
_UNITS = {
    "body": "bytes",
    "bytes": "bytes",
    "text": "chars",
    "headers": "headers",
    "info": "keys",
    "links": "links",
    "query_string": "bytes",
    "reason": "chars",
    "state": "keys",
    "extensions": "keys",
}


def with_message_log(application: Application) -> Application:
    """`application` with its messages logged, where that is on; else itself, so that silence costs
    nothing.
    """
    if not _logger.isEnabledFor(TRACE):
        return application
    numbers = itertools.count(1)

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        prefix = f"{client[0]}:{client[1]} - ASGI" if client else "ASGI"
        name = f"{prefix} [{next(numbers)}]"

        async def receive_logged() -> Message:
            message = await receive()
            _logger.log(TRACE, "%s Receive %s", name, _outline(message))
            return message

        async def send_logged(message: Message) -> None:
            _logger.log(TRACE, "%s Send %s", name, _outline(message))
            await send(message)

        _logger.log(TRACE, "%s Started scope=%s", name, _outline(scope))
        try:
            await application(scope, receive_logged, send_logged)
        except BaseException:  # logged and raised again, a cancellation too
            _logger.log(TRACE, "%s Raised exception", name)
            raise
        _logger.log(TRACE, "%s Completed", name)

    return logged


def _outline(message: Message) -> dict[str, Any]:
    """The message with sizes in place of contents."""
    return {
        key: f"<{len(value)} {_UNITS[key]}>"
        if key in _UNITS and hasattr(value, "__len__")
        else value
        for key, value in message.items()
    }
