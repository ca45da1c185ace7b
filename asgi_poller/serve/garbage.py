"""The garbage collector of a process that is a server and nothing else."""

from __future__ import annotations

import gc

# Containers made before the youngest generation is searched. A connection makes about 30 that live
# as long as it does, so that CPython's 700 means a search every 23 connects, each over objects that
# are all alive; measured, that is a fifth of the cost of opening a WebSocket.
_YOUNG_COUNT = 10_000


def settle_garbage() -> None:
    """Call once, after start-up: what lives now lives on and is searched no more.

    Only for a process that we own; a program that embeds the server keeps its own policy.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_COUNT, *gc.get_threshold()[1:])
