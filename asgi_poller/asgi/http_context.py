"""What all HTTP exchanges of one loop share."""

from __future__ import annotations

from dataclasses import dataclass, field

from asgi_poller.asgi.access_log import AccessLog, Measure
from asgi_poller.asgi.types import Loop
from asgi_poller.metrics.loop_counts import LoopCounts


@dataclass(slots=True)
class HttpContext:
    """Owned by the loop's thread."""

    loop: Loop
    access_log: AccessLog | None = None
    max_body_bytes: int | None = None
    counts: LoopCounts = field(default_factory=LoopCounts)
    measure: Measure | None = None  # of an access log that wants durations and sizes
