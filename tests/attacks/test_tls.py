"""TLS: plain text where it belongs not, handshakes that never end, certificates that change under
load, and listeners of both kinds side by side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from asgi_poller.tls import PLAINTEXT_REFUSAL
from tests.attacks.site import Target, under_attack
from tests.support.client import (
    GET,
    LAST_GET,
    handshake,
    read_exactly,
    read_head,
    read_to_end,
    send_all,
)
from tests.support.command import Command
from tests.support.frames import text
from tests.support.tls import Files, client_context, write_pair
from tests.support.waiting import DEADLINE_S, in_threads, wait_until

DIRECT = pytest.mark.parametrize("direct_handshake", [False, True], ids=["core", "poller"])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return write_pair(tmp_path, "server", authority.issue_cert("localhost"))


def secured(site: Target, authority: trustme.CA) -> ssl.SSLSocket:
    context = client_context(authority)
    return context.wrap_socket(site.connect(), server_hostname="localhost")


def is_served(site: Target, authority: trustme.CA) -> None:
    """An honest client is served."""
    with secured(site, authority) as client:
        client.sendall(LAST_GET)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 ")


def over_tls(files: Files, **options: Any) -> contextlib.AbstractContextManager[Target]:
    return under_attack(ssl_certfile=files.certificate, ssl_keyfile=files.key, **options)


@DIRECT
def test_plaintext_on_a_tls_port(
    files: Files, authority: trustme.CA, direct_handshake: bool
) -> None:
    with over_tls(files, direct_handshake=direct_handshake) as site:
        for data in (GET, handshake(), b"\r\n", b"\x00", b"SSH-2.0-x\r\n", b"G"):
            assert site.ask(data) == PLAINTEXT_REFUSAL, data
        site.connect().close()  # nothing at all
        is_served(site, authority)
        assert len(site.record.requests) == 1


def test_broken_handshakes_harm_nobody(files: Files, authority: trustme.CA) -> None:
    with over_tls(files) as site:
        for data in (b"\x16", b"\x16\x03\x01\xff\xff" + bytes(100), b"\x16\x03\x01\0\x05" * 100):
            with site.connect() as client:
                send_all(client, data)
        is_served(site, authority)


@pytest.mark.parametrize("beginning", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_handshakes_that_never_end(files: Files, authority: trustme.CA, beginning: bytes) -> None:
    with over_tls(files, ssl_handshake_timeout=0.3, timeout_first_octet=0.3) as site:
        with site.connect() as client:
            client.sendall(beginning)
            assert read_to_end(client) == b""  # closed at the deadline
        is_served(site, authority)


@DIRECT
def test_plain_and_tls_side_by_side(
    files: Files, authority: trustme.CA, direct_handshake: bool
) -> None:
    binds = {"bind": ("127.0.0.1:0",), "bind_tls": ("127.0.0.1:0",)}
    with over_tls(files, direct_handshake=direct_handshake, **binds) as site:
        addresses = {
            listener.info.tls: listener.socket.getsockname() for listener in site.server.listeners
        }
        site.port = addresses[False][1]
        site.is_well()
        site.port = addresses[True][1]
        is_served(site, authority)
        plain, tls = site.record.requests
        assert (plain["scheme"], tls["scheme"]) == ("http", "https")
        assert "tls" not in plain["extensions"]
        assert tls["extensions"]["tls"]["tls_version"] == 0x0304


def test_alpn_and_the_extension_of_a_websocket(files: Files, authority: trustme.CA) -> None:
    with over_tls(files, http="1") as site:
        context = client_context(authority, ("h2", "http/1.1"))
        with context.wrap_socket(site.connect(), server_hostname="localhost") as client:
            assert client.selected_alpn_protocol() == "http/1.1"
            client.sendall(handshake())
            assert read_head(client).startswith(b"HTTP/1.1 101 ")
            client.sendall(text("hello"))
            assert read_exactly(client, 7)[2:] == b"hello"


def serial(site_address: tuple[str, int], authority: trustme.CA) -> int:
    """The serial number of the certificate that is shown now."""
    raw = socket.create_connection(site_address, DEADLINE_S)
    with client_context(authority).wrap_socket(raw, server_hostname="localhost") as client:
        certificate = client.getpeercert(binary_form=True)
        assert certificate is not None
        client.sendall(LAST_GET)
        assert read_to_end(client).startswith(b"HTTP/1.1 ")
        return x509.load_der_x509_certificate(certificate).serial_number


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_certificate_under_load(
    files: Files, authority: trustme.CA, tmp_path: Path, workers: int
) -> None:
    """SIGHUP: nobody is dropped, nobody fails, and new handshakes see the new certificate."""
    options = ("--ssl-certfile", files.certificate, "--ssl-keyfile", files.key)
    command = Command("--port", "0", "--workers", str(workers), *options)
    with contextlib.closing(command):
        command.wait_for("running on")
        address = command.address
        old = serial(address, authority)
        failures: list[Exception] = []
        over = threading.Event()

        def shake_hands(_: int) -> None:
            while not over.is_set():
                try:
                    serial(address, authority)
                except Exception as error:
                    failures.append(error)
                    return

        with in_threads(shake_hands, range(4)), contextlib.ExitStack() as stack:
            stack.callback(over.set)
            replace_pair(files, authority.issue_cert("localhost"), tmp_path)
            command.signal(signal.SIGHUP)
            wait_until(lambda: serial(address, authority) != old, "the new certificate is shown")
        assert failures == []


def test_a_changed_file_is_noticed(
    files: Files, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_poller.serve.tls_reload.LOOK_EVERY_S", 0.05)
    with over_tls(files) as site:
        with secured(site, authority) as kept:
            old = serial(site.address, authority)
            Path(files.certificate).write_text("half of a certif")
            assert serial(site.address, authority) == old  # a bad one is not taken
            replace_pair(files, authority.issue_cert("localhost"), tmp_path)
            wait_until(lambda: serial(site.address, authority) != old, "it is noticed")
            kept.sendall(LAST_GET)
            assert read_to_end(kept).startswith(b"HTTP/1.1 200 ")  # nobody was dropped


def replace_pair(files: Files, pair: trustme.LeafCert, directory: Path) -> None:
    """As certbot does it: new files in the place of the old ones."""
    (directory / "new").mkdir()
    new = write_pair(directory / "new", "server", pair)
    os.replace(new.key, files.key)
    os.replace(new.certificate, files.certificate)
