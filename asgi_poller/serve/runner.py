"""Running an event loop, and a process, to its end without waiting for ever for the application.

`asyncio.run` waits until every task has heeded its cancellation and every thread of the default
executor has come back, and Python until all threads have ended. An application's blocking call may
take hours; a stop has its own time limit.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import sysconfig
import threading
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from asgi_poller.config import ASGIApplication
from asgi_poller.errors import EXIT_NOTE
from asgi_poller.logs import let_go_of_stalled_outputs
from asgi_poller.loops.loop_factory import LoopFactory
from asgi_poller.system.fork_guard import end_daemons

T = TypeVar("T")
_log = logging.getLogger("asgi_poller.error")

_TASKS_S = 1.0  # for tasks to heed their cancellation
_NOTE_ROUNDS = 200  # of a loop, for an exception to come out of all middleware: 0.01 s
_THREADS_S = 3.0  # for threads, and for what runs at exit (Sentry: 2 s)
# Containers made before the youngest generation is searched. A connection makes about 30 that live
# as long as it does, so that CPython's 700 means a search every 23 connects, each over objects that
# are all alive; measured, that is a fifth of the cost of opening a WebSocket.
_YOUNG_COUNT = 10_000
# Searches of a generation before one of the next older generation, less one: what has survived two
# young searches is old. With CPython's 10, the middle search looks at 110,000 containers, which no
# cache holds: where many WebSockets open, one takes 30 ms, and they cost twice what young ones do.
_YOUNG_ROUNDS = 0
_MIDDLE_ROUNDS = 50  # so that the old are searched after as many new ones as with CPython's 10: 1M


def run_loop(main: Coroutine[Any, Any, T], make_loop: LoopFactory) -> T:
    """Run `main` on a new loop, as asyncio.run() does. Tasks that ignore their cancellation are
    left behind, and so are threads of the loop's executor.

    A SystemExit or KeyboardInterrupt out of an application's task stops a loop; here it goes on, as
    it does in uvicorn.
    """
    loop = make_loop()
    asyncio.set_event_loop(loop)
    try:
        task = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                _tolerate(error, loop)
    finally:
        try:
            loop.run_until_complete(_end_tasks())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def with_exits_as_failures(application: ASGIApplication) -> ASGIApplication:
    """The same application for a loop that the caller runs, and that a SystemExit or
    KeyboardInterrupt out of a handler would stop: a RuntimeError, caused by it, takes its place.
    """

    async def call(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":  # it handles them itself
            await application(scope, receive, send)
            return
        try:
            await application(scope, receive, send)
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(EXIT_NOTE) from error

    return call


def _tolerate(error: BaseException, loop: asyncio.AbstractEventLoop) -> None:
    """Raises it again, unless it came out of an application's task."""
    errors = [error]
    # the task's done callback runs in the loop's next round, and puts the note on the error;
    # middleware that runs the application in its own tasks passes it on, a few rounds each
    for _ in range(_NOTE_ROUNDS):
        try:
            loop.run_until_complete(asyncio.sleep(0))
        except (SystemExit, KeyboardInterrupt) as another:
            errors.append(another)
        errors = [each for each in errors if EXIT_NOTE not in getattr(each, "__notes__", ())]
        if not errors:
            return
    raise errors[0]


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stubborn = await asyncio.wait(tasks, timeout=_TASKS_S)
        if stubborn:
            _log.warning(
                "%d tasks ignore their cancellation; the server ends without them.", len(stubborn)
            )
    try:
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_asyncgens(), _TASKS_S)
    except TimeoutError:
        _log.warning(
            "An asynchronous generator of the application does not end; the server ends without it."
        )


def settle_garbage() -> None:
    """Call once, after start-up: the garbage collector skips the objects that exist now, and looks
    at new ones less often.

    Only for a process that is the server's; a program that embeds the server keeps its settings.
    """
    gc.collect()
    gc.freeze()
    # before, and without, the GIL's generations these numbers mean other things
    if sys.version_info < (3, 14) and not sysconfig.get_config_var("Py_GIL_DISABLED"):
        gc.set_threshold(_YOUNG_COUNT, _YOUNG_ROUNDS, _MIDDLE_ROUNDS)
    else:
        gc.set_threshold(_YOUNG_COUNT, *gc.get_threshold()[1:])


def end_process_soon(exit_code: int) -> None:
    """From now on Python has a few seconds to end this process; then it ends without threads."""
    watch = threading.Thread(target=_end_process, args=(exit_code,), name="ProcessEnd", daemon=True)
    watch.start()


def _end_process(exit_code: int) -> None:
    threading.Event().wait(_THREADS_S)
    names = [
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]
    _log.warning(
        "Threads of the application have not ended: %s. The process ends without them.", names
    )
    end_process_now(exit_code)


def end_process_now(exit_code: int) -> NoReturn:
    """End the process without its exit functions and without waiting for threads."""
    end_daemons()
    logging.shutdown()
    let_go_of_stalled_outputs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
