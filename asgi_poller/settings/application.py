"""Options: the application and what is logged."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asgi_poller.settings.kinds import Kind, choice, flag, optional, shown, text
from asgi_poller.settings.option import option

TRACE = 5  # below logging.DEBUG: every ASGI message
LOG_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
DEFAULT_LOG_CONFIG = "default"


def _log_level() -> Kind:
    """A level's name or number; kept as the number."""
    names = choice(*LOG_LEVELS)

    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
        if isinstance(value, str) and value.strip().lower() == "warn":
            return logging.WARNING
        return LOG_LEVELS[names.check(value)]

    return Kind(names.metavar, check, check, choices=names.choices)


def _log_config() -> Kind:
    """A path, a dictionary for logging.config.dictConfig, or None: logging is left as it is."""
    plain = text("PATH")

    def check(value: object) -> str | dict[str, Any]:
        if isinstance(value, Mapping):
            return dict(value)
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"must be a path or a dictionary, not {shown(value)}")
        path: str = plain.check(value)
        return path

    return Kind("PATH", plain.parse, check)


@dataclass(frozen=True, kw_only=True, init=False)
class Application:
    """The application."""

    __slots__ = ()

    app_dir: str = option(
        "",
        text("PATH"),
        "Look for the application in this directory. Default: the current one.",
        uvicorn="same",
    )
    factory: bool = option(
        False, flag(), "APP is a function that returns the application.", uvicorn="same"
    )
    lifespan: Literal["auto", "on", "off"] = option(
        "auto",
        choice("auto", "on", "off"),
        "Lifespan events. auto: if the application knows them; on: it must.",
        uvicorn="same",
    )
    env_file: str | None = option(
        None,
        optional(text("PATH")),
        "Environment variables for the application (needs python-dotenv).",
        note="Loaded just before the application. ASGI_POLLER_ variables are not read from it; "
        "WEB_CONCURRENCY and FORWARDED_ALLOW_IPS are, as uvicorn does.",
        uvicorn="same",
    )
    reset_contextvars: bool = option(
        False,
        flag(),
        "Run every request in a fresh context: context variables set in the lifespan are not seen.",
        uvicorn="same",
    )


@dataclass(frozen=True, kw_only=True, init=False)
class Logging:
    """What is logged, and how."""

    __slots__ = ()

    log_level: int | None = option(
        None,
        optional(_log_level()),
        "Lowest level that is logged: info unless given.",
        uvicorn="same",
    )
    log_config: str | Mapping[str, Any] | None = option(
        DEFAULT_LOG_CONFIG,
        optional(_log_config()),
        "Logging configuration file: .json, .yaml (needs PyYAML) or .ini.",
        note="None leaves logging as it is. In Python and TOML a dictionary too.",
        uvicorn="built-in",
    )
    log_format: Literal["text", "json"] = option(
        "text",
        choice("text", "json"),
        "How lines are written: as text, or one JSON object a line.",
    )
    access_log_format: str | None = option(
        None,
        optional(text("TEMPLATE")),
        "Lines of the access log, with named fields: '%(client)s %(status)s %(duration_ms).1f'.",
        note="[Logging](logging.md#a-format-of-your-own) has the fields.",
    )
    access_log: bool = option(
        True,
        flag(),
        "Log a line for each request, and for each WebSocket's start and end.",
        uvicorn="same",
    )
    use_colors: bool | None = option(
        None,
        optional(flag()),
        "Colours in the log; without the option, if it goes to a terminal.",
        uvicorn="same",
    )
