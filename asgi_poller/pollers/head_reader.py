"""Direct handshake: a poller reads request heads itself, so that a loop sees complete ones only.

Each poller has a head reader of its own, for connections whose head is not complete yet: its
clients. They hang on the poller's own waiter and have two deadlines: `--timeout-first-octet` from
accept on, then `--timeout-request-header`, PROXY header included. What happens to a client:

    its head is complete    handed over, with every byte that was read. A loop of this process gets
                            the parser, too, and goes on with what it holds; one of another process
                            parses the same bytes again
    broken, or too large    answered (400, 414, 431, 501, 505) and closed
    not for us              answered: 400 for its Host, 403 for its Origin, 413 for its body, 503
                            for a WebSocket over the limit, 429 for a client that a proxy names
    too late                408; closed without a word if there was not one octet of a head
    a bad PROXY header      closed without a word
    gone                    forgotten
    an error of ours        answered 400 and closed; logged, and nobody else's business

Those that are answered go to the poller's rejector. TLS connections pass through untouched.
Clients hold a descriptor and up to `--limit-request-head` bytes each; `--limit-connections` and
`--limit-connections-per-ip` say how many there may be.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.asgi.refusal_log import NO_PROXY_HEADER
from asgi_poller.config import Config
from asgi_poller.errors import HttpFault, ProxyProtocolFault
from asgi_poller.handoff.connection_table import TICKET_NONE
from asgi_poller.handoff.exception_log import ExceptionLog
from asgi_poller.handoff.thread_lane import EndTicket, drop, say_last
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.loops.request_filter import RequestFilter, head_limits
from asgi_poller.pollers.connection_limits import ConnectionLimits, Refusal
from asgi_poller.pollers.epoll_waiter import Waiter
from asgi_poller.pollers.rejector import Rejected, Rejector, over_limit
from asgi_poller.protocols.http1.parser import RequestHead, RequestParser
from asgi_poller.protocols.http2.frames import PREFACE
from asgi_poller.protocols.proxy_protocol import V1_SIGNATURE, V2_SIGNATURE, parse
from asgi_poller.settings.http2 import ONLY_HTTP2, is_http2_spoken

_READ_BYTES = 65536
# A lane's message has room for twice as much. A head that is longer, where the limit permits it,
# goes to the loop as it is: incomplete.
_READ_LIMIT_BYTES = 131072


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReaderSettings:
    """What is asked of a client: `config`, and what was made of it. Immutable: any thread.

    `proxies` send PROXY headers (None: that is off). `hands_parser`: the loops are in this process,
    and go on with the parser.
    """

    config: Config
    rules: RequestFilter
    proxies: TrustedHosts | None = None
    connection_limits: ConnectionLimits | None = None
    hands_parser: bool = False


class _Client:
    __slots__ = (
        "accepted",
        "data",
        "deadline",
        "has_preamble",
        "is_parsed",
        "is_parsing",
        "parser",
        "unparsed_from",
    )

    def __init__(self, accepted: Accepted, parser: RequestParser, deadline: float) -> None:
        self.accepted = accepted
        self.parser = parser
        self.data = b""
        self.unparsed_from = 0  # in `data`: what comes before is a preamble, or has been parsed
        self.deadline = deadline
        self.has_preamble = False  # a PROXY header is still to come
        self.is_parsing = False  # the parser has got something
        self.is_parsed = False  # the parser has read all of it, and the head is there


class HeadReader:
    """Owned by one poller's thread."""

    def __init__(
        self,
        rules: HeadReaderSettings,
        listeners: Sequence[ListenerInfo],
        waiter: Waiter,
        rejector: Rejector,
        *,
        end_ticket: EndTicket | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._limits = head_limits(rules.config)
        self._has_websockets = rules.config.ws != "none"
        self._has_http2 = is_http2_spoken(rules.config.http)
        self._listeners = listeners
        self._waiter = waiter
        self._rejector = rejector
        self._end_ticket = end_ticket
        self._clock = clock
        self._exception_log = ExceptionLog(clock)
        # each with the earliest deadline first
        self._silent: OrderedDict[int, _Client] = OrderedDict()
        self._reading: OrderedDict[int, _Client] = OrderedDict()  # not silent any more

    def __len__(self) -> int:
        """Clients that are waited for."""
        return len(self._silent) + len(self._reading)

    def take(self, batch: list[Accepted]) -> list[Accepted]:
        """Receive new connections; returns those that may go on at once."""
        ready = []
        deadline = self._clock() + self._rules.config.timeout_first_octet
        for accepted in batch:
            try:
                answer = self._receive(accepted, deadline)
            except Exception:
                self._fail(accepted)
                continue
            if answer is not None:
                ready.append(answer)
        return ready

    def on_readable(self, fd: int) -> Accepted | None:
        """Read from a client; returns it if it may go on."""
        client = self._silent.get(fd) or self._reading.get(fd)
        if client is not None:
            try:
                return self._read(client)
            except Exception:
                self._fail(client.accepted)
        return None

    def next_s(self) -> float | None:
        """Seconds until a deadline; None: there is none."""
        deadlines = [
            next(iter(pending_heads.values())).deadline
            for pending_heads in (self._silent, self._reading)
            if pending_heads
        ]
        return max(0.0, min(deadlines) - self._clock()) if deadlines else None

    def tend(self) -> None:
        """Do what deadlines ask for."""
        now = self._clock()
        while self._silent:
            client = next(iter(self._silent.values()))
            if client.deadline > now:
                break
            self._rejector.refusals.count("silent")
            self._close(client)
        while self._reading:
            client = next(iter(self._reading.values()))
            if client.deadline > now:
                break
            try:
                self._give_up(client)
            except Exception:
                self._fail(client.accepted)

    def finish(self) -> list[Accepted]:
        """The poller ends: returns the clients as they are, for their loops to wait for."""
        waiting = [*self._silent.values(), *self._reading.values()]
        pending_heads = [client.accepted._replace(data=client.data) for client in waiting]
        for client in waiting:
            self._waiter.forget(client.accepted.fd)
            client.parser.close()
        self._silent.clear()
        self._reading.clear()
        return pending_heads

    # A client

    def _receive(self, accepted: Accepted, deadline: float) -> Accepted | None:
        """A new connection: returns it if it may go on at once."""
        if self._listeners[accepted.listener].tls:
            return accepted
        client = _Client(
            accepted, RequestParser(self._limits, websockets=self._has_websockets), deadline
        )
        proxies = self._rules.proxies
        client.has_preamble = proxies is not None and _host(accepted) in proxies
        return self._read(client)

    def _read(self, client: _Client) -> Accepted | None:
        fd = client.accepted.fd
        try:
            piece = os.read(fd, min(_READ_BYTES, _READ_LIMIT_BYTES - len(client.data)))
        except BlockingIOError:
            self._wait_for(client)
            return None
        except OSError:
            piece = b""  # reset
        if not piece:
            self._close(client)
            return None
        try:
            is_ready = self._take_in(client, piece)
        except Rejected as rejected:
            self._reject(client, rejected)
            return None
        except ProxyProtocolFault:
            self._rejector.note(client.accepted, NO_PROXY_HEADER, "proxy_protocol")
            self._close(client)
            return None
        if not is_ready:
            self._wait_for(client)
            return None
        if self._remove(fd):
            self._waiter.forget(fd)
        if client.is_parsed and self._rules.hands_parser:
            return _with_head(client, client.parser)
        client.parser.close()
        return _with_head(client, None)

    def _wait_for(self, client: _Client) -> None:
        """Keep a client until more arrives, or its time is over."""
        fd = client.accepted.fd
        if fd in self._reading:
            return
        if fd not in self._silent:
            self._waiter.watch(fd, shared=False)
            self._silent[fd] = client
        if client.data:
            del self._silent[fd]
            client.deadline = self._clock() + self._rules.config.timeout_request_header
            self._reading[fd] = client

    def _remove(self, fd: int) -> bool:
        """Keep a client no longer; whether it was kept, and is watched."""
        return (self._silent.pop(fd, None) or self._reading.pop(fd, None)) is not None

    def _take_in(self, client: _Client, piece: bytes) -> bool:
        """Whether the client may go on. Raises Rejected, ProxyProtocolFault."""
        client.data = client.data + piece if client.data else piece
        if client.has_preamble:
            header = parse(client.data)
            if header is None:
                return False
            client.has_preamble = False
            if header.source is not None:
                self._identify(client, header.source)
            client.unparsed_from = header.consumed_bytes
        piece = client.data[client.unparsed_from :]
        if not piece:
            return False
        if self._has_http2 and not client.is_parsing:
            if piece.startswith(PREFACE):
                return True  # the loop goes on with it: a poller can judge no HTTP/2
            if PREFACE.startswith(piece):
                return False
            if self._rules.config.http == "2":
                raise _refusal(HttpFault(505, ONLY_HTTP2))
        client.is_parsing = True
        client.unparsed_from = len(client.data)
        parser = client.parser
        try:
            events = parser.receive(piece)
        except HttpFault as fault:
            if not parser.events:
                if self._rules.proxies is not None and _is_header(client.data):
                    raise ProxyProtocolFault("from a peer that is no proxy of ours") from fault
                raise _refusal(fault) from fault
            events = parser.events  # what is broken comes later: the loop parses it then
        else:
            client.is_parsed = bool(events)
        if not events:
            return len(client.data) >= _READ_LIMIT_BYTES
        head = events[0]
        assert isinstance(head, RequestHead)  # the first event of a connection
        self._judge(client, head)
        return True

    def _judge(self, client: _Client, head: RequestHead) -> None:
        rules = self._rules
        is_websocket = self._has_websockets and head.upgrade == b"websocket"
        try:
            if is_websocket:
                rules.rules.check_websocket(head)
            else:
                rules.rules.check(head)
        except HttpFault as fault:
            raise _refusal(fault) from fault
        ticket = client.accepted.ticket
        if is_websocket and rules.connection_limits is not None and ticket >= 0:
            refusal = rules.connection_limits.open_websocket(ticket)
            if refusal is not None:
                raise over_limit(refusal)

    def _identify(self, client: _Client, peer: tuple[str, int]) -> None:
        connection_limits, ticket = self._rules.connection_limits, client.accepted.ticket
        if connection_limits is None or ticket < 0:
            return
        refusal: Refusal | None = connection_limits.identify(ticket, peer)
        if refusal is not None:
            raise over_limit(refusal)

    # The end of one

    def _give_up(self, client: _Client) -> None:
        """Its time is over."""
        if client.parser.is_mid_head:
            fault = HttpFault(408, "the request head did not come in time")
            self._reject(client, _refusal(fault))
        else:
            self._rejector.refusals.count("silent")
            self._close(client)

    def _fail(self, accepted: Accepted) -> None:
        """Whatever went wrong with one client, and wherever: it alone ends, and is counted as
        `error`. The others of its batch have done nothing.
        """
        self._rejector.refusals.count("error")
        self._exception_log.exception("A connection failed before its hand-over and is closed.")
        fd = accepted.fd
        client = self._silent.pop(fd, None) or self._reading.pop(fd, None)
        self._waiter.forget(fd)
        if client is not None:
            client.parser.close()
        say_last(fd, error_response(400, "the request could not be read"))
        drop(accepted, self._end_ticket)

    def _close(self, client: _Client) -> None:
        """Close without a word."""
        client.parser.close()
        if self._remove(client.accepted.fd):
            self._waiter.forget(client.accepted.fd)
        drop(client.accepted, self._end_ticket)

    def _reject(self, client: _Client, rejected: Rejected) -> None:
        """Answer, and close once the peer has had the time to read that."""
        client.parser.close()
        accepted = client.accepted
        if self._remove(accepted.fd):
            self._waiter.forget(accepted.fd)
        if accepted.ticket >= 0 and self._end_ticket is not None:
            self._end_ticket(accepted.ticket)
        try:
            self._rejector.reject(accepted, rejected)
        except Exception:
            self._fail(accepted._replace(ticket=TICKET_NONE))


def _with_head(client: _Client, parser: RequestParser | None) -> Accepted:
    """Not by _replace(), which costs four times as much."""
    accepted = client.accepted
    fd, listener, peer, _, ticket, accepted_at, _ = accepted
    return Accepted(fd, listener, peer, client.data, ticket, accepted_at, parser)


def _host(accepted: Accepted) -> str | None:
    """What a peer is trusted by: its address, None for a unix socket's."""
    peer = accepted.peer
    return str(peer[0]) if isinstance(peer, tuple) and peer else None


def _is_header(data: bytes) -> bool:
    return data.startswith((V1_SIGNATURE, V2_SIGNATURE))


def _refusal(fault: HttpFault) -> Rejected:
    told = f"{fault.status} {fault.detail}"
    return Rejected(fault.name, error_response(fault.status, fault.detail), told)
