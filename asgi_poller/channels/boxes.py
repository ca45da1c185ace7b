"""The channels of one process: messages that nobody has received yet, and who waits for some.

For all event loops and threads of the process. A box is what has one name up to and including the
"!" (channel layer specification, "Capacity"): its capacity is shared by the channels in it. A box
without messages and without anybody who waits does not exist.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class _Message(NamedTuple):
    expires_at: float
    channel: str
    data: bytes


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who receives: from one channel, or, with a name that ends at the "!", from all of a
    box.
    """

    name: str
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Box:
    messages: deque[_Message] = field(default_factory=deque)
    waiters: list[_Waiter] = field(default_factory=list)


class Boxes:
    """`capacity_of` gives how many messages a channel holds; `expired` is told of each channel on
    which a message was not received in time, with `lock` held. Any thread.
    """

    def __init__(
        self,
        expiry_s: float,
        capacity_of: Callable[[str], int],
        expired: Callable[[str], None],
        *,
        lock: threading.RLock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expiry_s = expiry_s
        self._capacity_of = capacity_of
        self._expired = expired
        self._clock = clock
        self._lock = lock
        self._boxes: dict[str, _Box] = {}

    def __len__(self) -> int:
        """Boxes with messages, or with somebody who waits."""
        return len(self._boxes)

    def put(self, channel: str, data: bytes) -> bool:
        """False: the channel is full."""
        with self._lock:
            name = box_name(channel)
            box = self._boxes.get(name)
            if box is None:
                box = self._boxes[name] = _Box()
            else:
                self._expire(box)
            if len(box.messages) >= self._capacity_of(channel):
                self._drop_unused(name)
                return False
            box.messages.append(_Message(self._clock() + self._expiry_s, channel, data))
            self._wake(box, channel)
            return True

    async def receive(self, name: str) -> bytes:
        """The next message of a channel, or of a box. Only one receives it, who is cancelled
        takes none with it.
        """
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                box = self._boxes.setdefault(box_name(name), _Box())
                data = self._take(box, name)
                if data is not None:
                    return data
                waiter = _Waiter(name, loop, loop.create_future())
                box.waiters.append(waiter)
            try:
                await waiter.woken
            except BaseException:  # raised again; the message is for another one
                self._give_up(box, waiter)
                raise

    def sweep(self) -> None:
        """Forget messages that are too old."""
        with self._lock:
            for name, box in list(self._boxes.items()):
                self._expire(box)
                self._drop_unused(name)

    def clear(self) -> None:
        """Forget all messages. Who waits goes on waiting."""
        with self._lock:
            for name, box in list(self._boxes.items()):
                box.messages.clear()
                self._drop_unused(name)

    def _take(self, box: _Box, name: str) -> bytes | None:
        self._expire(box)
        for at, message in enumerate(box.messages):
            if _fits(name, message.channel):
                del box.messages[at]
                self._drop_unused(box_name(name))
                return message.data
        return None

    def _give_up(self, box: _Box, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in box.waiters:
                box.waiters.remove(waiter)
            else:  # it was woken for a message, which another one may want
                for message in box.messages:
                    self._wake(box, message.channel)
            self._drop_unused(box_name(waiter.name))

    def _wake(self, box: _Box, channel: str) -> None:
        for waiter in list(box.waiters):
            if _fits(waiter.name, channel):
                box.waiters.remove(waiter)
                if _set(waiter):
                    return

    def _expire(self, box: _Box) -> None:
        now = self._clock()
        while box.messages and box.messages[0].expires_at <= now:
            self._expired(box.messages.popleft().channel)

    def _drop_unused(self, name: str) -> None:
        box = self._boxes.get(name)
        if box is not None and not box.messages and not box.waiters:
            del self._boxes[name]


def box_name(channel: str) -> str:
    """The part of a channel's name that its capacity is of."""
    name, mark, _ = channel.partition("!")
    return name + mark


def _fits(name: str, channel: str) -> bool:
    return name == channel or (name.endswith("!") and channel.startswith(name))


def _set(waiter: _Waiter) -> bool:
    """Wake it; False: its loop has ended."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if waiter.loop is running:
        _wake_up(waiter.woken)
        return True
    try:
        waiter.loop.call_soon_threadsafe(_wake_up, waiter.woken)
    except RuntimeError:
        return False
    return True


def _wake_up(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
