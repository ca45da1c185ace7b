"""The channel layer of Django Channels (channels docs: Channel Layer Specification).

Messages wait in the process that receives them. Where this server runs, a group is a topic, which
every process with members of the group has joined, and each process has a topic of its own for
what others send to its channels. Elsewhere the layer is of the process alone.

Names of channels say where they are: `specific.4f1c09aa52e7-12!`, the twelfth channel of a process.
Each of them has a name of its own up to the "!", and so a capacity of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from asgi_poller.channels.boxes import Boxes
from asgi_poller.channels.ear import Ear
from asgi_poller.topics import publish
from asgi_poller.topics.current import current, on_loop
from asgi_poller.topics.publication import Publication

_logger = logging.getLogger("asgi_poller.error")

#: Encoded. The specification wants room for 1 MB of JSON, which is more than the same here.
MESSAGE_BYTES: Final = 1024 * 1024
#: Members of a group that get a message before the loop's other work has a turn.
HELPING_COUNT: Final = 256

_OWNER = re.compile(r"\.([0-9a-f]{12})-[0-9]+!")
_SEND, _ADD, _DISCARD = "send", "add", "discard"  # what one process tells another


class TopicsLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no types
    """`expiry` and `group_expiry` are seconds, `capacity` messages of a channel, `channel_capacity`
    the same by patterns of names. `prefix` keeps the topics of several layers apart.

    Any thread, any event loop.
    """

    extensions = ["groups", "flush"]  # noqa: RUF012  # the specification wants a list
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        *,
        capacity: int = 100,
        channel_capacity: dict[Any, int] | None = None,
        prefix: str = "channels",
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self._prefix = prefix
        self._message_bytes = message_bytes
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._process = secrets.token_hex(6)
        self._lock = threading.RLock()
        self._boxes = Boxes(self.expiry, self.get_capacity, self._forget_channel, lock=self._lock)
        self._groups: dict[str, dict[str, float]] = {}  # group -> channel -> when it was added
        self._groups_of: dict[str, set[str]] = {}  # by channel
        self._number = 0
        self._swept_at = time.monotonic()
        self._ear: Ear | None = None
        self._fan_outs: deque[tuple[str, Iterator[str], bytes]] = deque()
        self._has_warned = False

    # Channels

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Raises ChannelFull where that can be known: for a channel of this process. One that is
        full in another process drops the message there, and says so in the log.
        """
        data = self._encoded(message)
        self.require_valid_channel_name(channel)
        await self._look_after()
        owner = self._other_owner(channel)
        if owner is not None:
            await self._tell(owner, _SEND, channel, data)
        elif not self._boxes.put(channel, data):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        """The next message of a channel of this process; with a name that ends at the "!", of any
        channel with that prefix.
        """
        self.require_valid_channel_name(channel)
        await self._look_after()
        message: dict[str, Any] = msgpack.unpackb(
            await self._boxes.receive(channel), strict_map_key=False
        )
        return message

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A channel of this process, which others can send to."""
        await self._look_after()
        with self._lock:
            self._number += 1
            name = f"{prefix.rstrip('.')}.{self._process}-{self._number}!"
        self.require_valid_channel_name(name)
        await self._hear(self._topic_of(self._process))
        return name

    # The groups extension

    async def group_add(self, group: str, channel: str) -> None:
        """Once more for the same channel renews it."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self._look_after()
        owner = self._other_owner(channel)
        if owner is not None:
            await self._tell(owner, _ADD, group, channel)
        else:
            await self._add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Does nothing if the channel is not in the group."""
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        await self._look_after()
        owner = self._other_owner(channel)
        if owner is not None:
            await self._tell(owner, _DISCARD, group, channel)
        else:
            await self._discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """To all members, of all processes. Channels that are full do not get it."""
        data = self._encoded(message)
        self.require_valid_group_name(group)
        await self._look_after()
        if current() is None:
            self._warn()
            self._fan_out(group, data)
            while self._serve_some():
                await asyncio.sleep(0)
        else:
            await publish(self._topic_of_group(group), bytes=data)

    # The flush extension

    async def flush(self) -> None:
        """Forget all messages and groups of this process."""
        with self._lock:
            groups = list(self._groups)
            self._groups.clear()
            self._groups_of.clear()
            self._fan_outs.clear()
        self._boxes.clear()
        for group in groups:
            await self._leave(group)

    # Inside

    def _encoded(self, message: dict[str, Any]) -> bytes:
        if not isinstance(message, dict):
            raise TypeError(f"a message is a dict, not {message!r:.60}")
        data: bytes = msgpack.packb(message)
        if len(data) > self._message_bytes:
            raise MessageTooLarge(f"a message has {len(data)} bytes, {self._message_bytes} may be")
        return data

    async def _look_after(self) -> None:
        """In the child of a fork begin again; now and then let go of what is too old."""
        if self._pid != os.getpid():
            self._begin()
        now = time.monotonic()
        if now - self._swept_at < min(self.expiry, self.group_expiry) / 4:
            return
        with self._lock:
            self._swept_at = now
            for group, members in self._groups.items():
                for channel, added_at in list(members.items()):
                    if now - added_at > self.group_expiry:
                        self._remove(group, channel)
            self._boxes.sweep()
            empty = [group for group, members in self._groups.items() if not members]
            for group in empty:
                del self._groups[group]
        for group in empty:
            await self._leave(group)

    def _other_owner(self, channel: str) -> str | None:
        """The process whose channel it is, if that is another one which may be reached."""
        found = _OWNER.search(channel)
        if found is None or found[1] == self._process or current() is None:
            return None
        return found[1]

    async def _tell(self, process: str, what: str, *arguments: str | bytes) -> None:
        await publish(self._topic_of(process), bytes=msgpack.packb([what, *arguments]))

    def _topic_of(self, process: str) -> str:
        return f"{self._prefix}:process:{process}"

    def _topic_of_group(self, group: str) -> str:
        return f"{self._prefix}:group:{group}"

    async def _hear(self, topic: str) -> None:
        topics = current()
        if topics is None:
            return
        with self._lock:
            ear = self._ear
            if ear is None or ear.topics.is_closed:
                ear = self._ear = Ear(topics, self._heard)
        await on_loop(ear.topics, ear.join(topic))

    async def _add(self, group: str, channel: str) -> None:
        with self._lock:
            self._groups.setdefault(group, {})[channel] = time.monotonic()
            self._groups_of.setdefault(channel, set()).add(group)
        try:
            await self._hear(self._topic_of_group(group))
        except BaseException:  # raised again; a group is joined or not
            await self._discard(group, channel)
            raise

    async def _discard(self, group: str, channel: str) -> None:
        with self._lock:
            self._remove(group, channel)
            if self._groups.get(group, True):
                return
            del self._groups[group]
        await self._leave(group)

    def _remove(self, group: str, channel: str) -> None:
        self._groups.get(group, {}).pop(channel, None)
        groups = self._groups_of.get(channel)
        if groups is not None:
            groups.discard(group)
            if not groups:
                del self._groups_of[channel]

    async def _leave(self, group: str) -> None:
        ear = self._ear
        if ear is not None and not ear.topics.is_closed:
            topic = self._topic_of_group(group)
            await on_loop(ear.topics, ear.leave(topic, lambda: group in self._groups))

    def _forget_channel(self, channel: str) -> None:
        """Nobody has received a message of it in time: it is in no group any more."""
        for group in list(self._groups_of.get(channel, ())):
            self._remove(group, channel)

    def _heard(self, publication: Publication) -> None:
        """Something from any process, this one too."""
        data = publication.data
        assert isinstance(data, bytes)
        ear = self._ear
        assert ear is not None
        group_topics = self._topic_of_group("")
        if publication.topic.startswith(group_topics):
            is_first = not self._fan_outs
            self._fan_out(publication.topic.removeprefix(group_topics), data)
            if is_first:
                self._serve(ear.soon)
            return
        what, *arguments = msgpack.unpackb(data)
        if what == _SEND:
            if not self._boxes.put(*arguments):
                _logger.warning("Channels: a message for %s is dropped: full.", arguments[0])
            return
        work = self._add(*arguments) if what == _ADD else self._discard(*arguments)
        task = ear.topics.loop.create_task(work)
        ear.tasks.add(task)
        task.add_done_callback(ear.tasks.discard)

    def _fan_out(self, group: str, data: bytes) -> None:
        with self._lock:
            members = list(self._groups.get(group, ()))
            if members:
                self._fan_outs.append((group, iter(members), data))

    def _serve(self, soon: Callable[[Callable[[], None]], None]) -> None:
        if self._serve_some():
            soon(lambda: self._serve(soon))

    def _serve_some(self) -> bool:
        """Put a message into the boxes of some members; whether there are more."""
        full = 0
        with self._lock:
            if not self._fan_outs:
                return False
            group, members, data = self._fan_outs[0]
            some = list(itertools.islice(members, HELPING_COUNT))
            if len(some) < HELPING_COUNT:
                self._fan_outs.popleft()
            for channel in some:
                full += not self._boxes.put(channel, data)
            is_left = bool(self._fan_outs)
        if full:
            _logger.info("Channels: %d of group %s are full and get no message.", full, group)
        return is_left

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.info(
                "Channels: asgi-poller does not run in this process, so groups are of it alone."
            )
