"""Lines of the log while a graceful shutdown goes on, and the one at its end.

One task says them for all loops of a process, or for all workers of a supervisor: about one line a
second, and no more than ten or so, however long it takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from asgi_poller.loops.drain_counts import FORCE_HINT, Drained

_log = logging.getLogger("asgi_poller.error")

_PATIENCE_S = 0.5  # what ends sooner needs no line
_STEP_S = 1.0  # between two lines, at least
_LINES = 10  # and about as many in all


async def say_progress(
    limit_s: float, line: Callable[[float], tuple[int, str]], *, is_last: bool
) -> None:
    """Until it is cancelled. `line` gives how much is left (0: there is nothing to say), and the
    text, for the seconds until all that is cut off. `is_last`: the server ends with it, and a
    second Ctrl-C would end it at once.
    """
    clock = asyncio.get_running_loop().time
    ends_s = clock() + limit_s
    every_s = max(_STEP_S, limit_s / _LINES)
    said_count, said_at_s, said_lines = 0, float("-inf"), 0
    hint = FORCE_HINT if is_last else ""
    await asyncio.sleep(_PATIENCE_S)
    while True:
        now_s = clock()
        count, text = line(ends_s - now_s)
        has_fallen = count <= said_count // 2 and said_lines < _LINES
        if count and now_s < ends_s and (has_fallen or now_s - said_at_s >= every_s):
            _log.info("%s%s", text, hint)
            said_count, said_at_s, hint = count, now_s, ""
            said_lines += 1
        await asyncio.sleep(_STEP_S)


def say_end(drained: Drained, limit_s: float, *, is_forced: bool, lost: str = "") -> None:
    """What became of everybody; nothing if nobody was there. `lost` adds what has no count."""
    if not (drained.is_worth_a_line or lost):
        return
    text = "; ".join(filter(None, (lost, str(drained) if drained.is_worth_a_line else "")))
    if drained and not lost:
        _log.info("Drained in %.1f s: %s.", drained.took_s, text)
    elif is_forced or not limit_s:
        _log.warning("Ended without grace after %.1f s: %s.", drained.took_s, text)
    else:
        _log.warning("Graceful shutdown took longer than %g s: %s.", limit_s, text)
