"""The values of options as text: what would be typed for them, and what a TOML file has for them.

Both are read back to the same value: by the command line, and by `settings/sources.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asgi_poller.errors import ConfigError
from asgi_poller.settings.application import LOG_LEVELS
from asgi_poller.settings.option import Option

_LEVEL_NAMES = {number: name for name, number in LOG_LEVELS.items()}
_EXACT = 1e16  # repr() of larger floats has an exponent with a plus, which durations do not


def as_typed(option: Option, value: Any) -> list[str]:
    """What stands behind the option on the command line, once for each time that it is given: none
    for an empty list. Not quoted for a shell; not for flags.
    """
    if value is None:
        return ["none"]
    if option.kind.repeatable:
        return [_item(item) for item in value]
    if option.kind.metavar == "MODE":
        return [f"{value:o}"]
    if option.kind.metavar == "SECONDS":
        return [f"{_number(value)}s"]
    if option.kind.metavar == "SIZE":
        return [_size(value)]
    if option.name == "log_level":
        return [str(_LEVEL_NAMES.get(value, value))]
    return [_number(value) if isinstance(value, float) else str(value)]


def as_toml(option: Option, value: Any) -> str:
    """The right side of a TOML line. Raises ConfigError for text that is no Unicode."""
    plain = as_data(option, value)
    if option.kind.metavar == "MODE":
        return f"0o{value:o}"
    if value is not None and option.kind.metavar == "SIZE":
        plain = _size(value)
    try:
        return _toml("none" if plain is None else plain)
    except UnicodeEncodeError:
        raise ConfigError(
            option.switch, "has bytes that are no UTF-8: a TOML file cannot hold them"
        ) from None


def as_data(option: Option, value: Any) -> Any:
    """The value as text, numbers, lists and None, as JSON has them. Sizes are bytes, durations
    seconds.
    """
    if value is None or isinstance(value, Mapping):
        return value
    if option.kind.repeatable:
        return [_item(item) for item in value]
    if option.kind.metavar == "MODE" or option.name == "log_level":
        return as_typed(option, value)[0]
    if isinstance(value, float) and value.is_integer() and value < _EXACT:
        return int(value)
    return value


def _item(item: Any) -> str:
    """One of several values: a text, or a header."""
    if isinstance(item, str):
        return item
    name, value = item
    return f"{name.decode('latin-1')}: {value.decode('latin-1')}"


def _number(value: float) -> str:
    if value >= _EXACT:
        return f"{value:.0f}"
    return repr(value).removesuffix(".0")


def _size(value: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def _toml(value: Any) -> str:
    """TOML 1.0: tables are inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    """A basic string. JSON escapes the same, but for DEL, which TOML does not take as it is."""
    value.encode()  # Raises UnicodeEncodeError for a byte of the command line that was no text
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
