"""The descriptor limit: how many sockets one client process may have."""

from __future__ import annotations

import os
import resource

from asgi_poller.storm.plan import Plan, StormError

# Descriptors a process needs beside its connections: the standard three, epoll, pipes, modules
# being read.
RESERVED_COUNT = 64


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit to its hard one; return how many connections fit under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass  # a kernel may cap it below a hard limit of "infinity": we stay with what we have
    return max(1, (1 << 20 if soft == resource.RLIM_INFINITY else soft) - RESERVED_COUNT)


def processes_for(*, mode: str, connections: int, asked: int | None) -> int:
    """The number of client processes: as asked, else two at most, and more where descriptors need
    it. Raises StormError.
    """
    room = raise_descriptor_limit()
    keeps = mode != "open"
    needed = -(-connections // room) if keeps else 1
    if asked is None:
        return 1 if mode == "fan-out" else max(needed, min(2, os.cpu_count() or 1))
    if keeps and asked < needed:
        raise StormError(
            f"--processes {asked}: {connections} connections at once need {needed} processes, "
            f"each may have {room} (ulimit -n)"
        )
    return asked


def throttle_notice(plan: Plan) -> str | None:
    """What to say before a run whose attempts cannot all be under way at once."""
    room = raise_descriptor_limit()
    if plan.connections <= room * plan.processes:
        return None
    return (
        f"descriptor limit: each of {plan.processes} processes has at most {room} sockets at once "
        "(ulimit -n); attempts wait while that many are in flight"
    )
