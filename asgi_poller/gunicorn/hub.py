"""The hub of topics under gunicorn: whichever worker finds that none runs starts it.

gunicorn's arbiter has no loop and no time for children that are not workers, so the hub is started
by a worker, and belongs to nobody: it stays when that worker ends, and ends when the arbiter and
all workers have. A lock that the hub holds as long as it lives says that there is one; another says
that a worker is about to start it.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Iterable

from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.ipc.bootstrap import HubSpec, packed, send_bootstrap
from asgi_poller.ipc.life_lock import LifeLock, lock_file
from asgi_poller.supervisor.backoff import Backoff
from asgi_poller.supervisor.spawn import HUB, Process, SpawnLauncher, described_exit
from asgi_poller.topics.mail_slot import Mailbox, MailSlot
from asgi_poller.worker.hub_process import LIFE

_log = logging.getLogger("asgi_poller.error")
_START = LIFE + 1


class HubPlace:
    """What the processes of a server have in common for their hub. Made in the arbiter, and
    inherited by all workers.
    """

    __slots__ = ("life", "mailbox", "start")

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        fd = lock_file()
        self.life = LifeLock(fd, LIFE)  # the hub's, while it lives
        self.start = LifeLock(fd, _START)  # a worker's, while it starts one

    @property
    def is_mail_waiting(self) -> bool:
        """Whether an end of a link has been sent that no hub has taken."""
        poller = select.poll()
        poller.register(self.mailbox.hub_end.fileno(), select.POLLIN)
        return bool(poller.poll(0))


class HubStarter:
    """A worker's way to the hub. `connect` is for any thread, the rest for that of the loop that
    `begin` was called on.
    """

    def __init__(self, place: HubPlace) -> None:
        self._place = place
        self._slot = MailSlot(place.mailbox.loops_end)
        self._backoff = Backoff()
        self._wanted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_used = False

    def begin(self, config: Config) -> asyncio.Task[None]:
        """Start a hub when one is wanted, until the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        return self._loop.create_task(self._keep(config))

    def connect(self) -> socket.socket:
        """Our end of a new link. Raises OSError."""
        assert self._loop is not None  # begun
        link = self._slot.connect()
        self._is_used = True
        self._loop.call_soon_threadsafe(self._wanted.set)
        return link

    def look(self) -> None:
        """Now and then: whether a hub has died with a link's end that it had not taken yet."""
        if self._is_used and self._place.is_mail_waiting:
            self._wanted.set()

    def descriptors(self) -> Iterable[int]:
        """What a process must not have that the application forks."""
        return [
            *self._slot.descriptors(),
            self._place.mailbox.hub_end.fileno(),
            self._place.life.fd,
        ]

    async def _keep(self, config: Config) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._start(config)
            except (OSError, OperatorFault) as problem:
                self._backoff.failed(asyncio.get_running_loop().time())
                _log.error("The topic hub cannot start: %s%s", problem, self._backoff.shown_delay)

    async def _start(self, config: Config) -> None:
        """Start a hub unless there is one, or another worker is about to start it."""
        place = self._place
        if not place.start.take():
            return
        try:
            if not place.life.take():
                return
            place.life.give_back()
            await asyncio.sleep(self._backoff.delay_s)
            await self._launch(config)
        finally:
            place.start.give_back()

    async def _launch(self, config: Config) -> None:
        loop = asyncio.get_running_loop()
        packed_spec = packed(HubSpec.of(config, has_parent=False))
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = await SpawnLauncher(HUB).launch(theirs)
            begun_s = loop.time()
            process.exit_code.add_done_callback(lambda code: self._on_ended(process, begun_s))
            fds = [self._place.mailbox.hub_end.fileno(), self._place.life.fd]
            await send_bootstrap(ours, packed_spec, fds)
            await loop.sock_recv(ours, 1)  # its end: the hub holds its lock, or has ended
        _log.info("Started topic hub [%d]", process.pid)

    def _on_ended(self, process: Process, begun_s: float) -> None:
        """Those whose link has broken want another one."""
        code = process.exit_code.result()
        assert self._loop is not None  # begun
        self._backoff.failed(self._loop.time(), self._loop.time() - begun_s)
        level = logging.ERROR if code else logging.INFO  # 0: it was asked to end
        again = "another starts when a worker needs it"
        _log.log(level, "Topic hub [%d] %s; %s", process.pid, described_exit(code), again)
