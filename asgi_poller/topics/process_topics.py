"""Topics where no server of ours runs: of this process, under another server or a test client.

Each event loop that uses topics gets its own, for applications may have several: a test client's
WebSockets each have one. Nobody tells of the end of such a loop, so those that have ended are
looked for when another one begins.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Final

from asgi_poller.metrics.loop_counts import LoopCounts
from asgi_poller.protocols.websocket.protocol import FrameCache
from asgi_poller.settings.table import BY_SPELLING, parsed
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.local_link import LocalHub
from asgi_poller.topics.loop_topics import LoopTopics, MakeLink

HISTORY_VARIABLE: Final = BY_SPELLING["topics_history"].variable

_lock = threading.Lock()
_by_loop: dict[asyncio.AbstractEventLoop, LoopTopics] = {}
_hub: LocalHub | None = None


def process_hub() -> LocalHub:
    """What joins those loops. It keeps what the environment variable of --topics-history says.
    Raises ConfigError.
    """
    global _hub
    if _hub is None:
        text = os.environ.get(HISTORY_VARIABLE)
        where = f" (environment variable {HISTORY_VARIABLE})"
        rules = parsed(BY_SPELLING["topics_history"], text, where=where) if text else ()
        _hub = LocalHub(HistoryRules.parsed(rules), is_shared=True)
    return _hub


def of_running_loop(make_link: MakeLink | None = None) -> LoopTopics:
    """Those of the running loop, made where there are none. `make_link` joins them to others; None:
    to the process's.
    """
    loop = asyncio.get_running_loop()
    with _lock:
        topics = _by_loop.get(loop)
        if topics is None:
            _forget_ended()
            counts = LoopCounts()
            topics = _by_loop[loop] = LoopTopics(
                make_link or process_hub().link,
                max_bytes=0,  # nothing is framed here: other servers do
                deflate_threshold=0,
                cache=FrameCache(counts),
                counts=counts,
            )
        return topics


def _forget_ended() -> None:
    for loop, topics in list(_by_loop.items()):
        if loop.is_closed():
            del _by_loop[loop]
            topics.abandon()


def _begin_anew() -> None:
    """In the child of a fork, where those loops do not run."""
    global _lock, _hub
    _lock = threading.Lock()
    _hub = None
    _by_loop.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
