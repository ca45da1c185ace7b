"""`Config` for programs that embed the server: the settings, and what uvicorn's Config does with
them.

The command line and `run()` use the settings alone (asgi_poller.config), and act on them
themselves. What needs sockets or logging is imported where it is needed: importing a Config is
cheap.
"""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

from asgi_poller import config
from asgi_poller.config import App, ASGIApplication

if TYPE_CHECKING:
    import socket


class Config(config.Config):
    """All settings, checked, as asgi_poller.config.Config says, for use with `Server`.

    As uvicorn's, it configures logging when it is made (`log_config=None` leaves logging alone),
    and writes its notices there. `load()` sets `loaded` and `loaded_app`; both may be set, so that
    what is served can be wrapped: `config.loaded_app = Wrapper(config.loaded_app)`.
    """

    loaded = False
    loaded_app: ASGIApplication

    def __init__(
        self,
        app: App,
        host: str | None = None,
        port: int | str | None = None,
        uds: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(app, host, port, uds, **options)
        self.configure_logging()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("loaded", "loaded_app"):
            raise FrozenInstanceError(f"{name!r} cannot be changed: give it to Config(...)")
        object.__setattr__(self, name, value)

    def configure_logging(self) -> None:
        """Done already, when it was made. Raises ConfigError for a log_config that cannot be used.

        To be called again after something else has configured logging.
        """
        from asgi_poller.logs import configure_logging, log_notices

        configure_logging(self)
        log_notices(self)

    def load(self) -> None:
        """Import the application, or call its factory: `loaded_app`. Raises StartupError."""
        from asgi_poller.importer import load_application

        self.loaded_app = load_application(self)
        self.loaded = True

    def bind_socket(self) -> socket.socket:
        """A socket for `Server.serve(sockets=[...])`: bound to `uds`, to what `fd` is, or to `host`
        and `port`, not listening yet. Says where the server runs. Raises ListenError.
        """
        from asgi_poller.listeners.listeners import bind_socket

        return bind_socket(self)


def application_of(settings: config.Config) -> ASGIApplication:
    """What is to be served; loaded unless it has been. Raises StartupError."""
    from asgi_poller.importer import load_application

    if not isinstance(settings, Config):
        return load_application(settings)
    if not settings.loaded:
        settings.load()
    return settings.loaded_app
