"""An ASGI server for WebSockets first: threads that only accept feed the event loops."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asgi_poller.config import App
from asgi_poller.config import Config as Settings
from asgi_poller.embedding import Config
from asgi_poller.errors import OperatorFault

if TYPE_CHECKING:  # importing a Config must stay cheap
    import socket

__version__ = "0.1.0"
__all__ = ["Config", "Server", "__version__", "run"]


def run(
    app: App,
    host: str | None = None,
    port: int | str | None = None,
    *,
    sockets: Iterable[socket.socket] | None = None,
    **options: Any,
) -> None:
    """Serve `app` (an ASGI application or "module:attribute") until a signal ends the server.

    Options are those of the command line with underscores; uvicorn's are understood.
    `sockets` that the caller has bound are served instead of those that options name, in one
    process. What must be changed before it can work is one line on standard error and SystemExit
    with the command's exit code: 2 for a wrong option, 1 for an address that cannot be had, 3 for
    a failed start-up.
    """
    from asgi_poller.serve_main import serve  # importing a Config must stay cheap

    try:
        config = Settings.from_sources(app, host=host, port=port, **options)
        code = serve(config, sockets=sockets)
    except OperatorFault as fault:
        print("asgi-poller: error:", *str(fault).split(), file=sys.stderr)
        sys.exit(fault.exit_code)
    if code:
        sys.exit(code)


def __getattr__(name: str) -> Any:
    if name == "Server":
        from asgi_poller.serve.server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
