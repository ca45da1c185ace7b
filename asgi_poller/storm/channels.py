"""One open channel: reads what comes, answers pings, counts messages. What it does beyond that is
its subclass's.

The counting is by octets: once a channel's first message has been checked in full, it is known how
every later one looks on the wire. A read that is a whole number of them is compared and divided,
not parsed; any other read (a message in part, a ping between two) is parsed.
"""

from __future__ import annotations

import select
import socket
import zlib

from asgi_poller.storm import frames
from asgi_poller.storm.client import Engine
from asgi_poller.storm.sockets import CAUSE_OF_ERRNO, WOULD_BLOCK

CLOSE_FRAME = frames.close_frame()
# A wire length that no read is a multiple of: every read is parsed until the true one is known.
UNKNOWN_OCTETS = 1 << 62


class Channel:
    """One open channel. It holds its socket and handles its descriptor's events until it is lost or
    the run ends.
    """

    __slots__ = (
        "_expected",
        "_expected_octets",
        "_reader",
        "_recv_into",
        "_send",
        "_unsent",
        "_wire_octets",
        "engine",
        "messages",
        "sock",
    )

    def __init__(self, engine: Engine, sock: socket.SocketType) -> None:
        self.engine = engine
        self.sock = sock
        self.messages = 0
        self._send = sock.send
        self._recv_into = sock.recv_into
        self._reader = frames.FrameReader()
        self._unsent: memoryview | None = None
        self._expected = b""
        self._expected_octets = UNKNOWN_OCTETS
        self._wire_octets = UNKNOWN_OCTETS

    # -- for subclasses ----------------------------------------------------------------------------

    def received(self, count: int) -> None:
        """`count` messages have come."""

    def flushed(self) -> None:
        """What could not be sent at once has been sent."""

    def verify(self, payload: bytes) -> bool:
        """Whether the channel's first message is the right one; asked where the subclass made
        `_reader.kept`.
        """
        return True

    # -- events ------------------------------------------------------------------------------------

    def ready(self, event: int) -> None:
        """Readable, writable again, or ended."""
        if event & select.EPOLLOUT and self._unsent is not None:
            self._write_on(self._unsent)
        engine = self.engine
        try:
            size = self._recv_into(engine.view)
        except WOULD_BLOCK:
            return
        except OSError as error:
            self.lose(CAUSE_OF_ERRNO.get(error.errno or 0, "local"))
            return
        octets = self._wire_octets
        if not size % octets and size and self._expected.startswith(engine.view[:size]):
            count = size // octets
        elif size:
            count = self.parse(bytes(engine.view[:size]))
        else:
            self.lose("closed")
            return
        if count:
            self.messages += count
            engine.tally.messages += count
            self.received(count)

    def parse(self, data: bytes) -> int:
        """Read frames properly and answer control frames. Returns how many messages ended in
        `data`.
        """
        reader = self._reader
        try:
            count = reader.feed(data)
        except frames.FrameBroken as broken:
            self.lose("protocol", str(broken))
            return 0
        if count and reader.kept is not None and not self._learn(bytes(reader.kept)):
            self.lose("protocol", "the message received is not the one sent")
            return 0
        if reader.controls:
            self._answer_controls()
        # A read that ends inside a message leaves the next one to be parsed as well.
        self._wire_octets = self._expected_octets if reader.between_frames else UNKNOWN_OCTETS
        return count

    def _learn(self, payload: bytes) -> bool:
        """Check the first message, and keep how it looks on the wire: unfragmented, or all are
        parsed for ever.
        """
        reader = self._reader
        reader.kept = None
        plain = payload
        if reader.compressed:
            try:
                plain = frames.decompress(payload, limit_octets=len(payload) << 10)
            except zlib.error:
                return False
        head = frames.header(reader.opcode, len(payload), compressed=reader.compressed)
        message = head + payload
        self._expected_octets = len(message)
        self._expected = self.engine.stream_of(message)
        return self.verify(plain)

    def _answer_controls(self) -> None:
        controls, self._reader.controls = self._reader.controls, []
        for opcode, payload in controls:
            if opcode == frames.OP_PING:
                self.write(frames.masked_frame(frames.OP_PONG, payload))
            elif opcode == frames.OP_CLOSE:
                # RFC 6455, 7.1.5: no status received
                code = int.from_bytes(payload[:2], "big") or 1005
                self.write(frames.masked_frame(frames.OP_CLOSE, payload[:2]))
                self.lose(f"close {code}")

    # -- sending -----------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send all of `data`, now or when the kernel takes it, after what waits already."""
        if self._unsent is not None:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        try:
            sent = self._send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError as error:
            self.lose(CAUSE_OF_ERRNO.get(error.errno or 0, "local"))
            return
        if sent != len(data):
            self._unsent = memoryview(data)[sent:]
            self.engine.epoll.modify(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _write_on(self, unsent: memoryview) -> None:
        try:
            sent = self._send(unsent)
        except WOULD_BLOCK:
            return
        except OSError:
            return  # the read that follows says how the connection ended
        if sent != len(unsent):
            self._unsent = unsent[sent:]
            return
        self._unsent = None
        self.engine.epoll.modify(self.sock.fileno(), select.EPOLLIN)
        self.flushed()

    def lose(self, cause: str, detail: str = "") -> None:
        """The channel ended, and not by us. Later calls change nothing."""
        if self.sock.fileno() >= 0:
            self.engine.tally.lost[cause] += 1
            if detail:
                self.engine.tally.details[f"{cause}: {detail}"] += 1
            self.engine.close(self.sock)

    def end(self) -> None:
        """Close it, as the plan says."""
        if self.sock.fileno() < 0:
            return
        if self.engine.plan.close == "drop" or self._unsent is not None:
            self.engine.close(self.sock)
        else:
            self.engine.close_after_answer(self.sock, CLOSE_FRAME)
