"""`--access-log-format`: lines of the access log by a template with named fields.

%(time)s %(client)s "%(method)s %(path)s" %(status)s %(duration_ms).1f
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from asgi_poller.logs.access_fields import (
    FIELDS,
    FORMAT_FIELDS,
    KNOWN_AT_THE_END,
    NUMBERS,
    Access,
    quoted,
    rfc3339,
)

_PIECE = re.compile(r"%(?:(%)|\((\w*)\)([-+ 0#]*)(\d*)((?:\.\d+)?)([a-zA-Z]))|([^%]+)|(%.?)")
_NOTHING = "-"  # for what a line does not know, as in other access logs
_CONVERSIONS = "sdifeg"


class Field(NamedTuple):
    """A field in a template, and how it is written (printf-style, as Python's %)."""

    name: str
    form: str
    width: int  # of a value that is not known, negative: on the left


def parsed_format(template: str) -> list[str | Field]:
    """The template's texts and fields. Raises ValueError with a message that reads on after the
    option's name.
    """
    pieces: list[str | Field] = []
    for found in _PIECE.finditer(template):
        percent, name, flags, width, precision, conversion, text, stray = found.groups()
        if percent or text:
            pieces.append(percent or text)
            continue
        if stray is not None:
            raise ValueError(f"has {stray!r}: a field is %(name)s, a percent sign %%")
        if name not in FIELDS and name not in FORMAT_FIELDS:
            known = ", ".join(sorted({*FIELDS, *FORMAT_FIELDS}))
            raise ValueError(f"has the unknown field {name!r}: the fields are {known}")
        if conversion not in _CONVERSIONS:
            raise ValueError(f"has %({name}){conversion}: it ends in one of {_CONVERSIONS}")
        if conversion != "s" and name not in NUMBERS:
            raise ValueError(f"has {name!r} as a number, which it is not: write %({name})s")
        padding = int(width or 0) * (-1 if "-" in flags else 1)
        pieces.append(Field(name, f"%{flags}{width}{precision}{conversion}", padding))
    return pieces


class AccessTemplateFormatter(logging.Formatter):
    """Writes access lines by the template `fmt`; other records as their level and message. Any
    thread.

    Raises ValueError for a template that is not valid.
    """

    has_fields = True

    def __init__(
        self,
        fmt: str,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(None, datefmt, style)
        self._pieces = parsed_format(fmt)
        self.is_measured = any(
            isinstance(piece, Field) and piece.name in KNOWN_AT_THE_END for piece in self._pieces
        )

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        access = getattr(record, "access", None)
        if not isinstance(access, Access):
            return f"{record.levelname}: {super().format(record)}"
        return "".join(self._texts(record, access))

    def _texts(self, record: logging.LogRecord, access: Access) -> Iterator[str]:
        for piece in self._pieces:
            if isinstance(piece, str):
                yield piece
                continue
            value = _value(piece.name, record, access)
            if value is None:
                width = piece.width
                yield _NOTHING.rjust(width) if width >= 0 else _NOTHING.ljust(-width)
            else:
                yield piece.form % (quoted(value) if isinstance(value, str) else value)


def _value(name: str, record: logging.LogRecord, access: Access) -> object:
    if name in FIELDS:
        value: object = getattr(access, name)
        return None if value == "" else value
    if name == "duration_ms":
        return None if access.duration_s is None else access.duration_s * 1000
    if name == "time":
        return rfc3339(record.created)
    if name == "level":
        return record.levelname
    if name == "pid":
        return record.process or os.getpid()
    target = f"{access.path}?{access.query}" if access.query else access.path
    version = "" if access.method == "WebSocket" else f" HTTP/{access.http_version}"
    return f"{access.method} {target}{version}"
