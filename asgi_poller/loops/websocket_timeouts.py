"""How long an open WebSocket may go on: `--ws-max-lifetime`, `--ws-idle-timeout`, and with
`--ws-slow-consumer close` how long its peer may be behind.

Made only where one of these is set. Its deadlines are on the loop's timer wheel, through the
WebSocket's connection; nothing is done when a message passes.
"""

from __future__ import annotations

import random

from asgi_poller.asgi.websocket import WebSocketSession
from asgi_poller.config import Config
from asgi_poller.loops.timer_wheel import NEVER, TICK_S, TimerWheel
from asgi_poller.protocols.websocket.frames import (
    CLOSE_GOING_AWAY,
    CLOSE_POLICY_VIOLATION,
    CLOSE_SERVICE_RESTART,
)

# An idle WebSocket is found by looking whether the number of messages has changed: so often within
# the timeout, which is therefore met up to a quarter late.
_LOOKS = 4


class WebSocketTimeouts:
    """Owned by the loop's thread. Ticks are the wheel's; NEVER where there is no deadline."""

    __slots__ = (
        "_ends_at",
        "_look_at",
        "_look_ticks",
        "_message_count",
        "_quiet_looks",
        "_slow_at",
        "_slow_s",
        "_wheel",
    )

    def __init__(self, config: Config, wheel: TimerWheel) -> None:
        self._wheel = wheel
        self._slow_s = _slow_s(config)
        self._slow_at = NEVER
        self._ends_at = NEVER
        self._look_at = NEVER
        self._look_ticks = 0
        self._quiet_looks = 0
        self._message_count = 0
        if config.ws_max_lifetime is not None:
            jitter_s = random.uniform(0.0, config.ws_max_lifetime_jitter)
            self._ends_at = wheel.after(config.ws_max_lifetime + jitter_s)
        if config.ws_idle_timeout is not None:
            self._look_ticks = -(-wheel.ticks(config.ws_idle_timeout) // _LOOKS)  # rounded up
            self._look_at = wheel.after(self._look_ticks * TICK_S)

    @property
    def next_tick(self) -> int:
        """The earliest deadline."""
        ticks = [tick for tick in (self._ends_at, self._look_at, self._slow_at) if tick]
        return min(ticks, default=NEVER)

    def fall_behind(self) -> None:
        """More than --ws-send-limit waits to be sent."""
        if self._slow_s is not None and not self._slow_at:
            self._slow_at = self._wheel.after(self._slow_s)

    def catch_up(self) -> None:
        """The peer has read enough of it."""
        self._slow_at = NEVER

    def on_timer(self, session: WebSocketSession, tick: int) -> int:
        """It is `tick`: close the WebSocket if its term is over; returns the next deadline."""
        if self._slow_at and tick >= self._slow_at:
            session.close(CLOSE_POLICY_VIOLATION, "messages are not read")
            # an application that waits for this peer is to see the end now
            session.unblock_writing()
            return NEVER
        if self._ends_at and tick >= self._ends_at:
            session.close(CLOSE_SERVICE_RESTART, "lifetime is over")
            return NEVER
        if self._look_at and tick >= self._look_at:
            self._look(session, tick)
        return self.next_tick

    def _look(self, session: WebSocketSession, tick: int) -> None:
        count = session.message_count
        self._quiet_looks = self._quiet_looks + 1 if count == self._message_count else 0
        self._message_count = count
        if self._quiet_looks >= _LOOKS:
            session.close(CLOSE_GOING_AWAY, "idle")
            self._look_at = NEVER
        else:
            self._look_at = tick + self._look_ticks


class WebSocketTicks:
    """What every WebSocket asks of the settings when it opens, looked up once. Immutable. In the
    wheel's ticks, NEVER where there is no deadline; `has_timeouts`: it gets WebSocketTimeouts.
    """

    __slots__ = ("accept", "close", "has_timeouts", "ping")

    def __init__(self, config: Config) -> None:
        self.accept = _ticks(config.ws_accept_timeout)
        self.ping = _ticks(config.ws_ping_interval)
        self.close = _ticks(config.ws_close_timeout)
        limits = (config.ws_max_lifetime, config.ws_idle_timeout, _slow_s(config))
        self.has_timeouts = limits != (None, None, None)


def _ticks(seconds: float | None) -> int:
    return NEVER if seconds is None else TimerWheel.ticks(seconds)


def _slow_s(config: Config) -> float | None:
    """Seconds that a peer may be behind; None: it is waited for."""
    return config.ws_slow_consumer_timeout if config.ws_slow_consumer == "close" else None
