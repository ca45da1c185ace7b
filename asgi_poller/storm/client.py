"""The engine of one client process: dials, asks, judges the answers and keeps the deadlines, on one
epoll loop.

Raw sockets and a table of handlers, one per descriptor, each a bound method of what the socket is
at this moment: `Attempt.connecting` → `Attempt.shaking` (TLS only) → `Attempt.answering` → whatever
the mode made of the open channel.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from asgi_poller.storm.handshake import AnswerBroken, AnswerRefused, Judge, request
from asgi_poller.storm.plan import Plan
from asgi_poller.storm.sockets import (
    CAUSE_OF_ERRNO,
    WOULD_BLOCK,
    named,
    open_socket,
    tls_context,
)
from asgi_poller.storm.stats import Histogram, Tally

Handler = Callable[[int], None]

BUFFER_OCTETS = 1 << 20
EVENTS_PER_TURN_COUNT = 1024
NO_LIMIT_COUNT = 1 << 62
# A read of so many octets of whole messages is compared with what it should be; a longer one is
# parsed.
STREAM_OCTETS = 1 << 18
# How long a channel that we close with a close frame may take to answer before its socket is
# dropped.
CLOSING_LIMIT_S = 5.0

# Causes that say little by themselves: what exactly went wrong is counted too.
DETAILED_CAUSES = frozenset(("local", "protocol", "tls"))


class Keeper(Protocol):
    """What a mode does with open channels; called on the engine's thread."""

    def opened(self, sock: socket.SocketType, rest: bytes, *, deflated: bool) -> None:
        """Take over `sock`, which has `rest` received already; the handler table still has its last
        handler.
        """


class Engine:
    """One client process's connections. Owned by that process's only thread; times are monotonic
    nanoseconds.
    """

    def __init__(self, plan: Plan, *, index: int, room: int) -> None:
        self.plan = plan
        self.tally = Tally()
        self.opening = Histogram()
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.buffer = bytearray(BUFFER_OCTETS)
        self.view = memoryview(self.buffer)
        self.keeper: Keeper | None = None
        self.closing: deque[tuple[int, socket.SocketType]] = deque()
        self._index = index
        self._room = room
        self._under_way_limit = -(-plan.concurrency // plan.processes) or NO_LIMIT_COUNT
        self._unsettled = 0
        self.request = request(plan)
        self.judge = Judge(deflate_offered=plan.deflate)
        self._timeout_ns = int(plan.timeout_s * 1e9)
        self._under_way: deque[Attempt] = deque()
        self._streams: dict[bytes, bytes] = {}
        self.tls = tls_context(plan) if plan.tls else None

    # -- the loop ----------------------------------------------------------------------------------

    def turn(self, wait_s: float) -> None:
        """Handle events, waiting `wait_s` at most for them; then end what has taken too long."""
        handlers = self.handlers
        for fd, event in self.epoll.poll(wait_s, EVENTS_PER_TURN_COUNT):
            handler = handlers.get(fd)
            if handler is not None:
                handler(event)
        if self._under_way or self.closing:
            self._sweep(time.monotonic_ns())

    def watch(self, sock: socket.SocketType, events: int, handler: Handler) -> None:
        """Call `handler` for `events` on a socket that is not watched yet."""
        fd = sock.fileno()
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def close(self, sock: socket.SocketType) -> None:
        """Close a watched socket; epoll forgets a descriptor that is closed."""
        self.forget(sock.fileno())
        sock.close()

    def forget(self, fd: int) -> None:
        """A watched descriptor is ours no longer."""
        if self.handlers.pop(fd, None) is not None:
            self.tally.live -= 1

    def close_after_answer(self, sock: socket.SocketType, frame: bytes) -> None:
        """Send a close frame and close when the server has, or after CLOSING_LIMIT_S (RFC 6455,
        7.1.1).
        """

        def ready(_: int) -> None:
            try:
                if sock.recv_into(self.view):
                    return
            except WOULD_BLOCK:
                return
            except OSError:
                pass  # it is closed, whichever way: our own outcome stands
            self.close(sock)

        try:
            sock.send(frame)
        except OSError:
            self.close(sock)  # nothing to wait for on a connection that takes no octets
            return
        fd = sock.fileno()
        self.handlers[fd] = ready
        self.epoll.modify(fd, select.EPOLLIN)
        self.closing.append((time.monotonic_ns() + int(CLOSING_LIMIT_S * 1e9), sock))

    def stream_of(self, message: bytes) -> bytes:
        """`message` many times over: what a read of whole messages is the beginning of. Shared by
        channels.
        """
        stream = self._streams.get(message)
        if stream is None:
            stream = message * max(1, STREAM_OCTETS // len(message))
            self._streams[message] = stream
        return stream

    def _sweep(self, now_ns: int) -> None:
        under_way, limit_ns = self._under_way, now_ns - self._timeout_ns
        while under_way and (under_way[0].settled or under_way[0].began_ns <= limit_ns):
            attempt = under_way.popleft()
            if not attempt.settled:
                attempt.fail("timeout")
        while self.closing and (self.closing[0][1].fileno() < 0 or self.closing[0][0] <= now_ns):
            self.close(self.closing.popleft()[1])

    def next_deadline_s(self) -> float:
        """Seconds until something may be overdue; an hour where nothing can be."""
        first = self._under_way[0].began_ns + self._timeout_ns if self._under_way else None
        times = [
            at for at in (first, self.closing[0][0] if self.closing else None) if at is not None
        ]
        return max(0.0, (min(times) - time.monotonic_ns()) / 1e9) if times else 3600.0

    # -- attempts ----------------------------------------------------------------------------------

    def dial_up_to(self, due: int) -> None:
        """Begin attempts until `due` have been begun in all, or no more descriptors may be had for
        now.
        """
        tally = self.tally
        if not tally.first_dial_s and tally.attempted < due:
            tally.first_dial_s = time.monotonic()
        while tally.attempted < due:
            if self._unsettled >= self._under_way_limit:
                return
            if tally.live >= self._room:
                tally.throttled = 1
                return
            self._dial()

    def _dial(self) -> None:
        plan, tally = self.plan, self.tally
        number = tally.attempted * plan.processes + self._index
        tally.attempted += 1
        began_ns = time.monotonic_ns()
        try:
            sock = open_socket(plan, number)
        except OSError as error:
            self.count_failure("local", named(error.errno))
            return
        Attempt(self, sock, began_ns).connect()

    def began(self, attempt: Attempt) -> None:
        """An attempt has a watched socket and a deadline."""
        self.tally.live += 1
        self._unsettled += 1
        self._under_way.append(attempt)

    def settle(self, attempt: Attempt) -> None:
        """An attempt that had begun has its outcome."""
        attempt.settled = True
        self._unsettled -= 1

    def count_failure(self, cause: str, detail: str = "") -> None:
        """One attempt has failed."""
        self.tally.failed[cause] += 1
        if detail and cause in DETAILED_CAUSES:
            self.tally.details[f"{cause}: {detail}"] += 1
        self.tally.last_outcome_s = time.monotonic()

    def stop(self) -> None:
        """Give every attempt that is under way its outcome: interrupted."""
        for attempt in self._under_way:
            if not attempt.settled:
                attempt.fail("interrupted")
        self._under_way.clear()


class Attempt:
    """One connection until it is open or has failed; `settled` then."""

    __slots__ = ("_engine", "_received", "_sock", "began_ns", "settled")

    def __init__(self, engine: Engine, sock: socket.SocketType, began_ns: int) -> None:
        self._engine = engine
        self._sock = sock
        self._received = b""
        self.began_ns = began_ns
        self.settled = False

    def connect(self) -> None:
        """Send the SYN. On loopback the connection stands when connect() returns, so the request
        goes out at once.
        """
        engine, sock = self._engine, self._sock
        code = sock.connect_ex(engine.plan.address)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self.settled = True
            engine.count_failure(CAUSE_OF_ERRNO.get(code, "local"), named(code))
            return
        engine.began(self)
        if engine.tls is None:
            try:
                sent = sock.send(engine.request)
            except WOULD_BLOCK:
                pass  # the SYN is not answered yet
            except OSError as error:
                engine.handlers[sock.fileno()] = self.connecting
                self._fail_with(error)
                return
            else:
                engine.watch(sock, select.EPOLLIN, self.answering)
                self._check_sent(sent)
                return
        engine.watch(sock, select.EPOLLOUT, self.connecting)

    def connecting(self, _: int) -> None:
        """Writable: the connection stands, or it has failed."""
        engine = self._engine
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.fail(CAUSE_OF_ERRNO.get(code, "local"), named(code))
        elif engine.tls is not None:
            self._wrap(engine.tls)
        else:
            self._ask()

    def _wrap(self, context: ssl.SSLContext) -> None:
        fd = self._sock.detach()
        plain = socket.socket(fileno=fd)
        plain.setblocking(False)
        self._sock = plain
        name = self._engine.plan.host
        try:
            self._sock = context.wrap_socket(
                plain, server_hostname=name, do_handshake_on_connect=False
            )
        except (OSError, ValueError) as error:
            # The server has closed already; wrap_socket() has taken the descriptor and closed it.
            self._engine.settle(self)
            self._engine.count_failure("tls", str(error))
            self._engine.forget(fd)
            plain.close()
            return
        self._engine.handlers[fd] = self.shaking
        self.shaking(0)

    def shaking(self, _: int) -> None:
        """The TLS handshake (RFC 8446, 2) takes its next step."""
        sock = self._sock
        assert isinstance(sock, ssl.SSLSocket)
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._engine.epoll.modify(sock.fileno(), select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._engine.epoll.modify(sock.fileno(), select.EPOLLOUT)
        except ssl.SSLError as error:
            self.fail("tls", getattr(error, "verify_message", "") or str(error.reason))
        except OSError as error:
            self._fail_with(error)
        else:
            self._ask()

    def _ask(self) -> None:
        engine, sock = self._engine, self._sock
        try:
            sent = sock.send(engine.request)
        except WOULD_BLOCK:
            return
        except OSError as error:
            self._fail_with(error)
            return
        fd = sock.fileno()
        engine.handlers[fd] = self.answering
        engine.epoll.modify(fd, select.EPOLLIN)
        self._check_sent(sent)

    def _check_sent(self, sent: int) -> None:
        if sent != len(self._engine.request):
            self.fail("local", "the send buffer does not take one request")

    def answering(self, _: int) -> None:
        """Readable: the server's answer, or a part of it, or its end."""
        engine, sock = self._engine, self._sock
        try:
            size = sock.recv_into(engine.view)
        except WOULD_BLOCK:
            return
        except OSError as error:
            self._fail_with(error)
            return
        if not size:
            self.fail("closed")
            return
        received = self._received + engine.view[:size]
        judge = engine.judge
        try:
            rest = judge.verdict(received)
        except AnswerRefused as refusal:
            engine.tally.statuses[str(refusal.status)] += 1
            self.fail("status")
            return
        except AnswerBroken as broken:
            self.fail("protocol", str(broken))
            return
        if rest is None:
            self._received = received
            return
        self._open(rest, deflated=judge.deflated)

    def _open(self, rest: bytes, *, deflated: bool) -> None:
        engine = self._engine
        now_ns = time.monotonic_ns()
        tally = engine.tally
        tally.opened += 1
        tally.deflated += deflated
        tally.last_outcome_s = now_ns / 1e9
        engine.opening.record(now_ns - self.began_ns)
        engine.settle(self)
        assert engine.keeper is not None
        engine.keeper.opened(self._sock, rest, deflated=deflated)

    def _fail_with(self, error: OSError) -> None:
        self.fail(CAUSE_OF_ERRNO.get(error.errno or 0, "local"), named(error.errno))

    def fail(self, cause: str, detail: str = "") -> None:
        """Count this attempt as failed by `cause` and close its socket."""
        self._engine.settle(self)
        self._engine.count_failure(cause, detail)
        self._engine.close(self._sock)
