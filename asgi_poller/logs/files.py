"""Log files after a rotation."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from asgi_poller.logs.records import ERROR_LOGGER


def reopen_log_files() -> int:
    """Opens the file of every file handler again (SIGUSR1, after a rotation) and returns how many
    there were.

    A file that cannot be opened is kept as it was, and a line says so. Call it on the main thread;
    not from a signal handler, because it takes the handlers' locks.
    """
    reopened = 0
    for handler in set(_file_handlers()):
        try:
            fresh = open(  # noqa: SIM115  # the handler keeps it
                handler.baseFilename, "a", encoding=handler.encoding, errors=handler.errors
            )
        except OSError as error:
            logging.getLogger(ERROR_LOGGER).error("cannot reopen a log file: %s", error)
            continue
        handler.acquire()
        try:
            stale, handler.stream = handler.stream, fresh
        finally:
            handler.release()
        if stale is not None:  # with delay=True there is none before the first record
            stale.close()
        reopened += 1
    return reopened


def _file_handlers() -> Iterator[logging.FileHandler]:
    loggers = [
        logging.getLogger(),
        *map(logging.getLogger, list(logging.Logger.manager.loggerDict)),
    ]
    for logger in loggers:
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                yield handler
