"""How long to wait before a child that has died is started again."""

from __future__ import annotations

# Unit: seconds. The first replacement comes at once; the waits double from _FIRST_S to _LAST_S,
# which is short enough for a database that comes back.
_FIRST_S = 0.5
_LAST_S = 30.0
# Unit: seconds. A child that served for so long did not die of its start.
_LONG_LIFE_S = 10.0
# Unit: seconds without a further early death, after which the next one is the first again.
_FORGET_S = 60.0


class Backoff:
    """Counts early deaths and failed starts of children of one kind together: of all workers, since
    they have one application, or of the hub.

    Owned by the supervisor's main thread. `now` is in monotonic seconds.
    """

    __slots__ = ("_failed_at", "count")

    def __init__(self) -> None:
        self.count = 0
        self._failed_at = 0.0

    def failed(self, now: float, age_s: float = 0.0) -> None:
        """One died after it had served for `age_s` seconds, or could not start."""
        if age_s >= _LONG_LIFE_S:
            return
        if now - self._failed_at > _FORGET_S + self.delay_s:
            self.count = 0
        self.count += 1
        self._failed_at = now

    @property
    def delay_s(self) -> float:
        """Seconds to wait before the next start."""
        if self.count < 2:
            return 0.0
        doublings = min(self.count - 2, 16)  # beyond, 2.0 ** n is only a larger number
        return min(_LAST_S, _FIRST_S * 2.0**doublings)

    @property
    def shown_delay(self) -> str:
        """For the end of a line: how long that is, and why; empty if it is not at all."""
        delay_s = self.delay_s
        return f" in {delay_s:g} s (failure {self.count})" if delay_s else ""
