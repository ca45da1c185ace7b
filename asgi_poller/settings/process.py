"""Options: processes and event loops, their lives, and reloading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asgi_poller.settings.kinds import (
    Kind,
    choice,
    flag,
    integer,
    integer_or,
    optional,
    seconds,
    shown,
    size,
    text,
    texts,
)
from asgi_poller.settings.option import option

MIB = 1024 * 1024


def _account(metavar: str) -> Kind:
    """A user or group: its name, or its number."""
    plain = text(metavar)

    def check(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return str(value)
        name: str = plain.check(value)
        if not name:
            raise ValueError(f"must be a name or a number, not {shown(value)}")
        return name

    return Kind(metavar, check, check)


@dataclass(frozen=True, kw_only=True, init=False)
class Processes:
    """How many processes and event loops there are, and as whom they run."""

    __slots__ = ()

    # "auto" is turned into a number by Config, so that every reader has a number.
    workers: int = option(
        1,
        integer_or("auto", 1),
        "Worker processes. auto: one for each CPU core. With 1, everything runs in one process.",
        note="Default: $WEB_CONCURRENCY if that is set.",
        uvicorn="same",
    )
    loops: int | Literal["auto"] = option(
        1,
        integer_or("auto", 1),
        "Event loops (threads) in each worker. auto: one per CPU core on a free-threaded Python.",
        note="auto means 1 on a Python with a GIL. A module's state is shared by "
        "the loops of a process; with --factory each loop gets an application of its own.",
    )
    loop: Literal["auto", "uvloop", "asyncio"] = option(
        "auto",
        choice("auto", "uvloop", "asyncio", also=("none",)),
        "Event loop implementation. auto: uvloop where it is installed.",
        uvicorn="same",
    )
    preload: bool = option(
        False,
        flag(),
        "Load the application once and fork the workers from it, so that they share its memory.",
        note="Not on Windows. Without it, workers start afresh and each loads the application.",
    )
    pid_file: str | None = option(
        None, optional(text("PATH")), "Write the process id of the server to this file.", flag="pid"
    )
    user: str | None = option(
        None,
        optional(_account("USER")),
        "Become this user once the addresses are bound.",
    )
    group: str | None = option(
        None, optional(_account("GROUP")), "Become this group once the addresses are bound."
    )


@dataclass(frozen=True, kw_only=True, init=False)
class Lifetime:
    """When workers start, stop and are replaced."""

    __slots__ = ()

    timeout_graceful_shutdown: float = option(
        10.0,
        seconds(),
        "Seconds that open requests and WebSockets get to finish at shutdown; then they are cut.",
        note="Never endless: else a service manager kills the process, and connections break.",
        uvicorn="none (waits for ever)",
    )
    drain_spread: float = option(
        0.0,
        seconds(),
        "Seconds over which the WebSockets of a worker that is replaced are closed (1012).",
        note="Spreads the moment at which their clients connect again. 0: all at once. After"
        " --drain-delay also those of a server that stops: there are others for them then."
        " --timeout-graceful-shutdown comes on top.",
    )
    timeout_worker_startup: float = option(
        60.0,
        seconds(0.001),
        "Seconds that a worker may take to be ready: import, then lifespan start-up.",
    )
    timeout_worker_heartbeat: float = option(
        60.0,
        seconds(),
        "Replace a worker whose event loop has been blocked for so many seconds. 0: only log it.",
        note="The heartbeat runs on the event loop itself, so that a blocked one is noticed; "
        "the stack that blocks it is logged.",
    )
    limit_max_requests: int | None = option(
        None,
        optional(integer(1)),
        "Replace a worker after so many requests. WebSockets count.",
        uvicorn="same",
    )
    limit_max_requests_jitter: int = option(
        0,
        integer(0),
        "Add up to so many requests, at random, to --limit-max-requests.",
        note="Keeps workers that started together from being replaced together.",
        uvicorn="same",
    )
    worker_max_lifetime: float | None = option(
        None,
        optional(seconds(), zero_is_none=True),
        "Replace a worker after so many seconds.",
    )
    worker_max_memory: int | None = option(
        None,
        optional(size(MIB)),
        "Replace a worker whose resident memory exceeds this size.",
    )


@dataclass(frozen=True, kw_only=True, init=False)
class Reload:
    """Restarting when source files change (sooner with watchfiles)."""

    __slots__ = ()

    reload: bool = option(
        False,
        flag(),
        "Restart the application when its source changes.",
        uvicorn="same",
    )
    reload_dirs: tuple[str, ...] = option(
        (),
        texts("PATH"),
        "Watch this directory instead of the current one.",
        flag="reload-dir",
        uvicorn="same",
    )
    reload_includes: tuple[str, ...] = option(
        (),
        texts("GLOB"),
        "Watch files like this too, besides *.py.",
        flag="reload-include",
        uvicorn="same",
    )
    reload_excludes: tuple[str, ...] = option(
        (),
        texts("GLOB"),
        "Leave out files like this, besides .*, .py[cod], .sw.* and ~*.",
        flag="reload-exclude",
        uvicorn="same",
    )
    reload_delay: float = option(
        0.25,
        seconds(),
        "Seconds to gather changes in before a restart.",
        uvicorn="same",
    )
