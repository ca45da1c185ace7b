"""From publications to what is written: once for each loop and kind of subscriber.

A kind is how a WebSocket's frames are made (plain, deflated, or by the WebSocket itself, where they
depend on what it was sent before) and whether it wants ids. With ids, a client can resume where it
stopped:

    text and JSON   {"topic": "room:1", "id": "…", "text": "…"}   or "json": …
    bytes           the same without a value, a line feed, the bytes: in a binary message
    to begin with   {"topic": "room:1", "id": "…", "subscribed": true, "complete": true}
    after a loss    {"topic": "room:1", "lost": 3}, or null where nobody knows how many
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
_UNFRAMED: Final = (FRAMED_ALONE, MESSAGES)


class Framer:
    """Makes the frames of one loop's publications. Owned by the loop's thread."""

    def __init__(self, max_bytes: int, deflate_threshold: int, cache: FrameCache) -> None:
        plain = WebSocketWire(max_bytes)
        deflated = WebSocketWire(max_bytes, Deflate(), deflate_threshold, cache)
        self._wires = {FRAMED_PLAIN: plain, FRAMED_DEFLATED: deflated}

    def framed(self, publication: Publication, kind: int) -> Any:
        """One publication, for all subscribers of a kind: its frame; the text or bytes, for those
        who frame by themselves and for MESSAGES; or itself, for a READER.
        """
        if kind == READER:
            return publication
        return self._frame(with_id(publication) if kind >= IDS else publication.data, kind)

    def told_lost(self, topic: str, count: int | None, kind: int) -> Any:
        """What who knows ids, or reads, is told about publications of `topic` that it never gets:
        `count`, or nobody knows how many; in the same form. None: it is not told.
        """
        if kind == READER:
            return Lost(topic, count)
        return self.control({"topic": topic, "lost": count}, kind) if has_ids(kind) else None

    def control(self, fields: dict[str, Any], kind: int) -> Any:
        """What a subscriber with ids is told beside publications, in the same form."""
        return self._frame(_dumped(fields), kind)

    def joined(self, frames: Sequence[Any], kind: int) -> Any:
        """For one call of a target's `deliver`: bytes for one write, or all of them."""
        if kind == READER or kind % IDS in _UNFRAMED:
            return frames
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _frame(self, data: str | bytes, kind: int) -> str | bytes:
        framing = kind % IDS
        if framing in _UNFRAMED:
            return data
        wire = self._wires[framing]
        return wire.text(data) if isinstance(data, str) else wire.binary(data)


def has_ids(kind: int) -> bool:
    """Whether clients of this kind see ids."""
    return IDS <= kind < READER


def with_id(publication: Publication) -> str | bytes:
    """A publication as a client gets it that wants ids."""
    head: dict[str, Any] = {"topic": publication.topic, "id": publication.id}
    data = publication.data
    if isinstance(data, bytes):
        return _dumped(head).encode() + b"\n" + data
    if publication.form == JSON:
        return f'{_dumped(head)[:-1]},"json":{data}}}'
    return _dumped({**head, "text": data})


def _dumped(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
