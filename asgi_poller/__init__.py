"""An ASGI server for WebSockets first: accept threads that never wait feed per-core event loops."""

from __future__ import annotations

from typing import Any

from asgi_poller.config import App, Config

__version__ = "0.1.0"
__all__ = ["Config", "Server", "__version__", "run"]


def run(app: App, **options: Any) -> None:
    """Serve `app` (an ASGI application or "module:attribute") until a signal ends the server.

    Options are those of the command line with underscores; uvicorn's are understood. Raises
    OperatorFault for what must be changed before it can work.
    """
    from asgi_poller.supervisor.main import serve  # importing a Config must stay cheap

    serve(Config.load(app, **options))


def __getattr__(name: str) -> Any:
    if name == "Server":
        from asgi_poller.supervisor.server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
