"""TLS reload: a new certificate while the server runs, on SIGHUP or when its file has changed."""

from __future__ import annotations

import asyncio
import logging

from asgi_poller.errors import ConfigError
from asgi_poller.tls import TlsContext

_log = logging.getLogger("asgi_poller.error")

# Unit: seconds. One stat(2) for each file; a renewed certificate has days to spare.
LOOK_EVERY_S = 5.0


def reload(tls: TlsContext) -> bool:
    """Read certificate and key again, for handshakes from now on; whether they were good.

    No connection is dropped. If they are bad, the old ones stay, and the log says why.
    """
    try:
        tls.reload()
    except ConfigError as problem:
        _log.error("The certificate is not replaced, the old one stays: %s", problem)
        return False
    _log.info("Certificate reloaded")
    return True


async def reload_changed(tls: TlsContext) -> None:
    """Reload whenever a file has changed, until cancelled. A task of the process's first loop."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if tls.changed():
            reload(tls)
