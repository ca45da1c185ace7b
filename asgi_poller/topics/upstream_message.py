"""What channels and streams of Redis hold.

On a channel comes, after a letter that says what it is, a line, and behind it the body:

    h EPOCH MS NUMBER   a publication with its place in the stream (redis_scripts.py)
    p MACHINE NUMBER    one of a topic without a history
    ? WORD              how many subscribers have you? The answer goes to a list with that word

A body is a letter for the form, and the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asgi_poller.topics.publication import BYTES, JSON, TEXT, Publication

HISTORY: Final = b"h"
PLAIN: Final = b"p"
QUESTION: Final = b"?"

_LETTERS: Final = {TEXT: b"t", BYTES: b"b", JSON: b"j"}
_FORMS: Final = {letter: form for form, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Of a publication among those of its topic: its `number` there, without gaps, its time, and
    which of the streams that this topic ever had.
    """

    epoch: str
    ms: int
    number: int

    @property
    def id(self) -> str:
        return f"{self.epoch}-{self.ms}-{self.number}"

    @classmethod
    def parsed(cls, id: str) -> Place | None:
        """From an id that a client gives; None: it is none."""
        epoch, *numbers = id.split("-")
        if len(numbers) != 2 or not (id.isascii() and len(id) < 60 and len(epoch) == 8):
            return None
        if not all(each.isdecimal() and len(each) <= 15 for each in numbers):
            return None
        return cls(epoch, int(numbers[0]), int(numbers[1]))

    @classmethod
    def from_words(cls, words: bytes) -> Place:
        """As the scripts write it."""
        epoch, ms, number = words.split(b" ")
        return cls(epoch.decode(), int(ms), int(number))

    @classmethod
    def from_stream(cls, epoch: str, entry_id: bytes) -> Place:
        """As the stream has it."""
        ms, number = entry_id.split(b"-")
        return cls(epoch, int(ms), int(number))


@dataclass(frozen=True, slots=True)
class Live:
    """What came on a channel. `machine` is the word of a question, too."""

    kind: bytes
    body: bytes
    machine: bytes = b""
    number: int = 0
    place: Place | None = None


def parsed_live(payload: bytes) -> Live | None:
    """None: it is not of this program."""
    head, _, body = payload.partition(b"\n")
    kind, words = head[:1], head[1:].split(b" ")
    try:
        if kind == HISTORY:
            return Live(kind, body, place=Place.from_words(head[1:]))
        if kind == PLAIN:
            return Live(kind, body, words[0], int(words[1]))
        if kind == QUESTION and words[0].isalnum():
            return Live(kind, body, words[0])
    except (ValueError, IndexError):
        pass
    return None


def body_of(form: str, data: bytes) -> bytes:
    """For a channel and a stream."""
    return _LETTERS[form] + data


def publication_of(topic: str, id: str, body: bytes) -> Publication | None:
    """None: it is not of this program."""
    form = _FORMS.get(body[:1])
    data = body[1:]
    if form is None:
        return None
    if form != BYTES and not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return None
    return Publication(topic, id, form, data)
