"""LaneReceiver: the worker's end of a ProcessLane."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from asgi_poller.handoff.connection_table import ConnectionTable
from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.fd_passing import RING, Delivery, DescriptorReader, returned
from asgi_poller.handoff.shared_counters import CLAIMED, CLOSED, FAILED, RETURNS, RING_WANTED, SEEN
from asgi_poller.handoff.thread_lane import drop
from asgi_poller.loops.accepted_socket import Accepted

#: Seconds until a message to the supervisor is tried again, if its socket was full.
_RETRY_S = 0.01


class ReceiverLoop(Protocol):
    """The part of an event loop that the receiver needs."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> Any:
        """Call `callback` whenever `fd` is readable."""

    def remove_reader(self, fd: int, /) -> Any:
        """Call it no more."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any:
        """Call `callback` after `delay` seconds."""


class ReceiverServer(Protocol):
    """What the receiver needs of a loop's server; see `thread_lane.LaneServer` for adopt()."""

    @property
    def loop(self) -> ReceiverLoop:
        """The server's event loop."""

    def adopt(self, accepted: Accepted, /) -> object:
        """Take a connection over."""

    def count_closed_in(self, cells: memoryview[int], index: int, /) -> object:
        """Count connections that it has finished with in `cells[index]` from now on."""


class LaneReceiver:
    """Hands what the supervisor sends to the worker's server. Owned by the loop's thread.

    `channel` is the worker's end of the lane's socket pair, `cells` the lane's row of Counters.
    Where there are limits, `table` has the tickets and `mark` is what this lane marks them with.
    """

    def __init__(
        self,
        channel: socket.socket,
        cells: memoryview[int],
        *,
        table: ConnectionTable | None = None,
        mark: int = 0,
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._cells = cells
        self._table = table
        self._mark = mark
        self._inbox = DescriptorReader(channel)
        self._exception_log = ExceptionLog()
        self._server: ReceiverServer | None = None
        self._unsent = b""

    def attach(self, server: ReceiverServer) -> None:
        """Adopt from now on."""
        self._server = server
        server.count_closed_in(self._cells, CLOSED)
        server.loop.add_reader(self._channel.fileno(), self._receive)

    def fileno(self) -> int:
        """The channel's descriptor; -1 once it is closed."""
        return self._channel.fileno()

    def adopt_waiting(self) -> None:
        """Adopt all that waits, now: before `detach`, where nobody else could take it."""
        self._receive()

    def detach(self) -> None:
        """Adopt nothing more and close the channel. Idempotent."""
        if self._server is not None:
            self._server.loop.remove_reader(self._channel.fileno())
            self._server = None
        self._channel.close()

    def _receive(self) -> None:
        """Adopt all that waits: after a busy spell the loop may not come back here for long."""
        server = self._server
        if server is None or self._unsent:
            return
        cells = self._cells
        while not self._unsent:
            try:
                delivery = self._inbox.receive()
            except BlockingIOError:
                break  # all received; or the supervisor took it back
            except ConnectionError:
                delivery = None
            if delivery is None:
                self.detach()
                return
            cells[SEEN] = delivery.number
            self._adopt(server, delivery)
        if cells[RING_WANTED]:
            cells[RING_WANTED] = 0
            self._tell(RING)

    def _adopt(self, server: ReceiverServer, delivery: Delivery) -> None:
        cells = self._cells
        sequence = delivery.first
        entries = delivery.entries
        table = self._table
        for fd, entry in zip(delivery.fds, entries, strict=False):
            sequence += 1
            accepted = Accepted(fd, *entry)
            ticket = accepted.ticket
            try:
                if ticket >= 0 and table is not None:
                    # before the claim: who finds this worker dead must find what it had
                    table.adopt(ticket, self._mark)
                # From here the connection is ours alone: the supervisor would hand it to another
                # worker if we died before this, and never does after it.
                cells[CLAIMED] = sequence
                server.adopt(accepted)
            except Exception:
                cells[CLAIMED] = sequence
                self._exception_log.exception("a connection could not be adopted and was closed")
                cells[FAILED] += 1
                drop(accepted, None if table is None else table.end)
        missing = len(entries) - len(delivery.fds)
        if missing > 0:
            # recvmsg(2), MSG_CTRUNC: this process has no descriptors left. The supervisor still
            # has these. It must know before a later claim makes them look claimed.
            self._return(server, returned(sequence, missing))

    def _return(self, server: ReceiverServer, message: bytes) -> None:
        if self._tell(message):
            self._cells[RETURNS] += 1
            return
        self._unsent = message
        server.loop.remove_reader(self._channel.fileno())
        server.loop.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        server = self._server
        if server is None:
            return
        if not self._tell(self._unsent):
            server.loop.call_later(_RETRY_S, self._retry)
            return
        self._unsent = b""
        self._cells[RETURNS] += 1
        server.loop.add_reader(self._channel.fileno(), self._receive)

    def _tell(self, message: bytes) -> bool:
        try:
            self._channel.send(message)
        except BlockingIOError:
            return False  # the supervisor has not read the earlier ones: those will wake it
        except OSError:
            return True  # it is gone: the next receive finds out
        return True
