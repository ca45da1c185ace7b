"""Options: topics, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass

from asgi_poller.settings.kinds import Kind, integer, seconds, shown
from asgi_poller.settings.option import option

_COUNT = integer(0)
_AGE = seconds()
_HINT = "must be COUNT,AGE or TOPIC=COUNT,AGE, such as 1000,60s or 'room:*=100,10m'"


def history_rule(text: str) -> tuple[str, int, float]:
    """One rule: pattern of topics ("" for all), publications, seconds. Raises ValueError."""
    pattern, equals, amounts = text.rpartition("=")
    count, comma, age = amounts.partition(",")
    if not comma or (equals and not pattern):
        raise ValueError(f"{_HINT}, not {shown(text)}")
    try:
        return pattern, _COUNT.parse(count.strip()), _AGE.parse(age.strip())
    except ValueError:
        raise ValueError(f"{_HINT}, not {shown(text)}") from None


def _history() -> Kind:
    """Rules, kept as they are written; the one for all topics is the last that is given."""

    def check(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.split(";")
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{_HINT}, not {shown(value)}")
        return tuple(_rule(each) for each in value if each != "")

    return Kind("[TOPIC=]COUNT,AGE", check, check, repeatable=True)


def _rule(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_HINT}, not {shown(value)}")
    history_rule(value)
    return value.strip()


@dataclass(frozen=True, kw_only=True, init=False)
class Topics:
    """Messages to all subscribers of a topic (`asgi_poller.topics`)."""

    __slots__ = ()

    topics_history: tuple[str, ...] = option(
        (),
        _history(),
        "Messages of each topic, and for how long, that are kept for clients that come back.",
        note="1000,60s: the last 1000, none older than a minute. TOPIC=… is for topics with such a"
        " name (* stands for anything), and the first that fits counts. Nothing is kept unless this"
        " is given; at most 64 MiB are, of all topics together.",
    )
