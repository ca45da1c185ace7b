"""One client process: `python -m asgi_poller.storm.worker`, told what to do on stdin and telling
how it goes on stdout.

Lines of JSON both ways. In: `{"plan", "index"}` first, then `{"do": "start"|"run"|"stop", "at":
seconds}`, where `at` is on the monotonic clock that all processes of a machine share. Out:
`{"ready": room}`, then a snapshot of everything counted so far a few times a second, the last with
`"phase": "done"`. The end of stdin means stop.
"""

from __future__ import annotations

import gc
import json
import os
import select
import time
from typing import Any

from asgi_poller.storm.client import Engine
from asgi_poller.storm.limits import raise_descriptor_limit
from asgi_poller.storm.modes import MODES
from asgi_poller.storm.plan import Plan, attempts_due
from asgi_poller.storm.stats import Histogram

STDIN, STDOUT = 0, 1
SNAPSHOT_S = 0.2
# With many processes each reports less often, so that together they leave the CPU to the load.
PROCESSES_PER_SNAPSHOT_STEP = 8
PIPE_READ_OCTETS = 1 << 16
FAR_S = 3600.0  # for waits that an event ends


class Worker:
    """One client process's phases: waiting, opening, settled, running, done. One thread."""

    def __init__(self, plan: Plan, *, index: int) -> None:
        self.plan = plan
        self.room = raise_descriptor_limit()
        self.engine = Engine(plan, index=index, room=self.room)
        self.mode = MODES[plan.mode](self.engine)
        self.engine.keeper = self.mode
        self.phase = "waiting"
        self._index = index
        self._commands = b""
        self._begun = 0  # attempts of the whole run that the pacing has released
        self._next_burst_s = 0.0
        self._run_s = 0.0
        self._window: list[float] = []
        self._window_messages = [0, 0]
        self._window_rounds = [0, 0]
        self._snapshot_s = SNAPSHOT_S * (1 + plan.processes // PROCESSES_PER_SNAPSHOT_STEP)
        self._next_snapshot_s = 0.0

    # -- the loop ----------------------------------------------------------------------------------

    def work(self) -> None:
        """Until everything has its outcome or the parent says stop."""
        self.engine.handlers[STDIN] = self._command
        self.engine.epoll.register(STDIN, select.EPOLLIN)
        _tell({"ready": self.room})
        steps = {
            "waiting": self._while_waiting,
            "opening": self._while_opening,
            "settled": self._while_settled,
            "running": self._while_running,
        }
        while self.phase != "done":
            now_s = time.monotonic()
            wake_s = steps[self.phase](now_s)
            if self.phase == "done":
                break  # what is measured ends here: not one more event
            if now_s >= self._next_snapshot_s:
                self._next_snapshot_s = now_s + self._snapshot_s
                _tell(self.snapshot())
            wait_s = min(wake_s, self._next_snapshot_s) - now_s
            self.engine.turn(max(0.0, min(wait_s, self.engine.next_deadline_s())))
        self._finish()

    def _while_waiting(self, now_s: float) -> float:
        """The parent starts all processes at one moment."""
        return now_s + FAR_S

    def _while_opening(self, now_s: float) -> float:
        """Release bursts when they are due; the time of the next one."""
        plan, tally = self.plan, self.engine.tally
        if self._begun < plan.connections and now_s >= self._next_burst_s:
            self._begun = min(plan.connections, self._begun + plan.burst)
            # A burst that took longer than the interval delays the next; it does not double it.
            self._next_burst_s = max(self._next_burst_s + plan.interval_s, now_s)
        due = attempts_due(self._begun, self._index, plan.processes)
        self.engine.dial_up_to(due)
        mine = attempts_due(plan.connections, self._index, plan.processes)
        if tally.attempted == mine and not tally.pending and not self.engine.closing:
            self.phase = "settled" if plan.mode != "open" else "done"
            self._next_snapshot_s = 0.0
            return now_s
        if tally.attempted < due:
            # waiting for descriptors: a close that gives one back wakes us, or this does
            return now_s + 0.01
        return self._next_burst_s if tally.attempted < mine else now_s + FAR_S

    def _while_settled(self, now_s: float) -> float:
        """All of ours have their outcome; the parent says when the others' have as well."""
        if self._run_s and now_s >= self._run_s:
            self.phase = "running"
            self.mode.run()
        return self._run_s or now_s + FAR_S

    def _while_running(self, now_s: float) -> float:
        """Warm up, then measure for `duration_s`; the time of the next mark."""
        plan = self.plan
        marks = (self._run_s + plan.warmup_s, self._run_s + plan.warmup_s + plan.duration_s)
        if not self._window and now_s >= marks[0]:
            self.mode.round_trips = Histogram()
            self._mark(0, now_s)
        if len(self._window) == 1 and now_s >= marks[1]:
            self._mark(1, now_s)
            self.phase = "done"
        return marks[min(len(self._window), 1)]

    def _mark(self, which: int, now_s: float) -> None:
        self._window.append(now_s)
        self._window_messages[which] = self.engine.tally.messages
        self._window_rounds[which] = self.mode.rounds

    def _command(self, _: int) -> None:
        data = os.read(STDIN, PIPE_READ_OCTETS)
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            match order["do"]:
                case "start":
                    self.phase = "opening"
                    self._next_burst_s = order["at"]
                case "run":
                    self._run_s = order["at"]
                case "stop":
                    self._stop()
        if not data:
            self._stop()

    def _stop(self) -> None:
        self.engine.stop()
        if len(self._window) == 1:
            self._mark(1, time.monotonic())
        self.phase = "done"

    def _finish(self) -> None:
        if self.plan.mode == "hold":
            self.engine.tally.per_channel = self.mode.per_channel()
        _tell(self.snapshot())
        self.mode.end()
        while self.engine.closing:
            self.engine.turn(self.engine.next_deadline_s())

    def snapshot(self) -> dict[str, Any]:
        """Everything counted so far."""
        tally = self.engine.tally
        return {
            "phase": self.phase,
            "tally": tally.as_dict(),
            "opening": self.engine.opening.sparse(),
            "round_trips": self.mode.round_trips.sparse(),
            "window": self._window,
            "measured": self._window_messages[1] - self._window_messages[0]
            if len(self._window) == 2
            else 0,
            "rounds": self._window_rounds[1] - self._window_rounds[0]
            if len(self._window) == 2
            else 0,
            "cpu_s": time.process_time(),
        }


def _tell(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(STDOUT, data) :]
    except BrokenPipeError:
        raise SystemExit(1) from None  # the parent has gone: nobody wants the figures


def main() -> None:
    """Read the plan's line from stdin, then work."""
    received = bytearray()
    while not received.endswith(b"\n"):  # the parent sends nothing else before we are ready
        if not (data := os.read(STDIN, PIPE_READ_OCTETS)):
            return
        received += data
    order = json.loads(received)
    # what the loop makes is freed by reference counts; a collection would stop every connection
    gc.disable()
    Worker(Plan.from_json(order["plan"]), index=order["index"]).work()


if __name__ == "__main__":
    main()
