"""Control messages between the supervisor and a child process, over a socket pair.

The first thing on it is the specification (`bootstrap.py`); then come lines of JSON in both
directions, each a message with a `kind`. The end of the stream tells either side that the other has
ended. JSON, because the supervisor may have more rights than its workers: nothing that one
of them sends can do more than be misunderstood.

    worker to supervisor    ready(threads)             its loops serve; their threads' identifiers
                            failed(problem, exit_code) it cannot start, and ends
                            leaving                    it was sent SIGTERM and waits for `drain`
                            limit                      --limit-max-requests is reached
                            drained(...)               what became of its connections: `Drained`
    supervisor to worker    drain(timeout_s, spread_s, adopt)
                            reopen_logs
    fork server             see `worker/fork_server.py`
    hub to its parent       leaving, answer            once unasked: it is ready
    parent to its hub       ask                        whether it answers
                            end, reopen_logs
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]

_log = logging.getLogger("asgi_poller.error")

_READ_BYTES = 65536
# Unit: bytes. Longer than any line that is ever sent: the other side is broken.
_LINE_LIMIT_BYTES = 1024 * 1024


class Lines:
    """Turns bytes into messages. Raises ValueError for what is no message."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_LIMIT_BYTES:
            raise ValueError("a line without an end")
        return [self._parsed(line) for line in lines]

    def _parsed(self, line: bytes) -> Message:
        message = json.loads(line)
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise ValueError(f"no message: {line[:80]!r}")
        return message


def encoded(kind: str, **fields: Any) -> bytes:
    """One message as bytes."""
    return json.dumps({"kind": kind, **fields}).encode() + b"\n"


class Control:
    """One end, on the running loop. Owned by that loop's thread; it owns `sock`.

    `on_message` gets each message, `on_end` is called once when the other side has ended, but
    not after `close`. Sending never waits and never fails; after the end it does nothing.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_message: Callable[[Message], object],
        on_end: Callable[[], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._lines = Lines()
        self._unsent = b""
        self._is_open = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._read)

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message, or keep it until there is room."""
        if not self._is_open:
            return
        waiting = bool(self._unsent)
        self._unsent += encoded(kind, **fields)
        if not waiting:
            self._write()
            if self._unsent and self._is_open:
                self._loop.add_writer(self._sock.fileno(), self._write)

    def read_now(self) -> None:
        """Take what has come, without waiting for the loop: the other side has ended."""
        while self._is_open:
            if not self._read():
                break

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)  # the other side has ended: reading finds that out
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> bool:
        """Whether there was something."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        try:
            messages = self._lines.feed(data)
        except ValueError as error:
            _log.error("A control socket is closed, since what came is no message: %s", error)
            data, messages = b"", []
        for message in messages:
            self._on_message(message)
        if not data and self._is_open:
            self.close()
            self._on_end()
        return bool(data)
