"""What tests of the poller pool share: loops that record what they adopt, and clients."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asgi_poller.handoff.thread_lane import close_connection
from asgi_poller.listeners.listeners import Listener
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.pollers.pool import PollerPool
from tests.support.waiting import DEADLINE_S


class PromptLane:
    """The part of a lane whose core answers at once: nothing waits in it, and it is never late."""

    waiting = 0

    def silent_s(self) -> float:
        return 0.0

    def pace_s(self) -> float:
        return 0.0

    def is_late(self) -> bool:
        return False

    def take_back(self) -> list[Accepted]:
        return []

    def probe(self) -> None:
        pass


class Shelf(PromptLane):
    """A lane that keeps what it is given."""

    def __init__(self) -> None:
        self.assigned = 0
        self.taken: list[Accepted] = []
        self._changed = threading.Condition()

    def load(self) -> int:
        return len(self.taken)

    def available(self) -> bool:
        return True

    def put(self, batch: list[Accepted]) -> int:
        with self._changed:
            self.taken += batch
            self._changed.notify_all()
        return len(batch)

    def wait_for(self, count: int) -> list[Accepted]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.taken) >= count, DEADLINE_S)
            return list(self.taken)

    def close(self) -> None:
        for accepted in self.taken:
            close_connection(accepted.fd)


class LoopCore:
    """A core that keeps what it adopts: a real event loop in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.new_event_loop()
        self.closed = 0
        self.adopted: list[Accepted] = []
        self.threads: set[int] = set()
        self.refuse: Callable[[Accepted], bool] = lambda accepted: False
        self._thread = threading.Thread(target=self._run, name="test-core", daemon=True)
        self._thread.start()

    def adopt(self, accepted: Accepted) -> None:
        self.threads.add(threading.get_ident())
        if self.refuse(accepted):
            raise ValueError("not this one")
        self.adopted.append(accepted)

    def close_all(self) -> None:
        """Finish with every connection; on the core's thread, as a real core does it."""
        self.run(self._close_all)

    def run(self, callback: Callable[[], object]) -> None:
        """Call on the core's thread and wait for the end."""
        done = threading.Event()

        def call() -> None:
            callback()
            done.set()

        self.loop.call_soon_threadsafe(call)
        assert done.wait(DEADLINE_S)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """The loop does nothing meanwhile: an application that never awaits."""
        entered, release = threading.Event(), threading.Event()

        def block() -> None:
            entered.set()
            assert release.wait(DEADLINE_S)

        self.loop.call_soon_threadsafe(block)
        assert entered.wait(DEADLINE_S)
        try:
            yield
        finally:
            release.set()

    def stop(self) -> None:
        """End the loop and close what is left."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(DEADLINE_S)
            assert not self._thread.is_alive()
        self._close_all()

    def _close_all(self) -> None:
        adopted, self.adopted = self.adopted, []
        for accepted in adopted:
            os.close(accepted.fd)
            self.closed += 1

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


@contextmanager
def cores(count: int) -> Iterator[list[LoopCore]]:
    """`count` cores, ended afterwards."""
    made = [LoopCore() for _ in range(count)]
    try:
        yield made
    finally:
        for core in made:
            core.stop()


def make_listener(*, backlog: int = 1024, tls: bool = False) -> Listener:
    """A listener on a free port of 127.0.0.1."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(backlog)
    bound.setblocking(False)
    info = ListenerInfo(int(bound.family), tls, bound.getsockname())
    return Listener(bound, info, "http://test", "--bind")


@contextmanager
def running_pool(poller_pool: PollerPool, *listeners: Listener) -> Iterator[PollerPool]:
    """The poller pool runs meanwhile; listeners are closed afterwards."""
    poller_pool.start()
    try:
        yield poller_pool
    finally:
        assert poller_pool.stop(DEADLINE_S)
        for listener in listeners:
            listener.close()


def connect(listener: Listener) -> socket.socket:
    """A client, connected (not necessarily accepted)."""
    return socket.create_connection(listener.socket.getsockname(), timeout=DEADLINE_S)


@contextmanager
def clients(listener: Listener, count: int) -> Iterator[list[socket.socket]]:
    """`count` clients that connect at once."""
    made = []
    try:
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(listener.socket.getsockname())
                selector.register(client, selectors.EVENT_WRITE)
                made.append(client)
            deadline = time.monotonic() + DEADLINE_S
            while selector.get_map():
                assert time.monotonic() < deadline, "clients cannot connect"
                for key, _ in selector.select(1.0):
                    selector.unregister(key.fileobj)
        for client in made:
            client.settimeout(DEADLINE_S)
        yield made
    finally:
        for client in made:
            client.close()
