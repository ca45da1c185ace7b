"""Numbers as people read them, in the same words as the dashboard's words.js."""

from __future__ import annotations

NONE = "-"
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def whole(number: int | None) -> str:
    """With a comma between thousands."""
    return NONE if number is None else f"{number:,}"


def rate(number: float | None) -> str:
    """So many in a second; small ones with one decimal."""
    if number is None:
        return NONE
    return f"{number:.1f}" if 0 < number < 9.95 else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """In milliseconds below a second."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def age(seconds: float) -> str:
    """Its two greatest units."""
    at = max(0, int(seconds))
    days, hours, minutes = at // 86_400, at // 3600 % 24, at // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {at % 60} s" if minutes else f"{at} s"


def size(count: float | None) -> str:
    """Of so many bytes, in units of 1000."""
    if count is None:
        return NONE
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.1f} {_UNITS[unit]}" if unit and count < 9.95 else f"{count:.0f} {_UNITS[unit]}"
