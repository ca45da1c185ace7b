"""Publishes what a loop counts, a few times a second, and measures how late its timers come.

Nothing is counted twice when a message passes: each WebSocket counts its own messages, and they are
added up here. With so many WebSockets that this would hold the loop, a part of them is visited at a
time: then messages are published some tenths of a second later.
"""

from __future__ import annotations

import asyncio
import time

from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.logs import dropped_lines
from asgi_poller.loops.server_state import ServerState
from asgi_poller.loops.websocket_connection import WebSocketConnection
from asgi_poller.metrics.loop_counts import PUBLISH_S, RAN_AT, LoopCounts

# WebSockets that are visited in one turn of the loop, which takes 0.1 ms, and seconds until the
# next turn: 1 % of the loop's time, however many there are.
_VISITS = 500
_BETWEEN_S = 0.01


class LoopMeter:
    """Owned by the loop's thread. `row` is where it publishes; `is_first`: of its process, for
    which it publishes what has no loop.
    """

    def __init__(self, server: ServerState, row: memoryview[int], *, is_first: bool) -> None:
        self._is_first = is_first
        self._server = server
        self._row = row
        self._counts = counts = server.counts
        counts.is_timed = True
        self._timer: asyncio.TimerHandle | None = None
        self._visit_timer: asyncio.TimerHandle | None = None
        self._to_visit: list[WebSocketSession] = []
        self._sum = Traffic(counts)
        self._due = 0.0

    def start(self) -> None:
        """Publish now, and from now on."""
        self._publish()
        self._schedule()

    def finish(self) -> None:
        """Publish what is known at the end, and nothing more."""
        for timer in (self._timer, self._visit_timer):
            if timer is not None:
                timer.cancel()
        self._begin_visits()
        self._visit(len(self._to_visit))
        self._publish()
        self._row[RAN_AT] = 0

    def _schedule(self) -> None:
        now = time.monotonic()
        self._row[RAN_AT] = int(now * 1_000_000)
        self._due = now + PUBLISH_S
        self._timer = self._server.loop.call_later(PUBLISH_S, self._tick)

    def _tick(self) -> None:
        self._counts.lag.observe(time.monotonic() - self._due)
        if not self._to_visit:
            self._begin_visits()
            self._go_on()
        else:  # there are so many that they are visited all the time
            self._publish()
        self._schedule()

    # The visits

    def _begin_visits(self) -> None:
        """From now on the sum is made of those that have ended by now, and of these: one that ends
        meanwhile is among them still.
        """
        self._sum = Traffic(self._counts)
        self._to_visit = [
            connection.session
            for connection in self._server.connections
            if isinstance(connection, WebSocketConnection) and connection.session is not None
        ]

    def _go_on(self) -> None:
        self._visit(_VISITS)
        if self._to_visit:
            self._visit_timer = self._server.loop.call_later(_BETWEEN_S, self._go_on)
        else:
            self._publish()

    def _visit(self, count: int) -> None:
        sessions, total = self._to_visit, self._sum
        for _ in range(min(count, len(sessions))):
            total.add(sessions.pop())
        if not sessions:
            total.show(self._counts)

    def _publish(self) -> None:
        server, counts = self._server, self._counts
        counts.connections_open = len(server.connections) - server.stream_count
        counts.requests_running = len(server.conversations)
        counts.websockets_open = counts.websockets_opened - sum(counts.closes)
        if self._is_first:
            counts.log_lines_dropped = dropped_lines()
        counts.publish(self._row)


class Traffic:
    """The messages and bytes of some WebSockets: at first of those that have ended."""

    __slots__ = ("bytes_received", "bytes_sent", "messages_received", "messages_sent")

    def __init__(self, counts: LoopCounts) -> None:
        self.messages_received = counts.ended_messages_received
        self.messages_sent = counts.ended_messages_sent
        self.bytes_received = counts.ended_bytes_received
        self.bytes_sent = counts.ended_bytes_sent

    def add(self, session: WebSocketSession) -> None:
        """Count what has passed on this one, too."""
        received = session.received
        self.messages_received += received.received_count
        self.bytes_received += received.received_bytes
        self.messages_sent += session.sent_count
        self.bytes_sent += session.sent_bytes

    def show(self, counts: LoopCounts) -> None:
        """This is what the loop has counted."""
        counts.messages_received = self.messages_received
        counts.messages_sent = self.messages_sent
        counts.bytes_received = self.bytes_received
        counts.bytes_sent = self.bytes_sent
