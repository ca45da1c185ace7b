"""The TLS context of a gunicorn worker: ours, unless gunicorn's `ssl_context` hook makes one."""

from __future__ import annotations

import ssl
from typing import Any

from gunicorn import sock

from asgi_poller.config import Config
from asgi_poller.gunicorn.settings import is_given
from asgi_poller.tls import TlsContext, context_of


class HookedContext(TlsContext):
    """A context that the operator's hook made. With new workers (HUP) gunicorn calls it again."""

    __slots__ = ()

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context  # type: ignore[assignment]  # the extension copes with a plain one

    def changed(self) -> bool:
        return False

    def reload(self) -> None:
        """Nothing: the hook belongs to the start of a worker."""


def tls_context(cfg: Any, config: Config) -> TlsContext | None:
    """The hook's context, or the configuration's; None: no TLS."""
    if config.ssl_certfile is not None and is_given(cfg.settings["ssl_context"]):
        return HookedContext(sock.ssl_context(cfg))
    return context_of(config)
