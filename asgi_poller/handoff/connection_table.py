"""Who is in: a ticket for every admitted connection, and how its end becomes known.

A limit must be counted where connections are let in, by the pollers; but connections end on loops,
which may be other threads or other processes. No lock and no counter can be shared there: Python
has no atomic increment across processes, and a lock would die with a killed worker. So:

- the pollers' process numbers the connections that it lets in. The number is the *ticket*; it
  travels with the socket. What it stands for (address, channel or not) never leaves this process.
- the *table* is shared memory with one octet per ticket. A loop writes one octet when a connection
  has ended, and that is all: a single store needs no lock and no order.
- the pollers look over the table when they need to know: when a limit is met, and now and then.
  Looking is a memchr(3) over as many octets as connections are open, a microsecond for 20,000.

The octet goes through these values, each written by one side only:

    0         not in use, or let in and nobody's yet       written by the pollers' process
    2...255   claimed by the worker of that number         written by the worker, once
    1         ended                                        written once, by what closed it

A worker that was killed ended none of its connections: the pollers' process forgets all tickets
that bear its number. It marks a ticket *before* it claims the connection (`process_lane`), so that
no connection can be lost without its number; what it marked and never claimed is taken back first.

A connection of HTTP/2 may be many WebSockets, which only its worker knows of. So behind the octets
there are two cells for each worker, written by it alone: how many WebSockets it has that are
streams, and how many others.
"""

from __future__ import annotations

from collections.abc import Iterator

from asgi_poller.handoff.shared_memory import CELL_BYTES, SharedMemory

TICKET_NONE = -1  # of a connection that no limit counts
ENDED = 1
FIRST_WORKER, LAST_WORKER = 2, 255

_WORKERS = LAST_WORKER + 1
_CELLS_BYTES = 2 * _WORKERS * CELL_BYTES

# Unit: tickets, which is octets of address space, used as they are needed. Exceeded: connections
# are refused as over the limit. More than a system has descriptors for.
CAPACITY_COUNT = 1 << 20


class ConnectionTable:
    """One octet of shared memory for each ticket. `end` and `adopt` are for any thread and process.

    A table is inherited by fork. For workers that are started afresh make it with `inheritable`,
    pass `fd` on, and `attach` there.
    """

    __slots__ = ("_bytes", "_cells", "_shared", "capacity")

    def __init__(self, capacity: int = CAPACITY_COUNT, *, inheritable: bool = False) -> None:
        cells_at = -(-capacity // CELL_BYTES) * CELL_BYTES  # rounded up
        name = "asgi-poller-tickets" if inheritable else None
        self._use(SharedMemory(cells_at + _CELLS_BYTES, named=name))
        self.capacity = capacity  # how many tickets there are

    def _use(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._bytes = shared.memory
        self.capacity = len(self._bytes) - _CELLS_BYTES
        self._cells = shared.cells[self.capacity // CELL_BYTES :]

    @classmethod
    def attach(cls, fd: int) -> ConnectionTable:
        """The table of another process, by the descriptor that was inherited from it."""
        table = cls.__new__(cls)
        table._use(SharedMemory.attach(fd))
        return table

    @property
    def fd(self) -> int:
        """The descriptor for `attach`; -1 where it is inherited by fork only."""
        return self._shared.fd

    def adopt(self, ticket: int, worker: int) -> None:
        """`worker` (2 to 255) has this connection from now on. Before it claims it.

        Needed where workers are processes: else nobody knows what a killed one had.
        """
        self._bytes[ticket] = worker

    def take_back(self, ticket: int) -> None:
        """The worker that may have marked this connection died without claiming it.

        For each connection that goes to another lane, before `take_worker`, which would take it for
        one of the dead worker's own.
        """
        self._bytes[ticket] = 0

    def end(self, ticket: int) -> None:
        """The connection has ended. Exactly once for each ticket, and nothing after it."""
        self._bytes[ticket] = ENDED

    # WebSockets of workers

    def count_websockets(self, worker: int, *, streams: int, others: int) -> None:
        """`worker` has so many now. For that worker, under a lock of its own."""
        self._cells[worker] = streams
        self._cells[_WORKERS + worker] = others

    @property
    def stream_count(self) -> int:
        """WebSockets that are streams, of all workers."""
        return sum(self._cells[:_WORKERS])

    @property
    def websocket_count(self) -> int:
        """WebSockets of all workers; those on their way to one are not among them."""
        return sum(self._cells)

    def take_ended(self, used: int) -> Iterator[int]:
        """The tickets below `used` that have ended, each once. For the pollers' process."""
        return self._take(ENDED, used)

    def take_worker(self, worker: int, used: int) -> Iterator[int]:
        """The tickets that `worker`, which is dead, had and did not end. As above."""
        return self._take(worker, used)

    def _take(self, value: int, used: int) -> Iterator[int]:
        octets, wanted = self._bytes, bytes([value])
        place = octets.find(wanted, 0, used)
        while place >= 0:
            octets[place] = 0
            yield place
            place = octets.find(wanted, place + 1, used)

    def close(self) -> None:
        """Give the memory back. No thread of this process may use the table any more."""
        self._cells.release()
        self._shared.close()


class Tickets:
    """The book behind the table: what each ticket stands for, and how many there are of a kind.

    Owned by the pollers' process; the caller's lock protects it. `key` is whatever connections are
    counted by, None for those that are counted in all only.
    """

    __slots__ = (
        "_by_key",
        "_channels",
        "_free",
        "_keys",
        "_taken",
        "_used",
        "open_count",
        "table",
        "websocket_count",
    )

    def __init__(self, table: ConnectionTable) -> None:
        self.table = table
        self.open_count = 0
        self.websocket_count = 0
        self._keys: list[str | bytes | None] = []  # by ticket
        self._channels = bytearray()  # by ticket: 1 for a WebSocket
        self._by_key: dict[str | bytes, int] = {}
        self._free: list[int] = []
        self._used = 0  # tickets below this number have been out
        self._taken = 0  # tickets that went out since the table was looked over

    def count(self, key: str | bytes) -> int:
        """Open connections of `key`, as far as the table has been looked over."""
        return self._by_key.get(key, 0)

    def take(self, key: str | bytes | None) -> int:
        """A ticket for a new connection; TICKET_NONE if all are out."""
        if not self._free and (self._taken > self._used >> 4 or self._used == self.table.capacity):
            # The table is to grow: see first whether it must. Not each time, or filling it with
            # n connections would cost n² octets of looking.
            self.collect()
        self._taken += 1
        if self._free:
            ticket = self._free.pop()
            self._keys[ticket] = key
        elif self._used < self.table.capacity:
            ticket = self._used
            self._used += 1
            self._keys.append(key)
            self._channels.append(0)
        else:
            return TICKET_NONE
        self.open_count += 1
        self._count(key, 1)
        return ticket

    def key(self, ticket: int) -> str | bytes | None:
        """What the connection is counted by."""
        return self._keys[ticket]

    def set_key(self, ticket: int, key: str | bytes | None) -> None:
        """The connection is counted by another key from now on."""
        self._count(self._keys[ticket], -1)
        self._keys[ticket] = key
        self._count(key, 1)

    def is_websocket(self, ticket: int) -> bool:
        """Whether `set_websocket` has been called for it."""
        return bool(self._channels[ticket])

    def set_websocket(self, ticket: int) -> None:
        """The connection is a WebSocket from now on. Once for each ticket."""
        self.websocket_count += 1
        self._channels[ticket] = 1

    def collect(self) -> None:
        """Look the table over, and forget the connections that have ended."""
        self._taken = 0
        for ticket in self.table.take_ended(self._used):
            self._forget(ticket)

    def forget_worker(self, worker: int) -> int:
        """Forget the connections of a dead worker; returns how many there were."""
        self.collect()
        before = self.open_count
        for ticket in self.table.take_worker(worker, self._used):
            self._forget(ticket)
        return before - self.open_count

    def _forget(self, ticket: int) -> None:
        self.open_count -= 1
        self.websocket_count -= self._channels[ticket]
        self._channels[ticket] = 0
        self._count(self._keys[ticket], -1)
        self._keys[ticket] = None
        self._free.append(ticket)

    def _count(self, key: str | bytes | None, change: int) -> None:
        if key is None:
            return
        count = self._by_key.get(key, 0) + change
        if count:
            self._by_key[key] = count
        else:
            del self._by_key[key]
