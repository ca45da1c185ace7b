"""Logging: the default configuration, its formatters, and reopening files after rotation.

Three loggers: `asgi_poller.error` (the server's own lines), `asgi_poller.access` (one line for a
request, two for a WebSocket) and `asgi_poller.asgi` (every ASGI message, at level trace). The
access records are made with plain arguments, so that nothing is formatted unless a handler writes
it:

    access.info(ACCESS_HTTP, client, method, path, http_version, status)
    access.info(ACCESS_WEBSOCKET, client, path, outcome)

The arguments of ACCESS_HTTP are those of uvicorn's access records: formatters written for these go
on working.
"""

from __future__ import annotations

import copy
import http
import json
import logging
import logging.config
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.settings.application import DEFAULT_LOG_CONFIG
from asgi_poller.settings.application import TRACE as TRACE

ERROR_LOGGER = "asgi_poller.error"
ACCESS_LOGGER = "asgi_poller.access"
ASGI_LOGGER = "asgi_poller.asgi"

ACCESS_HTTP = '%s - "%s %s HTTP/%s" %d'
ACCESS_WEBSOCKET = '%s - "WebSocket %s" %s'

_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_LEVEL_COLOURS = {
    TRACE: "\x1b[34m",
    logging.DEBUG: "\x1b[36m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[91m",
}
_STATUS_COLOURS = {1: "\x1b[97m", 2: "\x1b[32m", 3: "\x1b[33m", 4: "\x1b[31m", 5: "\x1b[91m"}
_PREFIX_WIDTH = 9  # of the longest level and its colon

_STATUS_TEXTS = {int(status): f"{status.value} {status.phrase}" for status in http.HTTPStatus}

DEFAULT_FORMAT = "%(levelprefix)s %(message)s"
ACCESS_FORMAT = '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s'

LOGGING_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {
            "()": "asgi_poller.logs.DefaultFormatter",
            "fmt": DEFAULT_FORMAT,
            "use_colors": None,
        },
        "access": {
            "()": "asgi_poller.logs.AccessFormatter",
            "fmt": ACCESS_FORMAT,
            "use_colors": None,
        },
    },
    "handlers": {
        "default": {
            "formatter": "default",
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr",
        },
        "access": {
            "formatter": "access",
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
        },
    },
    "loggers": {
        "asgi_poller": {"handlers": ["default"], "level": "INFO", "propagate": False},
        ERROR_LOGGER: {"level": "INFO"},
        ACCESS_LOGGER: {"handlers": ["access"], "level": "INFO", "propagate": False},
        ASGI_LOGGER: {"level": "INFO"},
    },
}


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
        *,
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(fmt or self.format_unless_given, datefmt)
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
        return f"{colour}{record.levelname}{_RESET}:{padding}"


class AccessFormatter(DefaultFormatter):
    """Adds `%(client_addr)s`, `%(request_line)s` and `%(status_code)s`, from records of ACCESS_HTTP
    and ACCESS_WEBSOCKET. Other records are shown as they are. Any thread.
    """

    format_unless_given = ACCESS_FORMAT

    def goes_to_terminal(self) -> bool:
        """As for the default formatter, but access lines go to standard output."""
        return sys.stdout is not None and sys.stdout.isatty()

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself."""
        arguments = record.args
        if record.msg == ACCESS_HTTP and isinstance(arguments, tuple):
            client, method, path, version, status = arguments
            line, outcome = f"{method} {path} HTTP/{version}", self._status(status)
        elif record.msg == ACCESS_WEBSOCKET and isinstance(arguments, tuple):
            client, path, told = arguments
            line, outcome = f"WebSocket {path}", self._status(told)
        else:
            return f"{record.levelname}: {record.message}"
        record.client_addr = client
        record.request_line = f"{_BOLD}{line}{_RESET}" if self.use_colors else line
        record.status_code = outcome
        return super().formatMessage(record)

    def _status(self, status: object) -> str:
        if not isinstance(status, int):
            return str(status)
        shown = _STATUS_TEXTS.get(status) or f"{status} "
        colour = _STATUS_COLOURS.get(status // 100)
        return f"{colour}{shown}{_RESET}" if self.use_colors and colour else shown


def configure_logging(config: Config) -> None:
    """Sets logging up as `config` says; call it once in each process, before anything is logged.

    Raises ConfigError for a configuration that cannot be read or applied.
    """
    logging.addLevelName(TRACE, "TRACE")
    if config.log_config is not None:
        try:
            _apply(config)
        except ConfigError:
            raise
        except Exception as error:  # handlers of the user's are made, which may raise anything
            # dictConfig's own message only says which part failed, its cause says why.
            reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            raise ConfigError(
                "--log-config", f"cannot be used: {' '.join(reason.split())}"
            ) from error
    if config.log_level is not None:
        for name in (ERROR_LOGGER, ACCESS_LOGGER, ASGI_LOGGER):
            logging.getLogger(name).setLevel(config.log_level)
    if not config.access_log:
        access = logging.getLogger(ACCESS_LOGGER)
        access.handlers = []
        access.propagate = False


def _apply(config: Config) -> None:
    given = config.log_config
    if isinstance(given, Mapping):
        logging.config.dictConfig(_with_colours(given, config.use_colors))
    elif given == DEFAULT_LOG_CONFIG:
        logging.config.dictConfig(_with_colours(LOGGING_CONFIG, config.use_colors))
    elif given is not None:
        _apply_file(given, config.use_colors)


def _apply_file(path: str, use_colors: bool | None) -> None:
    if not os.path.isfile(path):
        raise ConfigError("--log-config", f"there is no file {path}")
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            logging.config.dictConfig(_with_colours(json.load(file), use_colors))
    elif path.endswith((".yaml", ".yml")):
        logging.config.dictConfig(_with_colours(_read_yaml(path), use_colors))
    else:
        logging.config.fileConfig(path, disable_existing_loggers=False)


def _read_yaml(path: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(
            "--log-config", "a .yaml file needs PyYAML: pip install 'asgi-poller[standard]'"
        ) from error
    with open(path, encoding="utf-8") as file:
        try:
            return yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error


def _with_colours(given: Any, use_colors: bool | None) -> dict[str, Any]:
    """A copy of the configuration in which our two formatters, if it has them, are told about
    colours.
    """
    if not isinstance(given, Mapping):
        raise ValueError("it must be a mapping, as logging.config.dictConfig takes it")
    configuration = dict(given)
    if use_colors is not None and isinstance(configuration.get("formatters"), Mapping):
        formatters = configuration["formatters"] = dict(configuration["formatters"])
        for name in ("default", "access"):
            if name in formatters:
                formatters[name] = {**formatters[name], "use_colors": use_colors}
    return configuration


def log_notices(config: Config) -> None:
    """Writes `config.notices` as warnings: once for a server, not in every worker."""
    for notice in config.notices:
        logging.getLogger(ERROR_LOGGER).warning("%s", notice)


def reopen_log_files() -> int:
    """Opens the file of every file handler anew (SIGUSR1, after a rotation) and returns how many
    there were.

    A file that cannot be opened is kept as it was, and said. Call it on the main thread; not from a
    signal handler, because it takes the handlers' locks.
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
