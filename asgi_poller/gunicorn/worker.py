"""The worker class for gunicorn: one process under its arbiter.

gunicorn opens the listeners, forks, and watches; each worker accepts with pollers of its own and
serves on loops of its own. What the arbiter's signals mean here:

    TERM         stop: listeners close, requests finish, WebSockets get 1012 (it may come again)
    INT, QUIT    stop without grace
    USR1         reopen the log files
    ABRT         the heartbeat stayed away for --timeout: say where the loop hangs, and exit
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from asgi_poller.asgi.static_files import static_mounts
from asgi_poller.asgi.types import Application, Receive, Scope, Send
from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.gunicorn.access_log import GunicornAccessLog
from asgi_poller.gunicorn.hub import HubPlace, HubStarter
from asgi_poller.gunicorn.settings import notices, worker_config
from asgi_poller.gunicorn.tls import tls_context
from asgi_poller.gunicorn.turns import Board, Turns
from asgi_poller.importer import load_application
from asgi_poller.listeners.listeners import Listener, listener_on
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.pollers.master_poller import PollerSettings
from asgi_poller.serve.loop_group import LOOP_THREADS
from asgi_poller.serve.runner import run_loop, settle_garbage
from asgi_poller.serve.serving import Serving
from asgi_poller.system.fork_guard import ForkGuard
from asgi_poller.topics.hub_link import HubLink
from asgi_poller.topics.upstreams import require_service

_BEAT_S = 1.0  # the arbiter looks at the heartbeats once a second
_BEATS_PER_TIMEOUT = 4
_QUICK_S = 0.5  # for closing handshakes, after INT and QUIT
_OUR_LOGGER = "asgi_poller"
_OUTER_FILES = frozenset((__file__, asyncio.runners.__file__))


class PollerWorker(Worker):  # type: ignore[misc]  # gunicorn comes without types
    """A gunicorn worker. Made in the arbiter, before the fork; everything else is done by the main
    thread of the worker's process.

    Of the base class it uses: `notify`, the application's loading, the reloader, the signal
    handlers until the loop runs, and that of ABRT.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loop: asyncio.AbstractEventLoop | None = None  # the first one, once it runs
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._turns = Turns(_board(), shares_listeners=not self.cfg.reuse_port)
        self._hub = HubStarter(_hub_place())

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """In the arbiter, before any worker: says what has no effect, and ends it for a mistake."""
        try:
            for notice in notices(cfg):
                log.warning(notice)
            config = worker_config(cfg, "checked:later")
            require_service(config)
            static_mounts(config)
        except OperatorFault as fault:
            log.error("%s", fault)
            raise SystemExit(fault.exit_code) from None

    def init_process(self) -> None:
        if self.cfg.preload_app:
            gc.freeze()  # collections would write to, and so copy, the pages that workers share
        self._turns.claim()
        _log_to(self.log.error_log)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application. With --reload, one that cannot be loaded is shown in its place, and
        the next change tries again.
        """
        try:
            self.wsgi = self.app.wsgi()
        except Exception as error:
            if self.reloader is None:
                raise
            self.log.exception("The application cannot be loaded")
            for path in _files_of(error):
                self.reloader.add_extra_file(path)
            self.wsgi = _failure_page("".join(traceback.format_exception(error)))

    def run(self) -> None:
        """Serve until the arbiter, a limit or the reloader ends it."""
        try:
            config = worker_config(self.cfg, self.wsgi)
            application = load_application(config)
            run_loop(self._serve(config, application), loop_factory(config.loop))
        except OperatorFault as fault:
            self.log.error("%s", fault)
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from None

    # Start and end

    async def _serve(self, config: Config, application: Application) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        listeners = self._listeners(config)
        access_log = None
        if self.log.access_log_enabled:
            access_log = GunicornAccessLog(self.log)
            application = access_log.around(application)
        serving = Serving(
            config,
            listeners,
            tls=tls_context(self.cfg, config),
            access_log=access_log,
            pollers=PollerSettings(
                nice=config.poller_nice,
                wakes_one=not self._turns.are_taken,
                make_accept=self._turns.accept_from,
                relay=self._turns.relay,
            ),
            link_topics=functools.partial(HubLink, self._hub.connect),
            limit_reached=self._limit_reached,
        )
        self._take_signals(loop)
        ForkGuard(
            self.SIGNALS,
            [listener.info.address for listener in listeners],
            self._turns.descriptors,
            several=self._hub.descriptors,
        ).begin()
        heartbeat = loop.create_task(self._beat(serving))
        starting_hubs = self._hub.begin(config)
        try:
            await serving.start(application)
            settle_garbage()
            self._turns.begin(serving.lanes)
            await self._stop.wait()
            self.log.info("Worker shutting down")
        finally:
            serving.stop_accepting()
            self._turns.end()
        try:
            for listener in listeners:
                listener.close()
            limit_s = _QUICK_S if self._force.is_set() else config.timeout_graceful_shutdown
            # the arbiter's workers each have a log of their own: no progress of each
            await serving.end(limit_s, self._force, has_progress=False)
        finally:
            heartbeat.cancel()
            starting_hubs.cancel()

    def _listeners(self, config: Config) -> list[Listener]:
        tls = config.ssl_certfile is not None
        return [listener_on(each.sock, tls=tls, option="--bind") for each in self.sockets]

    async def _beat(self, serving: Serving) -> None:
        """Tell the arbiter that every loop of this process answers; stop once it has ended."""
        # self.timeout is half of --timeout; 0: it does not check
        interval_s = min(_BEAT_S, 2 * self.timeout / _BEATS_PER_TIMEOUT or _BEAT_S)
        while True:
            for server in serving.loop_servers[1:]:
                answer = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), server.loop)
                await asyncio.wrap_future(answer)
            self.notify()
            self._turns.publish()
            self._hub.look()
            if self.ppid != os.getppid():
                self.log.info("The arbiter has ended: worker shutting down")
                self.alive = False
            self._check_alive()
            await asyncio.sleep(interval_s)

    def _limit_reached(self) -> None:
        """On any loop's thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._recycle)

    def _recycle(self) -> None:
        if self.alive:
            self.log.info("Autorestarting worker: --max-requests is reached")
            self.alive = False
            self._check_alive()

    def _check_alive(self) -> None:
        """`alive` is how gunicorn, its reloader and hooks say that the worker should end."""
        if not self.alive:
            self._stop.set()

    # Signals

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on they come through the loop; ABRT does not, since it is sent to a blocked
        one.
        """
        # a bound method, not the loop's own handler: sse-starlette asks the object behind it
        # whether the server is about to end
        signal.signal(signal.SIGTERM, self._take_term)
        loop.add_signal_handler(signal.SIGINT, self._on_quit)
        loop.add_signal_handler(signal.SIGQUIT, self._on_quit)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        loop.add_reader(self.PIPE[0], self._on_pipe)  # the reloader's thread writes to it
        self._check_alive()  # what came before

    @property
    def should_exit(self) -> bool:
        """Whether it has been asked to end, as uvicorn's Server says it."""
        return not self.alive

    def _take_term(self, number: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_term)

    def _on_term(self) -> None:
        self.alive = False
        self._check_alive()

    def _on_quit(self) -> None:
        if not self._force.is_set():
            self.cfg.worker_int(self)
        self._force.set()
        self._on_term()

    def _on_pipe(self) -> None:
        os.read(self.PIPE[0], 4096)
        self._check_alive()

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """The arbiter misses the heartbeat: log what blocks the loop. It exits."""
        self.log.critical(
            "The event loop has been blocked for %s s (--timeout). It is at:\n%s",
            self.cfg.timeout,
            _stacks(frame),
        )
        super().handle_abort(sig, frame)


@functools.cache
def _board() -> Board:
    """The one of this arbiter, inherited by all its workers."""
    return Board()


@functools.cache
def _hub_place() -> HubPlace:
    """The one of this arbiter, too."""
    return HubPlace()


def _stacks(frame: FrameType | None) -> str:
    """Where the threads with loops are: the main one, whose frame is given, and further ones."""
    frames = sys._current_frames()
    parts = [_stack(frame)]
    for thread in threading.enumerate():
        if thread.name.startswith(LOOP_THREADS) and thread.ident in frames:
            parts.append(f"{thread.name}:\n{_stack(frames[thread.ident])}")
    return "".join(parts).rstrip()


def _stack(frame: FrameType | None) -> str:
    summary = traceback.StackSummary.extract(traceback.walk_stack(frame))
    # innermost first; what is outside of this module and the loop is the same for every worker
    inner = itertools.takewhile(lambda entry: entry.filename not in _OUTER_FILES, summary)
    return "".join(traceback.format_list(list(inner)[::-1]))


def _log_to(error_log: logging.Logger) -> None:
    """Send our log lines where gunicorn's error log goes, unless --log-config configures them."""
    ours = logging.getLogger(_OUR_LOGGER)
    if not ours.handlers:
        ours.handlers = error_log.handlers
        ours.propagate = error_log.propagate
        ours.setLevel(error_log.level)


def _files_of(error: BaseException) -> set[str]:
    """The files that `error` came through: their modules are not imported, and so not watched."""
    paths = {error.filename} if isinstance(error, SyntaxError) and error.filename else set()
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        paths.add(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return {path for path in paths if os.path.isfile(path)}


def _failure_page(text: str) -> Application:
    """An application that answers every request with `text`."""

    async def failed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("the application could not be loaded")
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 500, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    return failed
