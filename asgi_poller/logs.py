"""Logging: the default configuration, its formatters, and reopening files after rotation.

Three loggers: `asgi_poller.error` (the server's own lines), `asgi_poller.access` (one line for a
request, two for a WebSocket) and `asgi_poller.asgi` (every ASGI message, at level trace). The
access records are made with plain arguments, so that nothing is formatted unless a handler writes
it:

    access.info(ACCESS_HTTP, client, method, path, http_version, status)
    access.info(ACCESS_WEBSOCKET, client, "WebSocket", path, http_version, outcome)

The five arguments are those of uvicorn's access records, for WebSockets too: formatters written for
these go on working. An `outcome` is an Outcome, a number as a status is.
"""

from __future__ import annotations

import configparser
import copy
import http
import json
import logging
import logging.config
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.settings.application import DEFAULT_LOG_CONFIG
from asgi_poller.settings.application import TRACE as TRACE

ERROR_LOGGER = "asgi_poller.error"
ACCESS_LOGGER = "asgi_poller.access"
ASGI_LOGGER = "asgi_poller.asgi"

ACCESS_HTTP = '%s - "%s %s HTTP/%s" %d'
# %.0s shows nothing of the version, which is among the arguments for formatters alone
ACCESS_WEBSOCKET = '%s - "%s %s%.0s" %s'


class Outcome(int):
    """What became of a WebSocket: a number (101, the status that denied it, or its close code) that
    is shown in words.
    """

    words: str

    def __new__(cls, number: int, words: str) -> Outcome:
        """`words` are what str() gives."""
        made = super().__new__(cls, number)
        made.words = words
        return made

    def __str__(self) -> str:
        return self.words

    def __format__(self, form: str) -> str:
        return format(self.words, form)


_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_PID_COLOUR = "\x1b[36m"
BOLD = f"{_BOLD}%s{_RESET}"
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

_UVICORN = "uvicorn"
# ours take the same arguments, know WebSockets, and are there where uvicorn is not installed
_FORMATTERS_OF_UVICORN = {
    f"uvicorn.logging.{name}": f"asgi_poller.logs.{name}"
    for name in ("DefaultFormatter", "AccessFormatter")
} | {"uvicorn.logging.ColourizedFormatter": "asgi_poller.logs.DefaultFormatter"}

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
        return f"{colour}{record.levelname}{_RESET}:{padding}"


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
        record.request_line = f"{_BOLD}{line}{_RESET}" if self.use_colors else line
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
    if not config.access_log and config.log_config is not None:
        access = logging.getLogger(ACCESS_LOGGER)
        access.handlers = []
        access.propagate = False


def _apply(config: Config) -> None:
    given = config.log_config
    if isinstance(given, Mapping):
        _configure(given, config.use_colors)
    elif given == DEFAULT_LOG_CONFIG:
        _configure(LOGGING_CONFIG, config.use_colors)
    elif given is not None:
        _apply_file(given, config.use_colors)


def _configure(given: Any, use_colors: bool | None) -> None:
    if not isinstance(given, Mapping):
        raise ValueError("it must be a mapping, as logging.config.dictConfig takes it")
    logging.config.dictConfig(_with_colours(_adapted(given), use_colors))


def _apply_file(path: str, use_colors: bool | None) -> None:
    if not os.path.isfile(path):
        raise ConfigError("--log-config", f"there is no file {path}")
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            _configure(json.load(file), use_colors)
    elif path.endswith((".yaml", ".yml")):
        _configure(_read_yaml(path), use_colors)
    else:
        logging.config.fileConfig(_adapted_ini(path), disable_existing_loggers=False)


def _ours(name: str) -> str | None:
    """Our logger that corresponds to uvicorn's `name`; None if that is none of uvicorn's."""
    root, dot, rest = name.partition(".")
    return f"asgi_poller{dot}{rest}" if root == _UVICORN else None


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "asgi_poller"


def _adapted(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration that was written for uvicorn and means us: what it says of
    uvicorn's loggers holds for ours too, if it names none of ours; uvicorn's formatters are ours.
    """
    configuration = dict(given)
    loggers = configuration.get("loggers")
    if isinstance(loggers, Mapping) and not any(_is_ours(name) for name in loggers):
        meant = {ours: about for name, about in loggers.items() if (ours := _ours(name))}
        configuration["loggers"] = {**loggers, **meant}
    formatters = configuration.get("formatters")
    if isinstance(formatters, Mapping):
        configuration["formatters"] = {
            name: _with_our_class(about) for name, about in formatters.items()
        }
    return configuration


def _with_our_class(formatter: Any) -> Any:
    if not isinstance(formatter, Mapping):
        return formatter
    changed = dict(formatter)
    for key in ("()", "class"):
        if changed.get(key) in _FORMATTERS_OF_UVICORN:
            changed[key] = _FORMATTERS_OF_UVICORN[changed[key]]
    return changed


def _adapted_ini(path: str) -> configparser.ConfigParser:
    """The same for a file as logging.config.fileConfig reads it."""
    parser = configparser.ConfigParser(defaults=None)
    parser.read(path, encoding="utf-8")
    loggers = [section for section in parser.sections() if section.startswith("logger_")]
    names = {section: parser.get(section, "qualname", fallback="") for section in loggers}
    if not any(map(_is_ours, names.values())):
        for section, name in names.items():
            if ours := _ours(name):
                again = f"{section}_asgi_poller"
                parser[again] = {**dict(parser.items(section, raw=True)), "qualname": ours}
                keys = f"{parser['loggers']['keys']},{again.removeprefix('logger_')}"
                parser["loggers"]["keys"] = keys
    for section in parser.sections():
        made_by = parser.get(section, "class", raw=True, fallback="")
        if section.startswith("formatter_") and made_by in _FORMATTERS_OF_UVICORN:
            parser[section]["class"] = _FORMATTERS_OF_UVICORN[made_by]
    return parser


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


def _with_colours(given: Mapping[str, Any], use_colors: bool | None) -> dict[str, Any]:
    """A copy of the configuration in which our two formatters, if it has them, get
    colours.
    """
    configuration = dict(given)
    if use_colors is not None and isinstance(configuration.get("formatters"), Mapping):
        formatters = configuration["formatters"] = dict(configuration["formatters"])
        for name in ("default", "access"):
            if name in formatters:
                formatters[name] = {**formatters[name], "use_colors": use_colors}
    return configuration


def log_with_pid(message: str, *arguments: object) -> None:
    """A line of the start or the end; the process id, which `message` has as [%d], is in colour on
    a terminal.
    """
    coloured = message.replace("[%d]", f"[{_PID_COLOUR}%d{_RESET}]")
    logger = logging.getLogger(ERROR_LOGGER)
    logger.info(message, *arguments, extra={"color_message": coloured})


def log_notices(config: Config) -> None:
    """Writes `config.notices` as warnings: once for a server, not in every worker."""
    for notice in config.notices:
        logging.getLogger(ERROR_LOGGER).warning("%s", notice)


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
