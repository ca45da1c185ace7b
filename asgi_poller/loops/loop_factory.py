"""Which event loop: uvloop where it is installed, asyncio elsewhere."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable

from asgi_poller.errors import ConfigError

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(name: str) -> LoopFactory:
    """A maker of loops for `--loop` auto, uvloop or asyncio. Raises ConfigError if uvloop is asked
    for and missing.
    """
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        new_event_loop: LoopFactory = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        if name == "uvloop":
            raise ConfigError(
                "--loop", "uvloop is not installed here: pip install uvloop, or use --loop asyncio"
            ) from None
        return asyncio.new_event_loop
    return new_event_loop
