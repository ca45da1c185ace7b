"""Setting logging up: the default configuration, the user's, and what options change in it."""

from __future__ import annotations

import json
import logging
import logging.config
import os
from collections.abc import Mapping
from typing import Any

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.logs.access_format import parsed_format
from asgi_poller.logs.records import ACCESS_LOGGER, ASGI_LOGGER, ERROR_LOGGER
from asgi_poller.logs.text import ACCESS_FORMAT, DEFAULT_FORMAT
from asgi_poller.logs.uvicorn import adapted, adapted_ini
from asgi_poller.settings.application import DEFAULT_LOG_CONFIG, TRACE

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
            "class": "asgi_poller.logs.QueuedStreamHandler",
            "stream": "ext://sys.stderr",
        },
        "access": {
            "formatter": "access",
            "class": "asgi_poller.logs.QueuedStreamHandler",
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
        _configure(_default(config), config.use_colors)
    elif given is not None:
        _apply_file(given, config.use_colors)


def _default(config: Config) -> dict[str, Any]:
    """The default configuration with the formats that the options ask for."""
    formatters: dict[str, Any] = {}
    if config.log_format == "json":
        as_json = {"()": "asgi_poller.logs.JsonFormatter"}
        formatters = {"default": as_json, "access": as_json}
    elif config.access_log_format is not None:
        _check_format(config.access_log_format)
        form = {"()": "asgi_poller.logs.AccessTemplateFormatter", "fmt": config.access_log_format}
        formatters = {"access": form}
    return {**LOGGING_CONFIG, "formatters": {**LOGGING_CONFIG["formatters"], **formatters}}


def _check_format(template: str) -> None:
    try:
        parsed_format(template)
    except ValueError as error:
        raise ConfigError("--access-log-format", str(error)) from error


def _configure(given: Any, use_colors: bool | None) -> None:
    if not isinstance(given, Mapping):
        raise ValueError("it must be a mapping, as logging.config.dictConfig takes it")
    logging.config.dictConfig(_with_colours(adapted(given), use_colors))


def _apply_file(path: str, use_colors: bool | None) -> None:
    if not os.path.isfile(path):
        raise ConfigError("--log-config", f"there is no file {path}")
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            _configure(json.load(file), use_colors)
    elif path.endswith((".yaml", ".yml")):
        _configure(_read_yaml(path), use_colors)
    else:
        logging.config.fileConfig(adapted_ini(path), disable_existing_loggers=False)


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
