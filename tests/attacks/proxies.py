"""The real nginx and HAProxy in front of a server; tests that need one are skipped without it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import send_all
from tests.support.processes import free_port
from tests.support.waiting import DEADLINE_S


class Front:
    """A proxy that listens on a port of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S, (source, 0))

    def ask(self, data: bytes, source: str = "127.0.0.1") -> bytes:
        """All that is answered to `data` until the connection ends or nothing more comes."""
        with self.connect(source) as client:
            client.settimeout(0.5)  # a proxy may keep the connection
            send_all(client, data)
            received = b""
            try:
                while piece := client.recv(65536):
                    received += piece
            except TimeoutError:
                pass  # it waits for another request: what came is the answer
            return received


@contextlib.contextmanager
def haproxy(directory: Path, server: str) -> Iterator[Front]:
    """An HAProxy with one backend server, in the words of its configuration."""
    port = free_port()
    path = directory / "haproxy.cfg"
    path.write_text(
        "defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n"
        f"frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n {server}\n"
    )
    with _running("haproxy", ["-f", str(path), "-db"], port):
        yield Front(port)


def nginx(directory: Path, upstream_port: int) -> contextlib.AbstractContextManager[Front]:
    """An nginx that passes everything on, and keeps connections to the server."""
    pass_on = "proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection '';"
    return _nginx(directory, upstream_port, "", pass_on)


def grpc_nginx(directory: Path, upstream_port: int) -> contextlib.AbstractContextManager[Front]:
    """One that speaks HTTP/2 on both sides, as nginx does for gRPC."""
    return _nginx(directory, upstream_port, "http2", "grpc_pass grpc://u;")


@contextlib.contextmanager
def _nginx(
    directory: Path, upstream_port: int, listen_option: str, pass_on: str
) -> Iterator[Front]:
    port = free_port()
    path = directory / "nginx.conf"
    path.write_text(
        f"pid {directory}/nginx.pid; error_log {directory}/error.log; daemon off;"
        "worker_processes 1; events { worker_connections 256; } http { access_log off;"
        f"client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;"
        f"fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;"
        f"scgi_temp_path {directory}/s; upstream u {{ server 127.0.0.1:{upstream_port};"
        "keepalive 8; }"
        f"server {{ listen 127.0.0.1:{port} {listen_option}; location / {{ {pass_on} }} }} }}"
    )
    os.chmod(directory, 0o777)  # its worker is another user where we are root
    with _running("nginx", ["-p", str(directory), "-c", str(path)], port):
        yield Front(port)


@contextlib.contextmanager
def _running(program: str, arguments: list[str], port: int) -> Iterator[None]:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    process = subprocess.Popen(
        [path, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _wait_for(port, process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while True:
        assert process.poll() is None, process.communicate()[1].decode()
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on {port}"
            pause.wait(0.02)
        else:
            return
