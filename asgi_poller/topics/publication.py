"""What is published: a message for everybody who has subscribed to a topic."""

from __future__ import annotations

import json as _json
from dataclasses import dataclass
from typing import Any, Final

#: What a publication was given as. A JSON one is text that clients parse.
TEXT: Final = "text"
BYTES: Final = "bytes"
JSON: Final = "json"
FORMS: Final = (TEXT, BYTES, JSON)

TOPIC_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Publication:
    """One message. `id` is its place among those of its topic: opaque, and what `since` takes.
    `data` is text for the forms `text` and `json`, and bytes for `bytes`.
    """

    topic: str
    id: str
    form: str
    data: str | bytes


@dataclass(frozen=True, slots=True)
class Missed:
    """What was published since a place in a topic.

    `publications` are in order, `position` is the place behind them. Not `is_complete`: more was
    published than is still kept, and `publications` is empty, since with a gap in it it would be
    of no use.
    """

    publications: tuple[Publication, ...]
    position: str
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Lost:
    """For who reads: `count` publications of a topic will not come; None: nobody knows how many."""

    topic: str
    count: int | None


def checked_topic(topic: object) -> str:
    """A topic's name: text of 1 to 255 bytes in UTF-8, without control characters. Raises
    ValueError.
    """
    if not isinstance(topic, str):
        raise ValueError(f"a topic is text, not {topic!r:.60}")
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise ValueError(f"a topic is text that UTF-8 can hold, not {topic!r:.60}") from None
    if not 0 < size <= TOPIC_BYTES:
        raise ValueError(f"a topic has 1 to {TOPIC_BYTES} bytes, not {size}")
    if any(ord(each) < 32 or ord(each) == 127 for each in topic):
        raise ValueError(f"a topic has no control characters: {topic!r:.60}")
    return topic


def content(
    text: object, data: object, json: object, *, nothing: object
) -> tuple[str, str | bytes]:
    """Form and data of what is to be published; one of the three is not `nothing`. Raises
    ValueError or TypeError: here, and not where it is framed for everybody.
    """
    given = [each for each in (text, data, json) if each is not nothing]
    if len(given) != 1:
        raise ValueError("publish takes one of text, bytes and json")
    if text is not nothing:
        if not isinstance(text, str):
            raise TypeError(f"text to publish is str, not {type(text).__name__}")
        return TEXT, _encodable(text)
    if data is not nothing:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"bytes to publish are bytes, not {type(data).__name__}")
        return BYTES, bytes(data)
    return JSON, _encodable(_compact(json))


def _compact(value: Any) -> str:
    # allow_nan: NaN and Infinity are no JSON (RFC 8259, 6), and no browser parses them
    return _json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("what is published is text that UTF-8 can hold") from None
    return text
