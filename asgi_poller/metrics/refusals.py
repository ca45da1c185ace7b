"""Reasons for which connections and requests are turned away: few and fixed, so that they fit into
a row of cells, and no peer can make a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

#: HTTP statuses that we answer with by ourselves, then what has no status or one of many causes.
REFUSALS = (
    "400", "403", "405", "408", "413", "414", "426", "429", "431", "501", "503", "505",
    "accept_rate", "connections", "connections_per_ip", "websockets",  # limits on connections
    "http2_flood",  # a peer that only made work: GOAWAY with ENHANCE_YOUR_CALM
    "http2_protocol",  # one that broke HTTP/2's rules: GOAWAY
    "no_descriptor",  # the process has none left
    "no_lane",  # no event loop took the connection for too long
    "proxy_protocol",  # no valid PROXY header, where one must be
    "silent",  # nothing came in time, where a poller waits for it
    "tls",  # a handshake that failed
    "error",  # ours: logged with its exception
    "other",
)  # fmt: skip

_INDEX = {name: index for index, name in enumerate(REFUSALS)}


def refusal_index(reason: str) -> int:
    """Where `reason` is counted: one of REFUSALS, or words that begin with a status."""
    at = _INDEX.get(reason)
    if at is None:
        at = _INDEX.get(reason[:3], _INDEX["other"])
    return at


class Refusals:
    """Counts of several threads together, in the order of REFUSALS."""

    __slots__ = ("_lock", "counts")

    def __init__(self) -> None:
        self.counts = [0] * len(REFUSALS)
        self._lock = threading.Lock()

    def count(self, reason: str) -> None:
        """Somebody was turned away for `reason`, as `refusal_index` takes it."""
        with self._lock:
            self.counts[refusal_index(reason)] += 1


def by_reason(*counts: Sequence[int]) -> Mapping[str, int]:
    """Counts in the order of REFUSALS, all together, by name; those that are 0 left out."""
    if not counts:
        return {}
    totals = map(sum, zip(*counts, strict=True))
    return {name: total for name, total in zip(REFUSALS, totals, strict=True) if total}
