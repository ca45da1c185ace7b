"""Whether a server is healthy (/healthz) and ready (/readyz), by what is known of it."""

from __future__ import annotations

from asgi_poller.metrics.snapshot import Snapshot

STARTING, SERVING, DRAINING = "starting", "serving", "draining"


def illness(snapshot: Snapshot, blocked_limit_s: float) -> str | None:
    """Why the process should be replaced; None: it can serve, or is about to.

    A loop that has been blocked for more than `blocked_limit_s` seconds does not serve; 0: however
    long it is blocked.
    """
    if snapshot.state == STARTING:
        return None
    if not snapshot.workers:
        return "no worker lives"
    silent_s = [loop.silent_s for worker in snapshot.workers for loop in worker.loops]
    if silent_s and 0 < blocked_limit_s < min(silent_s):
        return f"all event loops have been blocked for {min(silent_s):.0f} s"
    return None


def obstacle(snapshot: Snapshot, blocked_limit_s: float) -> str | None:
    """Why the server should be sent no connections now; None: it serves."""
    if snapshot.state != SERVING:
        return snapshot.state
    found = illness(snapshot, blocked_limit_s)
    if found is None and not any(worker.state == SERVING for worker in snapshot.workers):
        return "no worker serves"
    return found
