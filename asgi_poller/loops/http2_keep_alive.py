"""PINGs to an HTTP/2 peer that says nothing (RFC 9113, 6.7)."""

from __future__ import annotations

from asgi_poller.config import Config
from asgi_poller.loops.timer_wheel import NEVER, TimerWheel


class Http2KeepAlive:
    """`at` is the tick of the next PING, `by` that by which the peer must have said something."""

    __slots__ = ("_config", "_wheel", "at", "by")

    def __init__(self, config: Config, wheel: TimerWheel) -> None:
        self._config = config
        self._wheel = wheel
        self.by = NEVER
        self.at = NEVER
        self._next()

    def heard(self) -> None:
        """Any byte is a proof of life."""
        self.by = NEVER

    def sent(self) -> None:
        """A PING is on its way."""
        self.by = self.by or self._wheel.after(self._config.http2_keep_alive_timeout)
        self._next()

    def stop(self) -> None:
        """Nothing more is asked for."""
        self.at = self.by = NEVER

    def _next(self) -> None:
        interval_s = self._config.http2_keep_alive_interval
        if interval_s is not None:
            self.at = self._wheel.after(interval_s)
