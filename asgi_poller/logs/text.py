"""The default look: the formatters of uvicorn's names and fields, which know WebSockets too."""

from __future__ import annotations

import copy
import http
import logging
import sys
from typing import Literal

from asgi_poller.logs.records import ACCESS_WEBSOCKET, Outcome
from asgi_poller.settings.application import TRACE

RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
PID_COLOUR = "\x1b[36m"
BOLD = f"{_BOLD}%s{RESET}"
_LEVEL_COLOURS = {
    TRACE: "\x1b[34m",
    logging.DEBUG: "\x1b[36m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[91m",
}
_STATUS_COLOURS = {1: "\x1b[97m", 2: "\x1b[32m", 3: "\x1b[33m", 4: "\x1b[31m", 5: "\x1b[91m"}
_ACCESS_ARGUMENTS = 5
_PREFIX_WIDTH = 9  # of the longest level and its colon

_STATUS_TEXTS = {int(status): f"{status.value} {status.phrase}" for status in http.HTTPStatus}

DEFAULT_FORMAT = "%(levelprefix)s %(message)s"
ACCESS_FORMAT = '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s'


class DefaultFormatter(logging.Formatter):
    """A formatter that knows `%(levelprefix)s`: the level, a colon and padding, in colour on a
    terminal.

    A record's `color_message` (from `extra`) replaces the message where colours are used. Any
    thread.
    """

    format_unless_given = DEFAULT_FORMAT

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(fmt or self.format_unless_given, datefmt, style)
        self.use_colors = self.goes_to_terminal() if use_colors is None else use_colors
        self._prefixes: dict[int, str] = {}

    def goes_to_terminal(self) -> bool:
        """Whether the stream that the default configuration writes to is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself; logging.Formatter adds tracebacks."""
        prefix = self._prefixes.get(record.levelno)
        if prefix is None:
            prefix = self._prefixes[record.levelno] = self._prefix(record)
        record.levelprefix = prefix
        if self.use_colors and "color_message" in record.__dict__:
            coloured = copy.copy(record)
            coloured.msg = record.__dict__["color_message"]
            record.message = coloured.getMessage()
        return super().formatMessage(record)

    def _prefix(self, record: logging.LogRecord) -> str:
        padding = " " * (_PREFIX_WIDTH - len(record.levelname) - 1)
        colour = _LEVEL_COLOURS.get(record.levelno)
        if not self.use_colors or colour is None:
            return f"{record.levelname}:{padding}"
        return f"{colour}{record.levelname}{RESET}:{padding}"


class AccessFormatter(DefaultFormatter):
    """Adds `%(client_addr)s`, `%(request_line)s` and `%(status_code)s`, from records with the five
    arguments of ACCESS_HTTP and ACCESS_WEBSOCKET. Other records are shown as they are. Any thread.
    """

    format_unless_given = ACCESS_FORMAT

    def goes_to_terminal(self) -> bool:
        """As for the default formatter, but access lines go to standard output."""
        return sys.stdout is not None and sys.stdout.isatty()

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself."""
        arguments = record.args
        if not isinstance(arguments, tuple) or len(arguments) != _ACCESS_ARGUMENTS:
            return f"{record.levelname}: {record.message}"
        client, method, path, version, status = arguments
        line = f"{method} {path}"
        if record.msg != ACCESS_WEBSOCKET:
            line += f" HTTP/{version}"
        record.client_addr = client
        record.request_line = f"{_BOLD}{line}{RESET}" if self.use_colors else line
        record.status_code = self._status(status)
        return super().formatMessage(record)

    def _status(self, status: object) -> str:
        if not isinstance(status, int):
            return str(status)
        if isinstance(status, Outcome):
            shown = str(status)
        else:
            shown = _STATUS_TEXTS.get(status) or f"{status} "
        colour = _STATUS_COLOURS.get(status // 100)
        return f"{colour}{shown}{RESET}" if self.use_colors and colour else shown
