"""What a request for a file gets of it: conditions and ranges (RFC 9110, 13 and 14).

Several ranges in one request are answered with the whole, as 14.2 permits: their answer can be made
larger than the file, and nearly no client asks for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

_CONDITIONS = frozenset(
    {
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"range",
    }
)
_TAGS = re.compile(rb'(?:W/)?"[^"\x00-\x20\x7f]*"')  # RFC 9110, 8.8.3
_RANGE = re.compile(rb"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_BEYOND = 2**63  # more than any file has
_DIGITS = 18  # that are sure to be less

_MONTHS = {
    name: number
    for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}
_CLOCK = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
# RFC 9110, 5.6.7: the form of today, and the two that a recipient must still understand
_DATES = (
    re.compile(
        rb"[A-Z][a-z]{2}, (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) %b GMT" % _CLOCK
    ),
    re.compile(
        rb"[A-Z][a-z]+, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d\d) %b GMT" % _CLOCK
    ),
    re.compile(
        rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) %b (?P<year>\d{4})" % _CLOCK
    ),
)


class Validators(NamedTuple):
    """What tells one state of a file from another: `etag` as in its field, with W/ if it is weak;
    `modified_s` in seconds since 1970, None without Last-Modified. `is_strong`: whether both are
    (RFC 9110, 8.8.1 and 8.8.2.2).
    """

    etag: bytes
    modified_s: int | None
    is_strong: bool


class Selected(NamedTuple):
    """The status of the answer; for 200 and 206 it has `length` bytes, from `first` on."""

    status: int
    first: int
    length: int


def select(
    method: str,
    headers: Iterable[tuple[bytes, bytes]],
    validators: Validators,
    size_bytes: int,
) -> Selected:
    """What a GET or HEAD gets of a file that is there: status 200, 206, 304, 412 or 416. The order
    is that of RFC 9110, 13.2.2. Fields that are not valid are ignored.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _CONDITIONS:
            fields[name] = fields[name] + b", " + value if name in fields else value
    whole = Selected(200, 0, size_bytes)
    if not fields:
        return whole
    if not _may_go_on(fields, validators):
        return Selected(412, 0, 0)
    if not _has_changed(fields, validators):
        return Selected(304, 0, 0)
    if method != "GET" or b"range" not in fields:  # RFC 9110, 14.2: of GET alone
        return whole
    if b"if-range" in fields and not _is_same(fields[b"if-range"], validators):
        return whole
    return _part(fields[b"range"], size_bytes) or whole


def _may_go_on(fields: dict[bytes, bytes], validators: Validators) -> bool:
    """If-Match, and without it If-Unmodified-Since."""
    tags = fields.get(b"if-match")
    if tags is not None:
        return tags.strip() == b"*" or (
            validators.is_strong and validators.etag in _TAGS.findall(tags)
        )
    limit_s = http_date(fields.get(b"if-unmodified-since", b""))
    return limit_s is None or validators.modified_s is None or validators.modified_s <= limit_s


def _has_changed(fields: dict[bytes, bytes], validators: Validators) -> bool:
    """If-None-Match, and without it If-Modified-Since."""
    tags = fields.get(b"if-none-match")
    if tags is not None:
        ours = validators.etag.removeprefix(b"W/")
        return tags.strip() != b"*" and all(
            tag.removeprefix(b"W/") != ours for tag in _TAGS.findall(tags)
        )
    since_s = http_date(fields.get(b"if-modified-since", b""))
    return since_s is None or validators.modified_s is None or validators.modified_s > since_s


def _is_same(value: bytes, validators: Validators) -> bool:
    """If-Range: whether the client's part is of the same file (RFC 9110, 13.1.5)."""
    if not validators.is_strong:
        return False
    value = value.strip()
    return value == validators.etag or (
        validators.modified_s is not None and http_date(value) == validators.modified_s
    )


def _part(value: bytes, size_bytes: int) -> Selected | None:
    """One range of bytes; None for what is none, and for several."""
    found = _RANGE.fullmatch(value.strip())
    if found is None:
        return None
    start, end = found[1], found[2]
    if not start:
        if not end:
            return None
        count = min(_number(end), size_bytes)  # the last so many
        return Selected(206, size_bytes - count, count) if count else Selected(416, 0, 0)
    first = _number(start)
    last = _number(end) if end else _BEYOND
    if last < first:
        return None
    if first >= size_bytes:
        return Selected(416, 0, 0)
    return Selected(206, first, min(last + 1, size_bytes) - first)


def _number(digits: bytes) -> int:
    """Any number of digits costs nothing."""
    digits = digits.lstrip(b"0")
    return _BEYOND if len(digits) > _DIGITS else int(digits or b"0")


def http_date(value: bytes) -> int | None:
    """A date in seconds since 1970; None for what is no date (RFC 9110, 5.6.7)."""
    value = value.strip()
    for pattern in _DATES:
        found = pattern.fullmatch(value)
        if found is not None:
            return _seconds(found)
    return None


def _seconds(found: re.Match[bytes]) -> int | None:
    year = int(found["year"])
    if len(found["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    try:
        date = datetime(
            year,
            _MONTHS[found["month"]],
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            min(int(found["second"]), 59),  # a leap second
            tzinfo=UTC,
        )
    except (ValueError, KeyError):
        return None
    return int(date.timestamp())
