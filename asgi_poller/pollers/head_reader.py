"""Direct handshake: a poller reads request heads itself, so that a core sees complete ones only.

Each poller has a reception of its own, for connections whose head is not complete yet: its guests.
They hang on the poller's own waiter and have two deadlines: `--timeout-first-octet` from accept on,
then `--timeout-request-header`, PROXY header included. What happens to a guest:

    its head is complete    handed over, with every octet that was read: the core parses it again,
                            so that there is one parser's view of the stream and not two
    broken, or too large    answered (400, 414, 431, 501, 505) and closed
    not for us              answered: 400 for its Host, 403 for its Origin, 413 for its body, 503
                            for a WebSocket over the limit, 429 for a client that a proxy names
    too late                408; closed without a word if there was not one octet of a head
    a bad PROXY header      closed without a word
    gone                    forgotten
    an error of ours        answered 400 and closed; logged, and nobody else's business

An answered guest is kept for a moment, until it has read the answer (RFC 9112, 9.6). TLS
connections pass through untouched. Guests hold a descriptor and up to `--limit-request-head` octets
each; how many there may be is what `--limit-connections` and `--limit-connections-per-ip` say.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.asgi.refusal_log import NO_PROXY_HEADER, note_refusal
from asgi_poller.errors import HttpFault, ProxyProtocolFault
from asgi_poller.handoff.exception_log import Trouble
from asgi_poller.handoff.thread_lane import EndTicket, drop, say_last
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.loops.request_filter import RequestRules
from asgi_poller.pollers.connection_limits import Admission, Refusal
from asgi_poller.pollers.epoll_waiter import Waiter
from asgi_poller.pollers.rate_limit import refusal_response, refusal_words
from asgi_poller.protocols.http1.parser import HeadLimits, RequestHead, RequestParser
from asgi_poller.protocols.proxy_protocol import V1_SIGNATURE, V2_SIGNATURE, parse

_READ_OCTETS = 65536
# A lane's message has room for twice as much. A head that is longer, where the limit permits it,
# goes to the core as it is: incomplete.
_GUEST_LIMIT_OCTETS = 131072
# Unit: seconds, guests and octets, as in `turnstile`.
_LEAVE_S = 1.0
_LEAVING_LIMIT_COUNT = 256
_DISCARD_LIMIT_OCTETS = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptionRules:
    """What is asked of a guest. Immutable: any thread.

    `proxies` send PROXY headers (None: that is off). `first_octet_s` and `timeout_s` are in
    seconds: for the first octet, and from it on for the head. `ws_enabled`: upgrades to WebSocket
    are counted as channels.
    """

    limits: HeadLimits
    first_octet_s: float
    timeout_s: float
    rules: RequestRules
    ws_enabled: bool = True
    proxies: TrustedHosts | None = None
    admission: Admission | None = None


class _Guest:
    __slots__ = ("accepted", "data", "deadline", "has_preamble", "parser")

    def __init__(self, accepted: Accepted, parser: RequestParser, deadline: float) -> None:
        self.accepted = accepted
        self.parser = parser
        self.data = b""
        self.deadline = deadline
        self.has_preamble = False  # a PROXY header is still to come


@dataclass(slots=True)
class _Leaving:
    """A guest that has been answered."""

    connection: socket.socket
    deadline: float
    octets_left: int = _DISCARD_LIMIT_OCTETS


class _Refused(Exception):
    """The guest gets `answer` and is closed; counted under `reason`, logged as `told`."""

    def __init__(self, reason: str, answer: bytes, told: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer
        self.told = told


class Reception:
    """Owned by one poller's thread. `turned_away` counts by reason; any thread may read it."""

    def __init__(
        self,
        rules: ReceptionRules,
        listeners: Sequence[ListenerInfo],
        waiter: Waiter,
        *,
        end_ticket: EndTicket | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.turned_away: dict[str, int] = {}
        self._rules = rules
        self._listeners = listeners
        self._waiter = waiter
        self._end_ticket = end_ticket
        self._clock = clock
        self._trouble = Trouble(clock)
        # each with the earliest deadline first
        self._silent: OrderedDict[int, _Guest] = OrderedDict()
        self._guests: OrderedDict[int, _Guest] = OrderedDict()  # not silent any more
        self._leaving: OrderedDict[int, _Leaving] = OrderedDict()

    def __len__(self) -> int:
        """Guests that are waited for."""
        return len(self._silent) + len(self._guests)

    def take(self, batch: list[Accepted]) -> list[Accepted]:
        """Receive new connections; returns those that may go on at once."""
        ready = []
        deadline = self._clock() + self._rules.first_octet_s
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
        """Read from a guest; returns it if it may go on."""
        guest = self._silent.get(fd) or self._guests.get(fd)
        if guest is not None:
            try:
                return self._read(guest)
            except Exception:
                self._fail(guest.accepted)
        elif fd in self._leaving:
            self._discard(fd, self._leaving[fd])
        return None

    def next_s(self) -> float | None:
        """Seconds until a deadline; None: there is none."""
        deadlines = [
            next(iter(guests.values())).deadline
            for guests in (self._silent, self._guests)
            if guests
        ]
        if self._leaving:
            deadlines.append(next(iter(self._leaving.values())).deadline)
        return max(0.0, min(deadlines) - self._clock()) if deadlines else None

    def tend(self) -> None:
        """Do what deadlines ask for."""
        now = self._clock()
        while self._silent:
            guest = next(iter(self._silent.values()))
            if guest.deadline > now:
                break
            self._close(guest, "silent")
        while self._guests:
            guest = next(iter(self._guests.values()))
            if guest.deadline > now:
                break
            try:
                self._give_up(guest)
            except Exception:
                self._fail(guest.accepted)
        while self._leaving:
            fd, leaving = next(iter(self._leaving.items()))
            if leaving.deadline > now:
                break
            self._let_go(fd, leaving)

    def finish(self) -> list[Accepted]:
        """The poller ends: returns the guests as they are, for their cores to wait for."""
        waiting = [*self._silent.values(), *self._guests.values()]
        guests = [guest.accepted._replace(data=guest.data) for guest in waiting]
        for guest in waiting:
            self._waiter.forget(guest.accepted.fd)
            guest.parser.close()
        self._silent.clear()
        self._guests.clear()
        for fd, leaving in list(self._leaving.items()):
            self._let_go(fd, leaving)
        return guests

    # A guest

    def _receive(self, accepted: Accepted, deadline: float) -> Accepted | None:
        """A new connection: returns it if it may go on at once."""
        if self._listeners[accepted.listener].tls:
            return accepted
        guest = _Guest(accepted, RequestParser(self._rules.limits), deadline)
        proxies = self._rules.proxies
        guest.has_preamble = proxies is not None and _host(accepted) in proxies
        return self._read(guest)

    def _read(self, guest: _Guest) -> Accepted | None:
        fd = guest.accepted.fd
        try:
            piece = os.read(fd, min(_READ_OCTETS, _GUEST_LIMIT_OCTETS - len(guest.data)))
        except BlockingIOError:
            self._wait_for(guest)
            return None
        except OSError:
            piece = b""  # reset
        if not piece:
            self._close(guest, "gone")
            return None
        try:
            is_ready = self._take_in(guest, piece)
        except _Refused as refused:
            self._refuse(guest, refused)
            return None
        except ProxyProtocolFault:
            note_refusal(NO_PROXY_HEADER, guest.accepted.peer)
            self._close(guest, "proxy_protocol")
            return None
        if not is_ready:
            self._wait_for(guest)
            return None
        if self._remove(fd):
            self._waiter.forget(fd)
        guest.parser.close()
        return guest.accepted._replace(data=guest.data)

    def _wait_for(self, guest: _Guest) -> None:
        """Keep a guest until more arrives, or its time is over."""
        fd = guest.accepted.fd
        if fd in self._guests:
            return
        if fd not in self._silent:
            self._waiter.watch(fd, shared=False)
            self._silent[fd] = guest
        if guest.data:
            del self._silent[fd]
            guest.deadline = self._clock() + self._rules.timeout_s
            self._guests[fd] = guest

    def _remove(self, fd: int) -> bool:
        """Keep a guest no longer; whether it was kept, and is watched."""
        return (self._silent.pop(fd, None) or self._guests.pop(fd, None)) is not None

    def _take_in(self, guest: _Guest, piece: bytes) -> bool:
        """Whether the guest may go on. Raises _Refused, ProxyProtocolFault."""
        guest.data = guest.data + piece if guest.data else piece
        if guest.has_preamble:
            header = parse(guest.data)
            if header is None:
                return False
            guest.has_preamble = False
            if header.source is not None:
                self._identify(guest, header.source)
            piece = guest.data[header.consumed_octets :]
            if not piece:
                return False
        parser = guest.parser
        try:
            events = parser.receive(piece)
        except HttpFault as fault:
            if not parser.events:
                if self._rules.proxies is not None and _is_header(guest.data):
                    raise ProxyProtocolFault("from a peer that is no proxy of ours") from fault
                raise _refusal(fault) from fault
            events = parser.events  # what is broken comes later: the core says so in its turn
        if not events:
            return len(guest.data) >= _GUEST_LIMIT_OCTETS
        head = events[0]
        assert isinstance(head, RequestHead)  # the first event of a connection
        self._judge(guest, head)
        return True

    def _judge(self, guest: _Guest, head: RequestHead) -> None:
        rules = self._rules
        is_channel = rules.ws_enabled and head.upgrade == b"websocket"
        try:
            if is_channel:
                rules.rules.check_channel(head)
            else:
                rules.rules.check(head)
        except HttpFault as fault:
            raise _refusal(fault) from fault
        ticket = guest.accepted.ticket
        if is_channel and rules.admission is not None and ticket >= 0:
            refusal = rules.admission.open_channel(ticket)
            if refusal is not None:
                raise _turned_away(refusal)

    def _identify(self, guest: _Guest, peer: tuple[str, int]) -> None:
        admission, ticket = self._rules.admission, guest.accepted.ticket
        if admission is None or ticket < 0:
            return
        refusal: Refusal | None = admission.identify(ticket, peer)
        if refusal is not None:
            raise _turned_away(refusal)

    # The end of one

    def _give_up(self, guest: _Guest) -> None:
        """Its time is over."""
        if guest.parser.is_mid_head:
            fault = HttpFault(408, "the request head did not come in time")
            self._refuse(guest, _refusal(fault))
        else:
            self._close(guest, "silent")

    def _fail(self, accepted: Accepted) -> None:
        """Whatever went wrong with one guest, and wherever: it alone ends, and is counted as
        `error`. The others of its batch have done nothing.
        """
        self._count("error")
        self._trouble.exception("A connection failed before its hand-over and is closed.")
        fd = accepted.fd
        leaving = self._leaving.get(fd)
        if leaving is not None:  # it has been refused: its ticket is given back
            self._let_go(fd, leaving)
            return
        guest = self._silent.pop(fd, None) or self._guests.pop(fd, None)
        self._waiter.forget(fd)
        if guest is not None:
            guest.parser.close()
        say_last(fd, error_response(400, "the request could not be read"))
        drop(accepted, self._end_ticket)

    def _count(self, reason: str) -> None:
        self.turned_away[reason] = self.turned_away.get(reason, 0) + 1

    def _close(self, guest: _Guest, reason: str) -> None:
        """Close without a word."""
        self._count(reason)
        guest.parser.close()
        if self._remove(guest.accepted.fd):
            self._waiter.forget(guest.accepted.fd)
        drop(guest.accepted, self._end_ticket)

    def _refuse(self, guest: _Guest, refused: _Refused) -> None:
        """Answer, and close once the peer has had the time to read that."""
        self._count(refused.reason)
        guest.parser.close()
        accepted = guest.accepted
        note_refusal(refused.told, accepted.peer)
        fd = accepted.fd
        if not self._remove(fd):
            self._waiter.watch(fd, shared=False)
        family = self._listeners[accepted.listener].family
        # The last thing that can fail: from here on the descriptor is that object's.
        connection = socket.socket(family, socket.SOCK_STREAM, 0, fd)
        leaving = self._leaving[fd] = _Leaving(connection, self._clock() + _LEAVE_S)
        if accepted.ticket >= 0 and self._end_ticket is not None:
            self._end_ticket(accepted.ticket)
        try:
            connection.send(refused.answer)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already, or never reads
            self._let_go(fd, leaving)
            return
        if len(self._leaving) > _LEAVING_LIMIT_COUNT:
            self._let_go(*next(iter(self._leaving.items())))

    def _discard(self, fd: int, leaving: _Leaving) -> None:
        """An answered guest sends more, or has gone."""
        try:
            octets = len(leaving.connection.recv(_READ_OCTETS))
        except BlockingIOError:
            return
        except OSError:
            octets = 0
        leaving.octets_left -= octets
        if not octets or leaving.octets_left < 0:
            self._let_go(fd, leaving)

    def _let_go(self, fd: int, leaving: _Leaving) -> None:
        del self._leaving[fd]
        self._waiter.forget(fd)
        with contextlib.suppress(OSError):  # reset by the peer: closed all the same
            leaving.connection.close()


def _host(accepted: Accepted) -> str | None:
    """What a peer is trusted by: its address, None for a unix socket's."""
    peer = accepted.peer
    return str(peer[0]) if isinstance(peer, tuple) and peer else None


def _is_header(data: bytes) -> bool:
    return data.startswith((V1_SIGNATURE, V2_SIGNATURE))


def _turned_away(refusal: Refusal) -> _Refused:
    return _Refused(refusal.value, refusal_response(refusal), refusal_words(refusal))


def _refusal(fault: HttpFault) -> _Refused:
    told = f"{fault.status} {fault.detail}"
    return _Refused(str(fault.status), error_response(fault.status, fault.detail), told)
