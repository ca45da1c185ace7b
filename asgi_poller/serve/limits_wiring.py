"""What stands between accept() and the lanes: limits, PROXY headers, and who reads request heads,
put together as the configuration says. Where nothing is asked for there is nothing.
"""

from __future__ import annotations

import os
from typing import Any

from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.handoff.connection_table import CAPACITY_COUNT, TicketBoard
from asgi_poller.loops.accepted_socket import Accepted, ListenerInfo
from asgi_poller.loops.request_filter import request_rules
from asgi_poller.loops.settings import connection_settings
from asgi_poller.pollers.connection_limits import Admission, AdmissionLimits, make_admission
from asgi_poller.pollers.head_reader import ReceptionRules
from asgi_poller.pollers.master_poller import Admit
from asgi_poller.pollers.pool import FrontEnd
from asgi_poller.pollers.rate_limit import Turnstile

_POSIX = os.name == "posix"


class AdmissionDoor:
    """The door of cores in the pollers' process: they count exactly. Any thread."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.end = admission.end

    def open_channel(self, ticket: int) -> bool:
        return ticket < 0 or self._admission.open_channel(ticket) is None

    def identify(self, ticket: int, peer: Any) -> bool:
        return self._admission.identify(ticket, peer) is None


class BoardDoor:
    """The door of cores in workers: ends cross to the pollers' process, questions do not. Those are
    the reception's, or a core's share. Any thread.
    """

    def __init__(self, board: TicketBoard) -> None:
        self.end = board.end

    def open_channel(self, ticket: int) -> bool:
        return True

    def identify(self, ticket: int, peer: Any) -> bool:
        return True


class Gate:
    """Made before the front end, which gets `admit`, `end_ticket` and `reception`; `start` before
    the front end, `stop` after it. `workers`: cores are in other processes.
    """

    def __init__(
        self, config: Config, listeners: tuple[ListenerInfo, ...], *, workers: bool
    ) -> None:
        limits = admission_limits(config)
        trusted = TrustedHosts(config.forwarded_allow_ips)
        board = None
        if workers and limits:
            board = TicketBoard(limits.limit_connections or CAPACITY_COUNT, inheritable=True)
        self.admission = make_admission(limits, exempt=trusted, board=board)
        self._turnstile: Turnstile | None = None
        if self.admission is not None:
            self._turnstile = Turnstile(
                self.admission, limits, listeners, stamp=_stamp, ticket_of=_ticket_of
            )
        self.reception: ReceptionRules | None = None
        if reads_heads(config, workers=workers):
            settings = connection_settings(config)
            self.reception = ReceptionRules(
                limits=settings.head_limits,
                first_octet_s=settings.first_octet_timeout_s,
                timeout_s=settings.header_timeout_s,
                rules=request_rules(config),
                ws_enabled=settings.ws_enabled,
                proxies=trusted if config.proxy_protocol else None,
                admission=self.admission,
            )

    @property
    def admit(self) -> Admit | None:
        """For the front end: decides on each connection."""
        return self._turnstile

    def end_ticket(self, ticket: int) -> None:
        """For whoever closes a connection that no core has. Any thread."""
        if self.admission is not None:
            self.admission.end(ticket)

    def start(self, front_end: FrontEnd) -> None:
        """Let go on what is held back, at its rate."""
        if self._turnstile is not None:
            self._turnstile.start(front_end.receive)

    def stop(self) -> None:
        """Close what is held back. Idempotent."""
        if self._turnstile is not None:
            self._turnstile.stop()


def admission_limits(config: Config) -> AdmissionLimits:
    """The part of the configuration that limits connections."""
    return AdmissionLimits(
        limit_connections=config.limit_connections,
        limit_connections_per_ip=config.limit_connections_per_ip,
        limit_channels=config.limit_channels,
        limit_accept_rate=config.limit_accept_rate,
        limit_pending=config.limit_pending,
    )


def reads_heads(config: Config, *, workers: bool) -> bool:
    """`--direct-handshake`. Not said: only where workers could not keep a limit otherwise, which
    must be counted in one process and needs the request's head, or the PROXY header before it.

    Raises ConfigError where a system cannot do it.
    """
    wanted = config.direct_handshake
    if wanted and not _POSIX:
        raise ConfigError("--direct-handshake", "not on this system; leave it out")
    if wanted is not None:
        return wanted
    by_client = config.proxy_protocol and config.limit_connections_per_ip is not None
    return _POSIX and workers and (config.limit_channels is not None or by_client)


def _stamp(accepted: Accepted, ticket: int) -> Accepted:
    return accepted._replace(ticket=ticket)


def _ticket_of(accepted: Accepted) -> int:
    return accepted.ticket
