"""Lines that are written in more than one place."""

from __future__ import annotations

import logging

from asgi_poller.config import Config
from asgi_poller.logs.records import ERROR_LOGGER
from asgi_poller.logs.text import PID_COLOUR, RESET


def log_with_pid(message: str, *arguments: object) -> None:
    """A line of the start or the end; the process id, which `message` has as [%d], is in colour on
    a terminal.
    """
    coloured = message.replace("[%d]", f"[{PID_COLOUR}%d{RESET}]")
    logger = logging.getLogger(ERROR_LOGGER)
    logger.info(message, *arguments, extra={"color_message": coloured})


def log_notices(config: Config) -> None:
    """Writes `config.notices` as warnings: once for a server, not in every worker."""
    for notice in config.notices:
        logging.getLogger(ERROR_LOGGER).warning("%s", notice)
