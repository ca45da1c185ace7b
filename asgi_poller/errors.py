"""Every error this package raises on purpose, in one tree.

    AsgiPollerError
    ├── PeerFault                 the other side broke a rule: it is answered; no failure of ours
    │   ├── HttpFault             answered with an HTTP status (RFC 9110, 15)
    │   ├── WebSocketFault        answered with a close code (RFC 6455, 7.4.1)
    │   ├── Http2Fault            answered with GOAWAY (RFC 9113, 5.4.1)
    │   └── ProxyProtocolFault    a malformed or forbidden PROXY header: the connection is closed
    ├── ApplicationFault          the application broke the ASGI specification: a RuntimeError
    ├── ClientDisconnected        send() after the peer has left: an OSError, as ASGI wants it
    ├── ResponseBroken            a response of ours that cannot be completed: a line in the log
    ├── TopicsUnavailable         what joins the topics of processes and machines cannot be reached
    ├── FellBehind                a reader of topics was to end rather than to lose messages
    └── OperatorFault             a setting or the system is wrong: one line with the fix
        ├── ConfigError           an option's value
        ├── ListenError           an address that cannot be listened on
        ├── StartupError          the application cannot be loaded or its lifespan failed
        └── StatusError           a running server cannot be found, or does not say how it is

`exit_code` is what the process ends with when an OperatorFault reaches the command line.
"""

from __future__ import annotations

EXIT_NOTE = "This ends what the application was called for, not the server."
"""Put on a SystemExit or KeyboardInterrupt that an application raised, by those who have taken note
of it.
"""


class AsgiPollerError(Exception):
    """The root of the tree."""


class PeerFault(AsgiPollerError):
    """The peer broke a rule. Subclasses carry what to answer with."""


class HttpFault(PeerFault):
    """A request that is refused with `status` (an HTTP status code); `detail` is safe to show the
    peer. `headers` are what such an answer has besides, `name` what it is counted under (one of
    metrics.refusals.REFUSALS; None: the status).
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.headers = headers
        self.name = name


class WebSocketFault(PeerFault):
    """What ends a WebSocket with close `code` and `reason` (RFC 6455, 7.4.1)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Http2Fault(PeerFault):
    """What ends an HTTP/2 connection with error `code` (RFC 9113, 7); `reason` is safe to show the
    peer. `name` is what it is counted under (one of metrics.refusals.REFUSALS; None: not at all).
    """

    def __init__(self, code: int, reason: str, *, name: str | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.name = name


class ProxyProtocolFault(PeerFault):
    """A PROXY protocol header that is malformed, or comes from a peer that may not send one."""


class ApplicationFault(AsgiPollerError, RuntimeError):
    """The application sent an ASGI message that the specification does not allow here."""


class ClientDisconnected(AsgiPollerError, OSError):
    """Raised from `send()` once the peer has left (ASGI: Disconnected Client)."""


class ResponseBroken(AsgiPollerError):
    """A response that the server itself began and cannot complete; the text is what is logged."""


class TopicsUnavailable(AsgiPollerError, ConnectionError):
    """A publication or subscription that cannot reach other processes or machines now."""


class FellBehind(AsgiPollerError, RuntimeError):
    """A reader of topics (slow="close") has not read, and messages that it lacks are gone."""


class OperatorFault(AsgiPollerError):
    """Something that the person who started the server must change. Shown as one line."""

    exit_code = 1


class ConfigError(OperatorFault):
    """A wrong option: `option` is its name as on the command line, `problem` says what is wrong and
    how to mend it.
    """

    exit_code = 2

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem


class ListenError(OperatorFault):
    """An address that cannot be bound or listened on."""

    exit_code = 1


class StartupError(OperatorFault):
    """The application could not be loaded, or its lifespan start-up failed (exit code 3, as
    uvicorn's).
    """

    exit_code = 3


class StatusError(OperatorFault):
    """A running server that `asgi-poller status` cannot find or read."""
