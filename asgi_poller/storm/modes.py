"""What a run does with its open channels: close them at once, hold them, put them to echoing or to
fanning out.
"""

from __future__ import annotations

import socket
import time
from collections import Counter, deque

from asgi_poller.storm import frames
from asgi_poller.storm.channels import CLOSE_FRAME, Channel
from asgi_poller.storm.client import Engine
from asgi_poller.storm.plan import Plan
from asgi_poller.storm.stats import PRECISION_BITS, Histogram


class OpenMode:
    """`open`: each channel is closed as soon as it is open. Base of the modes that keep theirs. The
    engine's thread.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.channels: list[Channel] = []
        self.round_trips = Histogram()
        self.rounds = 0

    def opened(self, sock: socket.SocketType, rest: bytes, *, deflated: bool) -> None:
        """Take over the socket of an attempt that succeeded; `rest` came with the answer."""
        if self.engine.plan.close == "drop":
            self.engine.close(sock)
        else:
            self.engine.close_after_answer(sock, CLOSE_FRAME)

    def run(self) -> None:
        """All attempts of all client processes have their outcome: do what the mode is for."""

    def end(self) -> None:
        """Close what is open."""
        for channel in self.channels:
            channel.end()

    def per_channel(self) -> Counter[str]:
        """How many channels received how many messages."""
        return Counter(str(channel.messages) for channel in self.channels)

    def keep(self, channel: Channel, rest: bytes) -> None:
        """Let `channel` handle its socket's events from now on."""
        self.engine.handlers[channel.sock.fileno()] = channel.ready
        self.channels.append(channel)
        if rest:
            count = channel.parse(rest)
            channel.messages += count
            self.engine.tally.messages += count


class HoldMode(OpenMode):
    """`hold`: channels stay open and count what they are sent; with `touch` each sends one message
    first.
    """

    def opened(self, sock: socket.SocketType, rest: bytes, *, deflated: bool) -> None:
        """Keep it."""
        self.keep(Channel(self.engine, sock), rest)

    def run(self) -> None:
        """With `touch`, one message from every channel."""
        plan = self.engine.plan
        if not plan.touch:
            return
        frame = message_frame(plan, deflated=False)
        for channel in self.channels:
            if channel.sock.fileno() >= 0:
                channel.write(frame)


class EchoMode(OpenMode):
    """`echo`: every channel keeps `in_flight` messages under way."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._batches: dict[bool, list[memoryview]] = {}

    def opened(self, sock: socket.SocketType, rest: bytes, *, deflated: bool) -> None:
        """Keep it, idle until `run`."""
        batches = self._batches.get(deflated)
        if batches is None:
            plan = self.engine.plan
            frame = message_frame(plan, deflated=deflated)
            many = memoryview(frame * plan.in_flight)
            batches = [many[: len(frame) * count] for count in range(plan.in_flight + 1)]
            self._batches[deflated] = batches
        self.keep(EchoChannel(self, sock, batches), rest)

    def run(self) -> None:
        """Start every channel."""
        for channel in self.channels:
            assert isinstance(channel, EchoChannel)
            channel.start()


class EchoChannel(Channel):
    """A channel that has each message timed and replaced by a new one when it comes back."""

    __slots__ = ("_batches", "_mode", "_owed", "_under_way")

    def __init__(self, mode: EchoMode, sock: socket.SocketType, batches: list[memoryview]) -> None:
        super().__init__(mode.engine, sock)
        self._reader.kept = bytearray()
        self._mode = mode
        self._batches = batches
        self._under_way: deque[tuple[int, int]] = deque()  # (sent at, how many), oldest first
        self._owed = 0

    def start(self) -> None:
        """Send the first message alone, to be checked; the others follow when it has come back."""
        if self.sock.fileno() >= 0:
            self._put(1, time.monotonic_ns())

    def verify(self, payload: bytes) -> bool:
        """An echo is what was sent."""
        self._owed = self.engine.plan.in_flight - 1
        return payload == self.engine.plan.payload

    def received(self, count: int) -> None:
        """Time the messages that came back, and send as many."""
        now_ns = time.monotonic_ns()
        counts, under_way = self._mode.round_trips.counts, self._under_way
        left = count
        while left:
            if not under_way:
                self.lose("protocol", "more messages received than sent")
                return
            sent_ns, sent = under_way[0]
            taken_ns = now_ns - sent_ns
            shift = taken_ns.bit_length() - PRECISION_BITS  # stats.bucket_of, inline
            bucket = (
                (shift << (PRECISION_BITS - 1)) + (taken_ns >> shift) if shift > 0 else taken_ns
            )
            if sent <= left:
                under_way.popleft()
                counts[bucket] += sent
                left -= sent
            else:
                under_way[0] = (sent_ns, sent - left)
                counts[bucket] += left
                left = 0
        if self._unsent is None and not self._owed:
            under_way.append((now_ns, count))
            self.write(self._batches[count])
        else:
            self._owed += count
            self.flushed()

    def flushed(self) -> None:
        """Send what became due while the socket took nothing."""
        if self._unsent is None and self._owed:
            owed, self._owed = self._owed, 0
            self._put(owed, time.monotonic_ns())

    def _put(self, count: int, now_ns: int) -> None:
        self._under_way.append((now_ns, count))
        self.write(self._batches[count])


class FanOutMode(OpenMode):
    """`fan-out`: the first channel sends a message that the server sends to all; the next goes out
    when all have it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._frame = b""
        self._awaited = 0
        self._sent_ns = 0

    def opened(self, sock: socket.SocketType, rest: bytes, *, deflated: bool) -> None:
        """Keep it, idle until `run`."""
        if not self.channels:
            self._frame = message_frame(self.engine.plan, deflated=deflated)
        self.keep(FanOutChannel(self, sock), rest)

    def run(self) -> None:
        """Begin a round."""
        alive = [channel for channel in self.channels if channel.sock.fileno() >= 0]
        self._awaited = len(alive)
        self._sent_ns = time.monotonic_ns()
        if alive:
            alive[0].write(self._frame)

    def arrived(self, count: int) -> None:
        """`count` copies have come to some channel."""
        self.round_trips.record(time.monotonic_ns() - self._sent_ns, count)
        self.left(count)

    def left(self, count: int = 1) -> None:
        """`count` channels fewer are awaited in this round."""
        self._awaited -= count
        if self._awaited == 0:
            self.rounds += 1
            self.run()


class FanOutChannel(Channel):
    """A channel that tells its mode of what it gets."""

    __slots__ = ("_mode",)

    def __init__(self, mode: FanOutMode, sock: socket.SocketType) -> None:
        super().__init__(mode.engine, sock)
        self._reader.kept = bytearray()
        self._mode = mode

    def verify(self, payload: bytes) -> bool:
        """The message that goes to all is the one that the first channel sent."""
        return payload == self.engine.plan.payload

    def received(self, count: int) -> None:
        """A copy has come."""
        self._mode.arrived(count)

    def lose(self, cause: str, detail: str = "") -> None:
        """A round does not wait for a channel that has ended."""
        awaited = self.sock.fileno() >= 0 and self.messages == self._mode.rounds
        super().lose(cause, detail)
        if awaited:
            self._mode.left()


MODES: dict[str, type[OpenMode]] = {
    "open": OpenMode,
    "hold": HoldMode,
    "echo": EchoMode,
    "fan-out": FanOutMode,
}


def message_frame(plan: Plan, *, deflated: bool) -> bytes:
    """The plan's message as a frame to send, compressed where the channel agreed to it."""
    opcode = frames.OP_TEXT if plan.text else frames.OP_BINARY
    payload = frames.compress(plan.payload) if deflated else plan.payload
    return frames.masked_frame(opcode, payload, compressed=deflated)
