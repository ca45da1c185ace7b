"""Options: topics, and what is kept of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asgi_poller.settings.kinds import NONE_WORDS, Kind, integer, optional, seconds, shown, text
from asgi_poller.settings.option import option
from asgi_poller.settings.service_url import shown_service, split_service

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

    def parse(text: str) -> tuple[str, ...]:
        return () if text.strip().lower() in NONE_WORDS else check(text)

    return Kind("[TOPIC=]COUNT,AGE", parse, check, repeatable=True)


def _rule(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_HINT}, not {shown(value)}")
    history_rule(value)
    return value.strip()


def _service() -> Kind:
    plain = text("URL", secret=True)

    def check(value: object) -> str:
        url: str = plain.check(value)
        split_service(url)
        return url.strip()

    return Kind("URL", check, check, secret=True, masked=shown_service)


_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _prefix() -> Kind:
    def check(value: object) -> str:
        if not isinstance(value, str) or _PREFIX.fullmatch(value) is None:
            raise ValueError(
                f"must be 1 to 64 letters, digits, hyphens and underscores, not {shown(value)}"
            )
        return value

    return Kind("WORD", check, check)


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
    topics: str | None = option(
        None,
        optional(_service()),
        "Redis or NATS, which joins the topics of several machines.",
        note="redis://HOST:6379, rediss:// with TLS, unix:///PATH, redis+cluster:// and"
        " rediss+cluster:// for a Redis Cluster, nats://HOST:4222, tls:// for NATS with TLS. Needs"
        " redis-py or nats-py: pip install 'asgi-poller[redis]' or 'asgi-poller[nats]'."
        " With a password in it, it is better given as an environment variable, which is taken out"
        " of the environment once read; neither logs nor errors show the password.",
    )
    topics_prefix: str = option(
        "topics",
        _prefix(),
        "What the names of all keys and channels in the service of --topics begin with.",
        note="Servers that share a service and its topics have the same; those that share only the"
        " service have others.",
    )
    topics_buffer: int = option(
        0,
        integer(0),
        "Publications that wait, in order, while the service of --topics cannot be reached.",
        note="Beyond that, and with 0 at once, publish raises TopicsUnavailable during an outage.",
    )
