"""Real TLS handshakes in memory, and certificates for them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme


class Files(NamedTuple):
    """Paths of one server's PEM files."""

    certificate: str
    key: str
    both: str


def write_pair(directory: Path, name: str, pair: trustme.LeafCert) -> Files:
    certificate, key, both = (directory / f"{name}.{end}" for end in ("crt", "key", "pem"))
    certificate.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    pair.private_key_pem.write_to_path(key)
    pair.private_key_and_cert_chain_pem.write_to_path(both)
    return Files(str(certificate), str(key), str(both))


def client_context(authority: trustme.CA, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Handshake:
    """A client and a server joined by memory. `run()` until both are through, or raises
    SSLError.
    """

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"):
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self._to_server, self._to_client, server_side=True)
        self.client = client.wrap_bio(self._to_client, self._to_server, server_hostname=name)

    def run(self) -> Handshake:
        waiting = {self.client, self.server}
        for _ in range(10):
            for side in (self.client, self.server):
                if side in waiting:
                    try:
                        side.do_handshake()
                        waiting.discard(side)
                    except ssl.SSLWantReadError:
                        pass  # the other side's turn
            if not waiting:
                self.echo()  # TLS 1.3: the server has checked the client's certificate only now
                return self
        raise AssertionError("the handshake does not end")

    def echo(self) -> None:
        self.client.write(b"hello")
        assert self.server.read(5) == b"hello"
        self.server.write(b"world")
        assert self.client.read(5) == b"world"
