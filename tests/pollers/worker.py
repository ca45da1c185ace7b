"""A worker process for the tests: `python -m tests.pollers.worker NAME CHANNEL COUNTERS ROW
[LIMIT]`.

It greets every connection that it adopts with its name, so that clients can count: a connection
without a greeting was lost, one with two was adopted twice.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from asgi_poller.handoff.lane_receiver import LaneReceiver
from asgi_poller.handoff.shared_counters import Counters
from asgi_poller.loops.accepted_socket import Accepted


class GreetingCore:
    """Adopts by greeting; a connection is closed when the client closes it."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._greeting = f"{name}\n".encode()
        self._connections: set[socket.socket] = set()
        self._cells: memoryview[int] | None = None
        self._index = 0

    def count_closed_in(self, cells: memoryview[int], index: int) -> None:
        self._cells, self._index = cells, index

    def adopt(self, accepted: Accepted) -> None:
        connection = socket.socket(fileno=accepted.fd)
        connection.send(self._greeting + accepted.data)
        self._connections.add(connection)
        self.loop.add_reader(connection.fileno(), self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            if connection.recv(4096):
                return
        except OSError:
            pass  # reset by the client: the same as an end
        self.loop.remove_reader(connection.fileno())
        connection.close()
        self._connections.discard(connection)
        assert self._cells is not None
        self._cells[self._index] += 1


async def main(name: str, channel: int, counters: int, row: int, limit: int | None) -> None:
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    receiver = LaneReceiver(socket.socket(fileno=channel), Counters.attach(counters).row(row))
    receiver.attach(GreetingCore(name))
    print("ready", flush=True)
    while receiver.fileno() >= 0:  # it closes when the supervisor has gone
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    channel, counters, row = map(int, words[:3])
    limit = int(words[3]) if len(words) > 3 else None
    asyncio.run(main(name, channel, counters, row, limit))
