"""What a connection that speaks HTTP waits for. `docs/design.md` draws the ways between these."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Phase(Enum):
    """Each has its deadline; a setting names it."""

    SILENT = "the first octet of its first request"  # --timeout-first-octet
    HEAD = "the rest of a request's head"  # --timeout-request-header
    BUSY = "the application's response"  # --timeout-request-body, for the request's rest only
    IDLE = "another request"  # --timeout-keep-alive
    UPGRADING = "the requests before its upgrade"  # what is read now belongs to the new protocol
    ENDING = "its last octets to be written"


# Asking an Enum class for its member is a function call in Python 3.11; these are not.
SILENT: Final = Phase.SILENT
HEAD: Final = Phase.HEAD
BUSY: Final = Phase.BUSY
IDLE: Final = Phase.IDLE
UPGRADING: Final = Phase.UPGRADING
ENDING: Final = Phase.ENDING
