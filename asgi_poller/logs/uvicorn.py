"""Logging configurations that were written for uvicorn: what they say holds for our loggers."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from typing import Any

_UVICORN = "uvicorn"
# ours take the same arguments, know WebSockets, and are there where uvicorn is not installed
_FORMATTERS_OF_UVICORN = {
    f"uvicorn.logging.{name}": f"asgi_poller.logs.{name}"
    for name in ("DefaultFormatter", "AccessFormatter")
} | {"uvicorn.logging.ColourizedFormatter": "asgi_poller.logs.DefaultFormatter"}


def _ours(name: str) -> str | None:
    """Our logger that corresponds to uvicorn's `name`; None if that is none of uvicorn's."""
    root, dot, rest = name.partition(".")
    return f"asgi_poller{dot}{rest}" if root == _UVICORN else None


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "asgi_poller"


def adapted(given: Mapping[str, Any]) -> dict[str, Any]:
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


def adapted_ini(path: str) -> configparser.ConfigParser:
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
