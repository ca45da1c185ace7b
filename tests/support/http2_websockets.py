"""WebSockets over HTTP/2 (RFC 8441) for tests: h2's own state machine, and the tests' frames."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from typing import Any, cast

import h2.events
import h2.exceptions

from tests.support.client import Client, Response, read_exactly, read_frame
from tests.support.frames import ServerFrame
from tests.support.http2 import Http2Client
from tests.support.server import Served
from tests.support.waiting import DEADLINE_S

CANCEL = 0x8  # RFC 9113, 7
GOAWAY, HEADER_BYTES = 0x7, 9  # RFC 9113, 6.8 and 4.1


class Channel:
    """One WebSocket of a connection, with the methods of `Client` as far as they make sense: its
    end is END_STREAM, its reset RST_STREAM.
    """

    def __init__(self, owner: WebSockets, stream_id: int, *, owns: bool = False) -> None:
        self.owner = owner
        self.stream_id = stream_id
        self.opens_window = True
        self.unread = bytearray()
        self.has_ended = False
        self.reset_code: int | None = None
        self._owns = owns

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Its connection, where that has nothing else on it; else END_STREAM."""
        if self._owns:
            self.owner.socket.close()
        elif not self.is_over:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.shutdown()

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.reset_code is not None

    def head(self) -> Response:
        """The answer to the handshake."""
        self.owner.wait(h2.events.ResponseReceived, self.stream_id)
        fields = self.owner.fields(self.stream_id)
        return Response(int(fields[":status"]), list(fields.items()), b"")

    def response(self) -> Response:
        """One that is no 200, with its body."""
        return self.head()._replace(body=self.rest())

    def recv(self, count: int, flags: int = 0) -> bytes:
        """Nothing at the end of the stream; ConnectionResetError where it was reset."""
        while not self.unread and not self.is_over:
            if not self.owner.read():
                raise ConnectionResetError("the connection has ended")
        if not self.unread and not self.has_ended:
            raise ConnectionResetError(f"the stream was reset with {self.reset_code}")
        piece = bytes(self.unread[:count])
        del self.unread[:count]
        return piece

    def exactly(self, count: int) -> bytes:
        return read_exactly(cast("socket.socket", self), count)

    def rest(self) -> bytes:
        """All that comes until the end, which must be no reset."""
        received = bytearray()
        while piece := self.recv(65536):
            received += piece
        return bytes(received)

    def frame(self) -> ServerFrame:
        return read_frame(cast("socket.socket", self))

    def sendall(self, data: bytes) -> None:
        while data and not self.is_over:
            data = data[self._send(data) :]

    def _send(self, data: bytes) -> int:
        """As much as there is room for now, which is waited for."""
        h2 = self.owner.h2
        room = min(h2.local_flow_control_window(self.stream_id), h2.max_outbound_frame_size)
        if room <= 0:
            self.owner.read()
            return 0
        h2.send_data(self.stream_id, data[:room])
        self.owner.flush()
        return min(room, len(data))

    def send_until_stuck(self, data: bytes, limit: int, patience_s: float = 0.5) -> int:
        """Send `data` again and again until its window is shut for a while; how much went."""
        sent = 0
        self.owner.socket.settimeout(patience_s)
        try:
            while sent < limit:
                sent += self._send(data)
        except TimeoutError:
            pass  # this is what it was for
        self.owner.socket.settimeout(DEADLINE_S)
        return sent

    def shutdown(self, how: int = socket.SHUT_WR) -> None:
        """END_STREAM."""
        self.owner.h2.end_stream(self.stream_id)
        self.owner.flush()

    def reset(self) -> None:
        """RST_STREAM."""
        self.owner.h2.reset_stream(self.stream_id, CANCEL)
        self.owner.flush()
        self.reset_code = CANCEL


class WebSockets(Http2Client):
    """One connection with prior knowledge, and its WebSockets."""

    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self.channels: dict[int, Channel] = {}
        self.goaway_codes: list[int] = []
        self._rest = b""  # of what has come, less than a frame

    def open(
        self, path: str = "/", *headers: tuple[str, str], owns: bool = False, **pseudo: Any
    ) -> Channel:
        """An extended CONNECT, not yet answered. `pseudo` replaces pseudo-header fields; with ""
        they are left out.
        """
        if not self.of(h2.events.RemoteSettingsChanged):
            self.wait(h2.events.RemoteSettingsChanged)
        fields = {
            "method": "CONNECT",
            "protocol": "websocket",
            "scheme": "http",
            "path": path,
            "authority": "test",
            **pseudo,
        }
        stream_id = self.h2.get_next_available_stream_id()
        channel = self.channels[stream_id] = Channel(self, stream_id, owns=owns)
        version = () if any("version" in name for name, _ in headers) else (VERSION,)
        self.h2.send_headers(
            stream_id,
            [
                *((f":{name}", value) for name, value in fields.items() if value),
                *version,
                *((name.lower(), value) for name, value in headers),
            ],
        )
        self.flush()
        return channel

    def websocket(
        self, path: str = "/", *headers: tuple[str, str], owns: bool = False, **pseudo: Any
    ) -> Channel:
        """One that is past its handshake."""
        channel = self.open(path, *headers, owns=owns, **pseudo)
        response = channel.head()
        assert response.status == 200, response
        return channel

    def read(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        data = self.socket.recv(65536)
        if not data:
            self.has_ended = True
            return False
        for event in self.h2.receive_data(self._without_goaway(data)):
            self._take(event)
        self.flush()
        return True

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames, but for GOAWAY, after which h2 understands nothing."""
        self._rest += data
        frames = b""
        while len(self._rest) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < end:
                break
            frame, self._rest = self._rest[:end], self._rest[end:]
            if frame[3] == GOAWAY:
                self.goaway_codes.append(int.from_bytes(frame[13:17], "big"))
            else:
                frames += frame
        return frames

    def _take(self, event: h2.events.Event) -> None:
        channel = self.channels.get(getattr(event, "stream_id", None) or 0)
        if channel is None or isinstance(event, h2.events.ResponseReceived):
            self.events.append(event)
        if isinstance(event, h2.events.DataReceived):
            used = event.flow_controlled_length or 0
            if channel is None or channel.opens_window:
                self.h2.acknowledge_received_data(used, event.stream_id or 0)
            elif used:
                self.h2.increment_flow_control_window(used)
            if channel is not None:
                channel.unread += event.data or b""
        elif channel is not None and isinstance(event, h2.events.StreamEnded):
            channel.has_ended = True
        elif channel is not None and isinstance(event, h2.events.StreamReset):
            channel.reset_code = int(event.error_code or 0)


VERSION = ("sec-websocket-version", "13")


@contextlib.contextmanager
def websockets(port: int, **options: Any) -> Iterator[WebSockets]:
    """Connected meanwhile."""
    with Client(port, **options) as client:
        yield WebSockets(client)


class Http2Served:
    """A server, whose `websocket` opens one on an HTTP/2 connection of its own."""

    def __init__(self, site: Served) -> None:
        self.site = site
        self.port = site.port

    def connect(self, *, receive_buffer: int | None = None) -> Any:
        return self.site.connect(receive_buffer=receive_buffer)

    def websocket(
        self, *headers: str, path: str = "/", receive_buffer: int | None = None
    ) -> Channel:
        """A client that is past its handshake; `headers` as lines."""
        client = WebSockets(self.connect(receive_buffer=receive_buffer))
        return client.websocket(path, *_fields(headers), owns=True)


def _fields(lines: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def over(version: str, site: Any) -> Any:
    """`site` for clients that speak HTTP of this version: "1.1" or "2"."""
    return Http2Served(site) if version == "2" else site
