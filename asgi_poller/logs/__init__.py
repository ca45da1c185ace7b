"""Logging: the loggers and their records, how lines look, who writes them, and what sets it up.

Names that configurations and other packages use; each is documented where it is.
"""

from __future__ import annotations

from asgi_poller.logs.access_fields import Access
from asgi_poller.logs.access_format import AccessTemplateFormatter
from asgi_poller.logs.configuration import LOGGING_CONFIG, configure_logging
from asgi_poller.logs.files import reopen_log_files
from asgi_poller.logs.handler import QueuedStreamHandler
from asgi_poller.logs.json_lines import JsonFormatter
from asgi_poller.logs.lines import log_notices, log_with_pid
from asgi_poller.logs.records import (
    ACCESS_HTTP,
    ACCESS_LOGGER,
    ACCESS_WEBSOCKET,
    ASGI_LOGGER,
    ERROR_LOGGER,
    Outcome,
)
from asgi_poller.logs.stream import let_go_of_stalled_outputs
from asgi_poller.logs.text import (
    ACCESS_FORMAT,
    BOLD,
    DEFAULT_FORMAT,
    AccessFormatter,
    DefaultFormatter,
)
from asgi_poller.logs.writer import background_writing, dropped_lines, flush_log
from asgi_poller.settings.application import TRACE

__all__ = [
    "ACCESS_FORMAT",
    "ACCESS_HTTP",
    "ACCESS_LOGGER",
    "ACCESS_WEBSOCKET",
    "ASGI_LOGGER",
    "BOLD",
    "DEFAULT_FORMAT",
    "ERROR_LOGGER",
    "LOGGING_CONFIG",
    "TRACE",
    "Access",
    "AccessFormatter",
    "AccessTemplateFormatter",
    "DefaultFormatter",
    "JsonFormatter",
    "Outcome",
    "QueuedStreamHandler",
    "background_writing",
    "configure_logging",
    "dropped_lines",
    "flush_log",
    "let_go_of_stalled_outputs",
    "log_notices",
    "log_with_pid",
    "reopen_log_files",
]
