"""From publications to what is written: once for each loop and kind of subscriber.

A kind is how a WebSocket's frames are made (plain, deflated, or by itself, where they depend on
what it was sent before) and whether it wants ids. With ids, a client can resume where it stopped:

    text and JSON   {"topic": "room:1", "id": "…", "text": "…"}   or "json": …
    bytes           the same without a value, a line feed, the bytes: in a binary message
    to begin with   {"topic": "room:1", "id": "…", "subscribed": true, "complete": true}
    after a loss    {"topic": "room:1", "lost": 3}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from asgi_poller.protocols.websocket.permessage_deflate import Deflate
from asgi_poller.protocols.websocket.protocol import (
    FRAMED_ALONE,
    FRAMED_DEFLATED,
    FRAMED_PLAIN,
    FrameCache,
    WebSocketWire,
)
from asgi_poller.topics.publication import JSON, Lost, Publication

#: A framing of ours: the messages themselves, for who sends them by other means than a socket.
MESSAGES: Final = 3
#: Added to a framing: with ids.
IDS: Final = 4
#: A reader in the application: it gets the publications themselves.
READER: Final = 8
KINDS: Final = 9
_OWN: Final = (FRAMED_ALONE, FRAMED_ALONE + IDS)


class Framer:
    """Makes the frames of one loop's publications. Owned by the loop's thread."""

    def __init__(self, max_bytes: int, deflate_threshold: int, cache: FrameCache) -> None:
        plain = WebSocketWire(max_bytes)
        deflated = WebSocketWire(max_bytes, Deflate(), deflate_threshold, cache)
        self._wires = {FRAMED_PLAIN: plain, FRAMED_DEFLATED: deflated}

    def frames(self, publications: Sequence[Publication], kind: int, target: Any) -> Any:
        """All of them joined, for one write; for READER they themselves, for MESSAGES a list of
        text and bytes. `target` frames what cannot be shared.
        """
        if kind == READER:
            return publications
        make = with_id if kind >= IDS else _data
        if kind % IDS == MESSAGES:
            return [make(each) for each in publications]
        return b"".join([self._frame(make(each), kind, target) for each in publications])

    def lost(self, topic: str, count: int | None, kind: int, *, target: Any) -> Any:
        """What who knows ids, or reads, is told about publications of `topic` that it never gets:
        `count`, or nobody knows how many.
        """
        if kind == READER:
            return (Lost(topic, count),)
        return self.control({"topic": topic, "lost": count}, kind, target)

    def control(self, fields: dict[str, Any], kind: int, target: Any) -> Any:
        """What a subscriber with ids is told beside publications."""
        if kind % IDS == MESSAGES:
            return [_dumped(fields)]
        return self._frame(_dumped(fields), kind, target)

    def _frame(self, data: str | bytes, kind: int, target: Any) -> bytes:
        if is_own(kind):
            framed: bytes = target.frame(data)
            return framed
        wire = self._wires[kind % IDS]
        return wire.text(data) if isinstance(data, str) else wire.binary(data)


def is_own(kind: int) -> bool:
    """Whether the frames of this kind are made for each subscriber by itself."""
    return kind in _OWN


def with_id(publication: Publication) -> str | bytes:
    """A publication as a client gets it that wants ids."""
    head: dict[str, Any] = {"topic": publication.topic, "id": publication.id}
    data = publication.data
    if isinstance(data, bytes):
        return _dumped(head).encode() + b"\n" + data
    if publication.form == JSON:
        return f'{_dumped(head)[:-1]},"json":{data}}}'
    return _dumped({**head, "text": data})


def _data(publication: Publication) -> str | bytes:
    return publication.data


def _dumped(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
