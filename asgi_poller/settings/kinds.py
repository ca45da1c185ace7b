"""The sorts of value that an option can have: how each is written in text, and what is accepted
from Python or TOML.

Every function here raises ValueError with a message that reads on after the option's name ("must be
..."): the caller knows the option, and where the value came from, and makes a ConfigError of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

KIB = 1024
BYTES_PER_UNIT = {"": 1, "k": KIB, "m": KIB**2, "g": KIB**3, "t": KIB**4}
SECONDS_PER_UNIT = {
    "": 1.0,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
TRUE_WORDS = frozenset({"1", "true", "yes", "on", "y", "t"})
FALSE_WORDS = frozenset({"0", "false", "no", "off", "n", "f"})
NONE_WORDS = frozenset({"none", ""})

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(us|ms|s|min|m|h|d)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value. `parse` reads text (command line, environment), `check` takes a Python or
    TOML value and returns it in its one normal form; `check(check(v)) == check(v)`. Both raise
    ValueError. Immutable, any thread.

    `repeatable` kinds hold tuples: the command line collects the option's occurrences and gives
    them to `check`. `nullable` says that None is a value of its own ("off"); elsewhere None means
    "not given". A `secret` is never shown, but for what `masked` says of it.
    """

    metavar: str
    parse: Callable[[str], Any]
    check: Callable[[object], Any]
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    flag: bool = False
    nullable: bool = False
    secret: bool = False
    masked: Callable[[Any], str] | None = None


def shown(value: object) -> str:
    """`value` for an error message: short, quoted, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _within(value: float, minimum: float, maximum: float, what: str) -> None:
    if minimum <= value <= maximum:
        return
    if maximum == math.inf:
        raise ValueError(f"must be {what}, at least {_digits(minimum)}, not {_digits(value)}")
    raise ValueError(
        f"must be {what} from {_digits(minimum)} to {_digits(maximum)}, not {_digits(value)}"
    )


def _digits(value: float) -> str:
    """All of a whole number's."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def integer(minimum: int, maximum: float = math.inf, *, metavar: str = "N") -> Kind:
    """A whole number within bounds, or text that is one: os.environ["PORT"]."""

    def check(value: object) -> int:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {shown(value)}")
        _within(value, minimum, maximum, "a whole number")
        return int(value)  # an IntEnum of the standard library becomes a plain number

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number, not {shown(text)}") from None
        return check(number)

    return Kind(metavar, parse, check)


def number(minimum: float) -> Kind:
    """A number, whole or not, from `minimum` on, or text that is one."""

    def check(value: object) -> float:
        if isinstance(value, str):
            return parse(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise ValueError(f"must be a number, not {shown(value)}")
        _within(value, minimum, math.inf, "a number")
        return value

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"must be a number, not {shown(text)}") from None
        return check(number)

    return Kind("NUMBER", parse, check)


def seconds(minimum: float = 0.0) -> Kind:
    """A duration in seconds: a number, or text with a unit (50ms, 5s, 2m, 1h, 1d)."""
    hint = "must be seconds, or a duration such as 50ms, 5s, 2m or 1h"

    def parse(text: str) -> float:
        found = _SECONDS.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{hint}, not {shown(text)}")
        unit = (found[2] or "").lower()
        return check(float(found[1]) * SECONDS_PER_UNIT[unit])

    def check(value: object) -> float:
        if isinstance(value, str):
            return parse(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise ValueError(f"{hint}, not {shown(value)}")
        _within(value, minimum, math.inf, "seconds")
        return float(value)

    return Kind("SECONDS", parse, check)


def size(minimum: int = 0, maximum: float = math.inf) -> Kind:
    """A size in bytes: a whole number, or text with a unit of 1024s (64k, 16MiB, 1g)."""
    hint = "must be bytes, or a size such as 64k, 16MiB or 1g"

    def parse(text: str) -> int:
        found = _SIZE.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{hint}, not {shown(text)}")
        whole, _, part = found[1].partition(".")
        # in integers: a float would round what is large
        amount, rest = divmod(int(whole + part) * BYTES_PER_UNIT[found[2].lower()], 10 ** len(part))
        if rest:
            raise ValueError(f"must be a whole number of bytes, not {shown(text)}")
        return check(amount)

    def check(value: object) -> int:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{hint}, not {shown(value)}")
        _within(value, minimum, maximum, "bytes")
        return value

    return Kind("SIZE", parse, check)


def flag() -> Kind:
    """On or off."""

    def parse(text: str) -> bool:
        word = text.strip().lower()
        if word in TRUE_WORDS:
            return True
        if word in FALSE_WORDS:
            return False
        raise ValueError(f"must be true or false, not {shown(text)}")

    def check(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {shown(value)}")
        return value

    return Kind("BOOLEAN", parse, check, flag=True)


def choice(*words: str, also: tuple[str, ...] = ()) -> Kind:
    """One of a few words, in any case. Words in `also` are accepted but not advertised; Config
    translates them.
    """

    def check(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words and word not in also:
            raise ValueError(f"must be one of {', '.join(words)}, not {shown(value)}")
        return str(word)

    return Kind("[" + "|".join(words) + "]", check, check, choices=words)


def integer_or(word: str, minimum: int) -> Kind:
    """A whole number (text that is one, too), or one word that stands for a number found out
    later.
    """

    def check(value: object) -> int | str:
        if isinstance(value, str) and value.strip().lower() == word:
            return word
        number = value
        if isinstance(value, str):
            with contextlib.suppress(ValueError):  # the refusal shows the text
                number = int(value)
        if isinstance(number, bool) or not isinstance(number, int) or number < minimum:
            raise ValueError(
                f"must be a whole number, at least {minimum}, or {word!r}, not {shown(value)}"
            )
        return number

    return Kind(f"N|{word}", check, check)


def text(metavar: str = "TEXT", *, secret: bool = False) -> Kind:
    """Any text without control characters. A path object is accepted and becomes text."""

    def check(value: object) -> str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise ValueError(f"must be text, not {'that' if secret else shown(value)}")
        if any(character < " " for character in value):
            raise ValueError("must not contain control characters")
        return value

    return Kind(metavar, check, check, secret=secret)


def texts(
    metavar: str = "TEXT", *, one: Callable[[object], str] | None = None, commas: bool = False
) -> Kind:
    """Several texts, kept as a tuple without repeats. In text they are separated by commas.

    `commas` splits each given item as well: for values that never hold a comma themselves. `one`
    checks an item.
    """
    check_item = text().check if one is None else one

    def check(value: object) -> tuple[str, ...]:
        given: Iterable[object]
        if isinstance(value, (str, os.PathLike)):
            given = (value,)
        elif isinstance(value, (list, tuple, set, frozenset)):
            given = value
        else:
            raise ValueError(f"must be text or a list of texts, not {shown(value)}")
        if commas:
            given = [part for item in given for part in _split(item)]
        return tuple(dict.fromkeys(check_item(item) for item in given))

    def parse(text: str) -> tuple[str, ...]:
        return check(_split(text))

    return Kind(metavar, parse, check, repeatable=True)


def _split(value: object) -> list[object]:
    """The parts of a text between commas; anything else is one part, for the check to refuse."""
    if not isinstance(value, str):
        return [value]
    return [part.strip() for part in value.split(",") if part.strip()]


def optional(kind: Kind, *, zero_is_none: bool = False) -> Kind:
    """`kind`, or None ("none" in text). With `zero_is_none`, 0 is another way to say none."""

    def check(value: object) -> Any:
        if value is None:
            return None
        result = kind.check(value)
        return None if zero_is_none and result == 0 else result

    def parse(text: str) -> Any:
        return None if text.strip().lower() in NONE_WORDS else check(kind.parse(text))

    return replace(kind, parse=parse, check=check, nullable=True)
