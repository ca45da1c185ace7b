"""The client processes of one run: started together, told the phases, their counts added up while
they work.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asgi_poller.storm import probe
from asgi_poller.storm.limits import processes_for
from asgi_poller.storm.plan import Plan, StormError
from asgi_poller.storm.stats import Histogram, Tally

TICK_S = 0.1
# From "all are ready" to the first dial, and from "all have settled" to the run: for the order to
# reach everyone.
LEAD_S = 0.05
LEAD_PER_PROCESS_S = 0.005
READY_LIMIT_S = 60.0
# After "stop", a client process has this long for its last report.
STOP_LIMIT_S = 15.0
# Servers close after their clients do: their CPU time for that counts as well.
AFTERMATH_S = 0.3
PIPE_READ_OCTETS = 1 << 20


@dataclass(slots=True)
class Sample:
    """The totals at one moment of the run: seconds since its start, counts so far."""

    at_s: float
    attempted: int
    opened: int
    failed: int
    live: int
    messages: int
    queue: int | None
    overflows: int | None


@dataclass(slots=True)
class Outcome:
    """All that a run gave. `cpu_s` is the server's, by phase, where its pid was given; memory in
    octets.
    """

    plan: Plan
    tally: Tally = field(default_factory=Tally)
    opening: Histogram = field(default_factory=Histogram)
    round_trips: Histogram = field(default_factory=Histogram)
    samples: list[Sample] = field(default_factory=list)
    phase: str = "starting"
    started_s: float = 0.0
    started_at: float = 0.0
    measured: int = 0
    rounds: int = 0
    window_s: float = 0.0
    client_cpu_s: float = 0.0
    interrupted: bool = False
    queue_seen: bool = False
    server_cpu_s: dict[str, float] = field(default_factory=dict)
    server_memory: dict[str, int] = field(default_factory=dict)
    dead_processes: list[str] = field(default_factory=list)


class _Client:
    """One client process and what it said last. The fleet's thread."""

    def __init__(self, plan: Plan, index: int) -> None:
        self.index = index
        self.last: dict[str, Any] | None = None
        self.ready = False
        self.done = False
        self._received = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asgi_poller.storm.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for us; we tell them
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.tell({"plan": plan.to_json(), "index": index})

    @property
    def phase(self) -> str:
        return "done" if self.done else str(self.last["phase"]) if self.last else "waiting"

    def tell(self, order: dict[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(order).encode() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading its pipe says so

    def listen(self) -> bool:
        """Take what it has said; False once it has nothing more to say."""
        data = os.read(self.stdout.fileno(), PIPE_READ_OCTETS)
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self.ready = True
            else:
                self.last = message
        self.done = self.done or not data or self.phase == "done"
        return bool(data)


class Fleet:
    """Runs a plan. Owned by the thread that calls `run`; `stop` may be called from a signal handler
    on it.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        server_pids: tuple[int, ...] = (),
        on_tick: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.plan = plan
        self.outcome = Outcome(plan)
        self._server_pids = server_pids
        self._on_tick = on_tick
        self._clients: list[_Client] = []
        self._selector = selectors.DefaultSelector()
        self._stopping_s = 0.0
        self._addresses = probe.listen_addresses(plan.family, plan.address)
        self._overflows_before: int | None = None
        self._cpu_mark = 0.0

    def stop(self) -> None:
        """End the run early; `run` then returns what there is. A second call ends the client
        processes at once.
        """
        if self._stopping_s:
            for client in self._clients:
                client.process.kill()
            return
        self.outcome.interrupted = True
        self.finish()

    def finish(self) -> None:
        """What the run was for has been done: end its phase early. From any thread."""
        self._stopping_s = time.monotonic()
        for client in self._clients:
            client.tell({"do": "stop"})

    def run(self) -> Outcome:
        """The whole run, to its end. Raises StormError where it cannot be done here."""
        plan, outcome = self.plan, self.outcome
        processes_for(mode=plan.mode, connections=plan.connections, asked=plan.processes)
        try:
            self._start()
            self._until(lambda client: client.ready, limit_s=READY_LIMIT_S)
            outcome.started_at = time.time()
            self._mark_server("")
            outcome.started_s = self._order("start")
            outcome.phase = "opening"
            self._until(lambda client: client.phase in ("settled", "done"))
            if plan.mode != "open" and not self._stopping_s:
                self._mark_server("opening")
                self._measure()
            self._until(lambda client: client.done)
            if plan.mode == "open":
                self._pause(AFTERMATH_S)
                self._mark_server("opening")
        finally:
            self._end()
        self._add_up()
        self._account_for_the_dead()
        outcome.phase = "done"
        return outcome

    # -- phases ------------------------------------------------------------------------------------

    def _start(self) -> None:
        for index in range(self.plan.processes):
            client = _Client(self.plan, index)
            self._clients.append(client)
            self._selector.register(client.stdout, selectors.EVENT_READ, client)
        self._overflows_before = probe.listen_overflows()

    def _measure(self) -> None:
        """The mode's own phase: its warm-up, then the window whose ends the server's CPU time is
        read at.
        """
        plan, outcome = self.plan, self.outcome
        run_s = self._order("run")
        outcome.phase = "warming up"
        self._until_time(run_s + plan.warmup_s)
        self._mark_server("warm-up")
        outcome.phase = "measuring" if plan.mode != "hold" else "holding"
        self._until_time(run_s + plan.warmup_s + plan.duration_s)
        self._mark_server("measuring")
        outcome.phase = "ending"

    def _order(self, what: str) -> float:
        """Tell all processes to do something at one moment; that moment."""
        at_s = time.monotonic() + LEAD_S + LEAD_PER_PROCESS_S * len(self._clients)
        for client in self._clients:
            client.tell({"do": what, "at": at_s})
        return at_s

    def _mark_server(self, phase: str) -> None:
        """Book the CPU time that the server used since the last mark to `phase`, and its memory
        now.
        """
        if not self._server_pids:
            return
        now = probe.usage(self._server_pids).cpu_s
        if phase:
            self.outcome.server_cpu_s[phase] = now - self._cpu_mark
        self._cpu_mark = now
        memory = probe.memory_octets(self._server_pids)
        if memory is not None:
            self.outcome.server_memory[phase or "before"] = memory

    # -- waiting -----------------------------------------------------------------------------------

    def _until(
        self, condition: Callable[[_Client], bool], *, limit_s: float = float("inf")
    ) -> None:
        """Listen until `condition` holds for every process that lives."""
        deadline_s = time.monotonic() + limit_s
        while not all(client.done or condition(client) for client in self._clients):
            if self._stopping_s and time.monotonic() > self._stopping_s + STOP_LIMIT_S:
                return
            if time.monotonic() > deadline_s:
                raise StormError(f"the client processes did not start within {limit_s:.0f} s")
            self._listen(TICK_S)

    def _until_time(self, at_s: float) -> None:
        while not self._stopping_s and (left_s := at_s - time.monotonic()) > 0:
            if all(client.done for client in self._clients):
                return
            self._listen(min(TICK_S, left_s))

    def _pause(self, for_s: float) -> None:
        end_s = time.monotonic() + for_s
        while (left_s := end_s - time.monotonic()) > 0:
            self._listen(left_s)

    def _listen(self, wait_s: float) -> None:
        """Take in what the processes say for up to `wait_s`, at least one sample's time after the
        last.
        """
        end_s = time.monotonic() + wait_s
        while True:
            if not self._selector.get_map():
                time.sleep(max(0.0, end_s - time.monotonic()))
            for key, _ in self._selector.select(max(0.0, end_s - time.monotonic())):
                if not key.data.listen():
                    self._selector.unregister(key.fileobj)
            if time.monotonic() >= end_s or all(client.done for client in self._clients):
                break
        self._sample()

    def _sample(self) -> None:
        outcome = self.outcome
        if not outcome.started_s:
            return
        self._add_up()
        queue = probe.accept_queue(self._addresses) if self._local else None
        outcome.queue_seen = outcome.queue_seen or queue is not None
        overflows = probe.listen_overflows() if self._local else None
        tally = outcome.tally
        outcome.samples.append(
            Sample(
                at_s=max(0.0, time.monotonic() - outcome.started_s),
                attempted=tally.attempted,
                opened=tally.opened,
                failed=tally.failures,
                live=tally.live,
                messages=tally.messages,
                queue=queue.depth if queue else None,
                overflows=None if overflows is None else overflows - (self._overflows_before or 0),
            )
        )
        if self._on_tick is not None:
            self._on_tick(outcome)

    @property
    def _local(self) -> bool:
        return self.plan.uses_loopback

    # -- totals ------------------------------------------------------------------------------------

    def _add_up(self) -> None:
        """Make the outcome's totals from what each process said last."""
        outcome = self.outcome
        outcome.tally, outcome.opening, outcome.round_trips = Tally(), Histogram(), Histogram()
        outcome.measured = outcome.rounds = 0
        outcome.client_cpu_s = outcome.window_s = 0.0
        for client in self._clients:
            if (last := client.last) is None:
                continue
            outcome.tally.add(last["tally"])
            outcome.opening.merge(last["opening"])
            outcome.round_trips.merge(last["round_trips"])
            outcome.measured += last["measured"]
            outcome.rounds += last["rounds"]
            outcome.client_cpu_s += last["cpu_s"]
            if len(last["window"]) == 2:
                outcome.window_s = max(outcome.window_s, last["window"][1] - last["window"][0])

    def _account_for_the_dead(self) -> None:
        """A client process that ended early leaves attempts without an outcome: they failed on this
        side.
        """
        for client in self._clients:
            if client.last is None or client.last["phase"] != "done":
                code = client.process.returncode
                self.outcome.dead_processes.append(
                    f"client process {client.index} ended early, exit code {code}"
                )
        pending = self.outcome.tally.pending
        if pending:
            self.outcome.tally.failed["local"] += pending
            self.outcome.tally.details["local: the client process ended early"] += pending

    def _end(self) -> None:
        """No client process is left behind, whatever happened."""
        for client in self._clients:
            if not client.done:
                client.process.terminate()
            client.stdin.close()
        for client in self._clients:
            try:
                client.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                client.process.kill()
                client.process.wait()
            client.stdout.close()
        self._selector.close()
