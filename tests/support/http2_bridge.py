"""A bridge for test suites that know WebSockets over HTTP/1.1 only: it carries their bytes, frames
untouched, over one HTTP/2 connection (RFC 8441).

    python -m tests.support.http2_bridge PORT     # says on which port it listens
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.support.processes import ROOT

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
OF_CONNECTIONS = {"host", "upgrade", "connection", "sec-websocket-key"}
READ_BYTES = 65536


class Carried:
    """One WebSocket: its stream's answer, and the socket of its client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.writer = writer
        self.is_over = False


class Bridge:
    """One HTTP/2 connection, and the WebSockets that it carries."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._carried: dict[int, Carried] = {}
        self._is_settled = asyncio.Event()
        self._moved = asyncio.Condition()  # a window has opened, or a stream has ended

    async def read(self) -> None:
        """Until the connection ends."""
        self._flush()
        while data := await self._reader.read(READ_BYTES):
            for event in self._h2.receive_data(data):
                self._take(event)
            self._flush()
            async with self._moved:
                self._moved.notify_all()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._is_settled.set()
        carried = self._carried.get(getattr(event, "stream_id", None) or 0)
        if carried is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            carried.answer.set_result({str(name): str(it) for name, it in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            carried.writer.write(event.data or b"")
            self._h2.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 0
            )
        elif isinstance(event, h2.events.StreamEnded):
            carried.is_over = True
            carried.writer.close()
        elif isinstance(event, h2.events.StreamReset):
            if not carried.is_over:
                carried.writer.transport.abort()
            carried.is_over = True

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from its handshake to its end."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        fields = {name.lower(): it.strip() for name, _, it in (x.partition(":") for x in lines)}
        await self._is_settled.wait()
        stream_id = self._h2.get_next_available_stream_id()
        carried = self._carried[stream_id] = Carried(writer)
        opening = [
            *((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")),
            *((":path", first.split(" ")[1]), (":authority", fields["host"])),
            *((name, it) for name, it in fields.items() if name not in OF_CONNECTIONS),
        ]
        self._h2.send_headers(stream_id, opening)
        self._flush()
        answer = await carried.answer
        status = answer.pop(":status")
        assert status == "200", answer
        token = hashlib.sha1(fields["sec-websocket-key"].encode() + GUID).digest()
        answer["sec-websocket-accept"] = base64.b64encode(token).decode()
        answer |= {"upgrade": "websocket", "connection": "Upgrade"}
        more = "".join(f"{name}: {it}\r\n" for name, it in answer.items())
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{more}\r\n".encode("latin-1"))
        with contextlib.suppress(h2.exceptions.ProtocolError, ConnectionError):
            while data := await reader.read(READ_BYTES):
                await self._send(stream_id, carried, data)
            self._h2.end_stream(stream_id)
            self._flush()

    async def _send(self, stream_id: int, carried: Carried, data: bytes) -> None:
        while data and not carried.is_over:
            window = self._h2.local_flow_control_window(stream_id)
            room = min(window, self._h2.max_outbound_frame_size)
            if room > 0:
                self._h2.send_data(stream_id, data[:room])
                data = data[room:]
                self._flush()
                await self._writer.drain()
            else:
                async with self._moved:
                    await self._moved.wait()


async def main(port: int) -> None:
    bridge = Bridge(*await asyncio.open_connection("127.0.0.1", port))
    server = await asyncio.start_server(bridge.carry, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await bridge.read()


@contextlib.contextmanager
def bridged(port: int) -> Iterator[int]:
    """The port of a bridge to `port`, in a process of its own."""
    command = [sys.executable, "-m", "tests.support.http2_bridge", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
