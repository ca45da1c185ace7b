"""The bytes between an event loop and the hub that joins the loops of several processes.

Sans I/O. Both ends are the same program on the same machine, and the first message from the hub
says its version, because a worker that was started later may be of a newer one. Each message is

    length   4 bytes, of what follows
    kind     1 byte
    fields   numbers of fixed size, then texts in UTF-8 whose size comes before them, then data

with numbers in little-endian order. A request has a number, which its answer repeats. What was
missed comes as publications between MISSED and JOINED: they look as those that come live do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from asgi_poller.topics.publication import BYTES, FORMS, Publication
from asgi_poller.topics.wire_messages import (
    Ask,
    Count,
    Counted,
    Counts,
    Gap,
    Join,
    Joined,
    Leave,
    MissedBegin,
    Publish,
    Refused,
    Taken,
    Welcome,
    WireFault,
)

#: Of what is said here: raised whenever a message changes.
VERSION: Final = 1
#: Most that one publication may hold.
PUBLICATION_BYTES: Final = 64 * 1024 * 1024
#: Most that an id may have, in UTF-8.
ID_BYTES: Final = 255
_MESSAGE_BYTES: Final = PUBLICATION_BYTES + 1024
_NO_SINCE: Final = 0xFFFF

_LENGTH: Final = struct.Struct("<I")
_FORM_NUMBERS: Final = {form: number for number, form in enumerate(FORMS)}

# Kinds to the hub
_JOIN, _LEAVE, _PUBLISH, _COUNT, _COUNTED = range(1, 6)
# Kinds from the hub
_WELCOME, _PUBLICATION, _TAKEN, _REFUSED, _MISSED, _JOINED, _GAP, _ASK, _COUNTS = range(16, 25)


class _Layout:
    """How one kind is written: its head and fixed numbers at once, and read: without the head."""

    def __init__(self, kind: int, fields: str = "") -> None:
        self.kind = kind
        self._whole = struct.Struct(f"<IB{fields}")
        fixed = struct.Struct(f"<{fields}")
        self.size = fixed.size
        self.unpack: Callable[[bytes], tuple[int, ...]] = fixed.unpack_from

    def pack(self, *fields: int, more: int = 0) -> bytes:
        """`more` bytes come behind."""
        return self._whole.pack(1 + self.size + more, self.kind, *fields)


_join = _Layout(_JOIN, "IHB")
_leave = _Layout(_LEAVE)
_publish = _Layout(_PUBLISH, "IBB")
_count = _Layout(_COUNT, "I")
_counted = _Layout(_COUNTED, "II")
_welcome = _Layout(_WELCOME, "B")
_publication = _Layout(_PUBLICATION, "BBB")
_taken = _Layout(_TAKEN, "I")
_refused = _Layout(_REFUSED, "I")
_missed = _Layout(_MISSED, "I")
_joined = _Layout(_JOINED, "IB")
_gap = _Layout(_GAP, "B")
_ask = _Layout(_ASK, "I")
_counts = _Layout(_COUNTS, "III")


# Writing


def join(request: int, topic: str, since: str | None) -> bytes:
    """See Join. A `since` that can be no id is sent as "", which no hub has given."""
    name, place = topic.encode(), _place(since)
    size = _NO_SINCE if since is None else len(place)
    return _join.pack(request, size, len(name), more=len(name) + len(place)) + name + place


def leave(topic: str) -> bytes:
    """See Leave."""
    name = topic.encode()
    return _leave.pack(more=len(name)) + name


def publish(request: int, topic: str, form: str, data: bytes) -> bytes:
    """See Publish. Raises ValueError for more than PUBLICATION_BYTES."""
    if len(data) > PUBLICATION_BYTES:
        raise ValueError(f"a publication has at most {PUBLICATION_BYTES} bytes, not {len(data)}")
    name = topic.encode()
    number = _FORM_NUMBERS[form]
    return _publish.pack(request, number, len(name), more=len(name) + len(data)) + name + data


def count(request: int, topic: str) -> bytes:
    """See Count."""
    name = topic.encode()
    return _count.pack(request, more=len(name)) + name


def counted(request: int, number: int) -> bytes:
    """See Counted."""
    return _counted.pack(request, number)


def welcome(version: int = VERSION) -> bytes:
    """See Welcome."""
    return _welcome.pack(version)


def publication(given: Publication) -> bytes:
    """A publication as it comes to a loop; its data may be the UTF-8 of its text."""
    data = given.data.encode() if isinstance(given.data, str) else given.data
    name, place = given.topic.encode(), given.id.encode()
    number = _FORM_NUMBERS[given.form]
    more = len(name) + len(place) + len(data)
    head = _publication.pack(number, len(name), len(place), more=more)
    return b"".join((head, name, place, data))


def taken(request: int, position: str) -> bytes:
    """See Taken."""
    place = position.encode()
    return _taken.pack(request, more=len(place)) + place


def refused(request: int, problem: str) -> bytes:
    """See Refused."""
    text = problem.encode(errors="replace")[:1000]
    return _refused.pack(request, more=len(text)) + text


def missed(request: int) -> bytes:
    """See MissedBegin."""
    return _missed.pack(request)


def joined(request: int, is_complete: bool, position: str) -> bytes:
    """See Joined."""
    place = position.encode()
    return _joined.pack(request, is_complete, more=len(place)) + place


def gap(topic: str, position: str) -> bytes:
    """See Gap."""
    name, place = topic.encode(), position.encode()
    return _gap.pack(len(name), more=len(name) + len(place)) + name + place


def ask(request: int, topic: str) -> bytes:
    """See Ask."""
    name = topic.encode()
    return _ask.pack(request, more=len(name)) + name


def counts(request: int, here: int, everywhere: int) -> bytes:
    """See Counts."""
    return _counts.pack(request, here, everywhere)


def _place(since: str | None) -> bytes:
    if since is None:
        return b""
    try:
        place = since.encode()
    except UnicodeEncodeError:
        return b""  # lone surrogates, from a client's JSON
    return place if len(place) <= ID_BYTES else b""


# Reading: each gets what is behind the kind


def _read_join(body: bytes) -> Join:
    request, since_size, size = _join.unpack(body)
    name, place = _cut(body, _join.size, size)
    if since_size == _NO_SINCE:
        since_size, since = 0, None
    else:
        since = place.decode()
    if len(place) != since_size:
        raise ValueError("its length is wrong")
    return Join(request, _name(name), since)


def _read_leave(body: bytes) -> Leave:
    return Leave(_name(body))


def _read_publish(body: bytes) -> Publish:
    request, form, size = _publish.unpack(body)
    name, data = _cut(body, _publish.size, size)
    return Publish(request, _name(name), FORMS[form], data)


def _read_count(body: bytes) -> Count:
    return Count(_count.unpack(body)[0], _name(body[_count.size :]))


def _read_counted(body: bytes) -> Counted:
    _nothing_behind(body, _counted.size)
    return Counted(*_counted.unpack(body))


def _read_welcome(body: bytes) -> Welcome:
    return Welcome(_welcome.unpack(body)[0])  # a newer one may say more


def _read_publication(body: bytes) -> Publication:
    number, size, id_size = _publication.unpack(body)
    name, behind = _cut(body, _publication.size, size)
    place, data = _cut(behind, 0, id_size)
    form = FORMS[number]
    content = data if form == BYTES else data.decode()
    return Publication(_name(name), place.decode(), form, content)


def _read_taken(body: bytes) -> Taken:
    return Taken(_taken.unpack(body)[0], body[_taken.size :].decode())


def _read_refused(body: bytes) -> Refused:
    return Refused(_refused.unpack(body)[0], body[_refused.size :].decode(errors="replace"))


def _read_missed(body: bytes) -> MissedBegin:
    _nothing_behind(body, _missed.size)
    return MissedBegin(*_missed.unpack(body))


def _read_joined(body: bytes) -> Joined:
    request, is_complete = _joined.unpack(body)
    return Joined(request, bool(is_complete), body[_joined.size :].decode())


def _read_gap(body: bytes) -> Gap:
    name, place = _cut(body, _gap.size, _gap.unpack(body)[0])
    return Gap(_name(name), place.decode())


def _read_ask(body: bytes) -> Ask:
    return Ask(_ask.unpack(body)[0], _name(body[_ask.size :]))


def _read_counts(body: bytes) -> Counts:
    _nothing_behind(body, _counts.size)
    return Counts(*_counts.unpack(body))


def _cut(body: bytes, start: int, size: int) -> tuple[bytes, bytes]:
    end = start + size
    if end > len(body):
        raise ValueError("a text is longer than its message")
    return body[start:end], body[end:]


def _name(name: bytes) -> str:
    if not name or len(name) > 255:
        raise ValueError("a topic has 1 to 255 bytes")
    return name.decode()


def _nothing_behind(body: bytes, size: int) -> None:
    if len(body) != size:
        raise ValueError("its length is wrong")


Readers = Mapping[int, Callable[[bytes], Any]]

#: What a hub is told.
TO_HUB: Final[Readers] = {
    _JOIN: _read_join,
    _LEAVE: _read_leave,
    _PUBLISH: _read_publish,
    _COUNT: _read_count,
    _COUNTED: _read_counted,
}
#: What a loop is told.
FROM_HUB: Final[Readers] = {
    _WELCOME: _read_welcome,
    _PUBLICATION: _read_publication,
    _TAKEN: _read_taken,
    _REFUSED: _read_refused,
    _MISSED: _read_missed,
    _JOINED: _read_joined,
    _GAP: _read_gap,
    _ASK: _read_ask,
    _COUNTS: _read_counts,
}


class Decoder:
    """From bytes, however they are cut, to messages. It holds one message at most that is not
    complete.
    """

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._data = b""
        self._at = 0
        self._more: list[bytes] = []  # behind `_data`
        self._more_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what has come; `next` gives what it says."""
        if not self._more and self._at == len(self._data):
            self._data, self._at = data, 0
            return
        self._more.append(data)
        self._more_bytes += len(data)

    def next(self) -> Any | None:
        """The next Message, None if it is not complete. Raises WireFault."""
        data, at = self._data, self._at
        if len(data) - at < 4:
            if not self._gather(4):
                return None
            data, at = self._data, self._at
        length = _LENGTH.unpack_from(data, at)[0]
        if not 0 < length <= _MESSAGE_BYTES:
            raise WireFault(f"a message of {length} bytes")
        end = at + 4 + length
        if end > len(data):
            if not self._gather(4 + length):
                return None
            data, at = self._data, self._at
            end = at + 4 + length
        self._at = end
        try:
            return self._readers[data[at + 4]](data[at + 5 : end])
        except KeyError:
            raise WireFault(f"a message of the kind {data[at + 4]}") from None
        except (ValueError, IndexError, struct.error) as error:
            raise WireFault(f"a message of the kind {data[at + 4]}: {error}") from None

    def _gather(self, size: int) -> bool:
        """Join what has come, if it has `size` bytes: once for a message, however many pieces."""
        left = len(self._data) - self._at
        if left + self._more_bytes < size:
            return False
        self._data = b"".join((self._data[self._at :], *self._more))
        self._at = 0
        self._more.clear()
        self._more_bytes = 0
        return True
