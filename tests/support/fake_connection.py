"""A fake connection for HTTP exchanges and WebSocket sessions, and what runs applications on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import pytest

from asgi_poller.asgi.error_response import error_response
from asgi_poller.asgi.types import Application, Message
from asgi_poller.loops.denial_port import DenialPort
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.http1.response import (
    CONTINUE,
    ResponseEncoder,
    encode_early_hint,
    phrase,
)
from asgi_poller.protocols.websocket.handshake import Handshake
from asgi_poller.protocols.websocket.permessage_deflate import Deflate


class Conversation(Protocol):
    """An exchange or a channel."""

    @property
    def scope(self) -> dict[str, Any]: ...

    async def receive(self) -> Message: ...

    async def send(self, message: Message, /) -> None: ...

    def application_ended(self, error: BaseException | None) -> None: ...


class Wire:
    """The connection as an exchange or a channel sees it, with HTTP/1.1 below: keeps what it was
    told.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_read = True
        self.completed: list[bool] = []  # whether the connection may go on, for each response
        self.is_aborted = False
        self.refusals: list[tuple[int, str]] = []
        self.on_write: Callable[[], None] | None = None
        self._encoder = ResponseEncoder(default_headers)

    @property
    def written(self) -> bytes:
        return b"".join(self.pieces)

    def take(self) -> bytes:
        """What was written since the last call."""
        written, self.pieces = self.written, []
        return written

    def write(self, data: bytes | bytearray) -> None:
        assert data, "an empty write is a system call for nothing"
        self.pieces.append(bytes(data))
        if self.on_write is not None:
            self.on_write()

    def set_reading(self, on: bool) -> None:
        self.is_read = on

    # ResponsePort

    def send_head(
        self,
        request: RequestHead,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        body: bytes,
        more_body: bool,
    ) -> None:
        self.write(self._encoder.head(request, status, headers, body=body, more_body=more_body))

    def send_body(self, body: bytes, more_body: bool) -> None:
        if encoded := self._encoder.body(body, more_body):
            self.write(encoded)

    def send_trailers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if encoded := self._encoder.trailers(headers):
            self.write(encoded)

    def files(self) -> None:
        """Files are sent on real sockets only."""

    def send_early_hint(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.write(encode_early_hint(headers))

    def end(self) -> None:
        self.completed.append(self._encoder.keep_alive)

    def abort(self) -> None:
        self.is_aborted = True

    def refuse(self, request: RequestHead, status: int, detail: str) -> None:
        self.refusals.append((status, detail))
        self.write(error_response(status, detail, head_only=request.method == "HEAD"))
        self.completed.append(False)

    def send_continue(self) -> None:
        self.write(CONTINUE)


class WebSocketPort(Wire):
    """The same for a channel whose handshake is to be answered."""

    def __init__(self, handshake: Handshake, deflate: str) -> None:
        super().__init__()
        self.states = 0  # how often state_changed() was called
        self.handshake = handshake
        self.deflate = deflate

    def accept(self, subprotocol: object, headers: Iterable[tuple[bytes, bytes]]) -> Deflate | None:
        head, deflate = self.handshake.accept(
            subprotocol=subprotocol,
            headers=headers,
            default_headers=default_headers,
            deflate=self.deflate,
        )
        self.write(head)
        return deflate

    def deny(self, status: int) -> None:
        self.write(error_response(status, phrase(status).decode()))

    def denial_port(self, done: Callable[[], None]) -> DenialPort:
        return DenialPort(self.write, default_headers, done)

    def state_changed(self) -> None:
        self.states += 1


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def default_headers(given: Mapping[bytes, bytes]) -> bytes:
    """No Date and no Server: what is written is what the test has in mind."""
    return b""


def start(conversation: Conversation, application: Application) -> asyncio.Task[None]:
    """Call the application as a core does."""

    async def call() -> None:
        await application(conversation.scope, conversation.receive, conversation.send)

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            conversation.application_ended(asyncio.CancelledError())
        else:
            conversation.application_ended(task.exception())

    task = asyncio.get_running_loop().create_task(call())
    task.add_done_callback(ended)
    return task


async def run_to_end(conversation: Conversation, application: Application) -> None:
    """Run the application to its end."""
    await asyncio.wait([start(conversation, application)])
    await until_idle()


async def until_idle() -> None:
    """Wait until the loop has nothing left to do: all that can happen has happened."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # asyncio shows no other way to see what is scheduled
        await asyncio.sleep(0)


async def raised_by(awaitable: Awaitable[object]) -> BaseException | None:
    """What awaiting raises, or None."""
    try:
        await awaitable
    except Exception as error:
        return error
    return None


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an error, first lines only."""
    return [
        record.getMessage().splitlines()[0]
        for record in caplog.records
        if record.levelno >= logging.ERROR
    ]
