"""An HTTP/2 client for tests that need to see frames: h2's own state machine, on a real socket."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.events

from tests.support.client import Client

E = TypeVar("E", bound=h2.events.Event)
Field = tuple[str, str]


class Http2Client:
    """One connection with prior knowledge. Events are kept in `events`; `wait` reads on until one
    is there. Windows are opened by hand, unless `opens_windows`.
    """

    def __init__(self, socket: Client | ssl.SSLSocket, *, opens_windows: bool = True) -> None:
        self.socket = socket
        self.opens_windows = opens_windows
        self.events: list[h2.events.Event] = []
        self.has_ended = False
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings.enable_push = 0
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send what h2 wants to send."""
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def request(
        self,
        path: str = "/",
        method: str = "GET",
        headers: Iterable[Field] = (),
        body: bytes | None = None,
        *,
        ends: bool = True,
    ) -> int:
        """Send a request; its stream. With `ends=False` its body is to come."""
        fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, [*fields, *headers], end_stream=ends and body is None)
        if body is not None:
            self.h2.send_data(stream_id, body, end_stream=ends)
        self.flush()
        return stream_id

    def read(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        data = self.socket.recv(65536)
        if not data:
            self.has_ended = True
            return False
        for event in self.h2.receive_data(data):
            self.events.append(event)
            used = getattr(event, "flow_controlled_length", 0)
            if self.opens_windows and used:
                self.h2.acknowledge_received_data(used, getattr(event, "stream_id", 0))
        self.flush()
        return True

    def of(self, kind: type[E], stream_id: int | None = None) -> list[E]:
        """The events of a kind so far, of one stream."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and (stream_id is None or getattr(event, "stream_id", None) == stream_id)
        ]

    def wait(self, kind: type[E], stream_id: int | None = None) -> E:
        """The first such event, which may be there already. Raises EOFError at the end."""
        self.until(lambda: bool(self.of(kind, stream_id)), kind.__name__)
        return self.of(kind, stream_id)[0]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Read on until it holds."""
        while not condition():
            if not self.read():
                raise EOFError(f"the connection ended before {what}: {self.events}")

    def response(self, stream_id: int) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of a whole response."""
        self.wait(h2.events.StreamEnded, stream_id)
        return self.status(stream_id), self.fields(stream_id), self.body(stream_id)

    def status(self, stream_id: int) -> int:
        """Of a response, whose head is waited for."""
        self.wait(h2.events.ResponseReceived, stream_id)
        return int(self.fields(stream_id)[":status"])

    def fields(self, stream_id: int) -> dict[str, str]:
        """Of a response's head."""
        event: Any = self.of(h2.events.ResponseReceived, stream_id)[0]
        return dict(event.headers)

    def body(self, stream_id: int) -> bytes:
        """What has come of it."""
        return b"".join(event.data for event in self.of(h2.events.DataReceived, stream_id))

    def end_code(self) -> int:
        """The code of the GOAWAY with which the connection ends, which is read to its end."""
        while self.read():
            pass
        code = self.of(h2.events.ConnectionTerminated)[-1].error_code
        assert code is not None
        return int(code)


@contextlib.contextmanager
def http2_client(port: int, **options: Any) -> Iterator[Http2Client]:
    """Connected meanwhile."""
    opens_windows = options.pop("opens_windows", True)
    with Client(port, **options) as socket:
        yield Http2Client(socket, opens_windows=opens_windows)
