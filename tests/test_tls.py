"""TLS contexts: real handshakes, wrong settings, and certificates changed under a running
server.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.tls import PLAINTEXT_REFUSAL, TlsContext, build_context, is_plaintext
from tests.support.tls import Files, Handshake, client_context, write_pair
from tests.support.waiting import in_threads


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def other_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    return write_pair(directory, "server", authority.issue_cert("localhost"))


@pytest.fixture(scope="module")
def other_files(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    return write_pair(directory, "other", authority.issue_cert("localhost"))


def settings(files: Files, **options: Any) -> Config:
    """The options that name `files`, and others."""
    return config(ssl_certfile=files.certificate, **{"ssl_keyfile": files.key, **options})


def config(**options: Any) -> Config:
    return Config("main:app", **options)


def encrypted_key(files: Files, directory: Path, password: bytes) -> str:
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    path = directory / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )
    )
    return str(path)


def test_handshake_with_separate_and_with_joined_files(files: Files, authority: trustme.CA) -> None:
    for context in (
        build_context(settings(files)),
        build_context(config(ssl_certfile=files.both)),
    ):
        assert Handshake(context, client_context(authority)).run().client.version() == "TLSv1.3"


def test_alpn_prefers_our_order_and_survives_no_common_protocol(
    files: Files, authority: trustme.CA
) -> None:
    context = build_context(settings(files, ssl_alpn=("h2", "http/1.1")))
    both = Handshake(context, client_context(authority, ("http/1.1", "h2"))).run()
    assert both.server.selected_alpn_protocol() == "h2"
    default = build_context(settings(files))
    ours = Handshake(default, client_context(authority, ("http/1.1", "h2"))).run()
    assert ours.server.selected_alpn_protocol() == "h2"
    one = build_context(settings(files, http="1"))
    ours = Handshake(one, client_context(authority, ("h2", "http/1.1"))).run()
    assert ours.server.selected_alpn_protocol() == "http/1.1"
    neither = Handshake(default, client_context(authority, ("spdy/3",))).run()
    assert neither.server.selected_alpn_protocol() is None
    without = Handshake(build_context(settings(files, ssl_alpn=())), client_context(authority))
    assert without.run().server.selected_alpn_protocol() is None


def test_encrypted_key_and_its_password(
    files: Files, authority: trustme.CA, tmp_path: Path
) -> None:
    key = encrypted_key(files, tmp_path, b"secret")
    right = settings(files, ssl_keyfile=key, ssl_keyfile_password="secret")
    Handshake(build_context(right), client_context(authority)).run()


def test_client_certificates(
    files: Files, authority: trustme.CA, other_authority: trustme.CA, tmp_path: Path
) -> None:
    ca_certs = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_certs)
    required = build_context(
        settings(files, ssl_cert_reqs=ssl.CERT_REQUIRED, ssl_ca_certs=str(ca_certs))
    )
    anonymous, known, foreign = (client_context(authority) for _ in range(3))
    authority.issue_cert("client@example.com").configure_cert(known)
    other_authority.issue_cert("client@example.com").configure_cert(foreign)
    assert Handshake(required, known).run().server.getpeercert()
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        Handshake(required, anonymous).run()
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.verify.failed"):
        Handshake(required, foreign).run()
    optional = build_context(
        settings(files, ssl_cert_reqs=ssl.CERT_OPTIONAL, ssl_ca_certs=str(ca_certs))
    )
    assert not Handshake(optional, anonymous).run().server.getpeercert()
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.verify.failed"):
        Handshake(optional, foreign).run()


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2:DeprecationWarning")
def test_cipher_list_and_version(files: Files, authority: trustme.CA) -> None:
    context = build_context(
        settings(
            files,
            ssl_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
            ssl_version=int(ssl.PROTOCOL_TLSv1_2),
        )
    )
    done = Handshake(context, client_context(authority)).run()
    assert done.client.version() == "TLSv1.2"
    cipher = done.client.cipher()
    assert cipher is not None
    assert cipher[0].endswith("AES128-GCM-SHA256")


def test_a_client_cannot_renegotiate(files: Files) -> None:
    assert build_context(settings(files)).options & ssl.OP_NO_RENEGOTIATION


@pytest.fixture
def broken(
    tmp_path: Path, files: Files, other_files: Files, authority: trustme.CA
) -> dict[str, str]:
    """Names for the files that the table below speaks of."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    mangled = tmp_path / "mangled.pem"
    mangled.write_bytes(b"-----BEGIN CERTIFICATE-----\n\xff\xff\n-----END CERTIFICATE-----\n")
    mangled_key = tmp_path / "mangled.key"
    mangled_key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    return {
        "certificate": files.certificate,
        "key": files.key,
        "other key": other_files.key,
        "encrypted key": encrypted_key(files, tmp_path, b"secret"),
        "garbage": str(garbage),
        "mangled": str(mangled),
        "mangled key": str(mangled_key),
        "empty": str(empty),
        "directory": str(tmp_path),
        "missing": str(tmp_path / "missing"),
    }


@pytest.mark.parametrize(
    ("certfile", "keyfile", "password", "message"),
    [
        (None, "key", None, "--ssl-keyfile: needs a certificate"),
        ("missing", "key", None, "--ssl-certfile: cannot read .*missing': No such file"),
        ("directory", "key", None, "--ssl-certfile: cannot read .* directory"),
        ("empty", "key", None, "--ssl-certfile: there is no PEM certificate in"),
        ("key", "key", None, "--ssl-certfile: there is no PEM certificate in"),
        ("mangled", "key", None, "--ssl-certfile: there is no PEM certificate in"),
        ("garbage", "key", None, "--ssl-certfile: OpenSSL refuses"),
        ("certificate", "missing", None, "--ssl-keyfile: cannot read .*missing': No such file"),
        ("certificate", "empty", None, "--ssl-keyfile: there is no PEM private key in"),
        ("certificate", "certificate", None, "--ssl-keyfile: there is no PEM private key in"),
        ("certificate", "mangled key", None, "--ssl-certfile: OpenSSL refuses .* or its key"),
        (
            "certificate",
            None,
            None,
            "--ssl-certfile: there is no PEM private key .*; give its file",
        ),
        ("certificate", "other key", None, "--ssl-keyfile: the key in .* does not belong to"),
        ("certificate", "encrypted key", None, "--ssl-keyfile-password: .* is encrypted"),
        ("certificate", "encrypted key", "swordfish", "--ssl-keyfile-password: .* does not open"),
        ("certificate", "encrypted key", "x" * 5000, "--ssl-keyfile-password: .* does not open"),
    ],
)
def test_each_wrong_file_is_one_line_that_names_the_option(
    broken: dict[str, str],
    certfile: str | None,
    keyfile: str | None,
    password: str | None,
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_context(
            config(
                ssl_certfile=None if certfile is None else broken[certfile],
                ssl_keyfile=None if keyfile is None else broken[keyfile],
                ssl_keyfile_password=password,
            )
        )
    assert "\n" not in str(caught.value)
    assert password is None or password not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ssl_version": 4711}, "--ssl-version: 4711 is no server protocol"),
        ({"ssl_version": int(ssl.PROTOCOL_TLS_CLIENT)}, "--ssl-version: 16 is no server protocol"),
        ({"ssl_cert_reqs": 3}, "--ssl-cert-reqs: must be a whole number from 0 to 2"),
        ({"ssl_cert_reqs": 2}, "--ssl-cert-reqs: needs --ssl-ca-certs"),
        ({"ssl_ca_certs": "/nowhere/ca.pem"}, "--ssl-ca-certs: cannot read"),
        ({"ssl_ca_certs": "KEY"}, "--ssl-ca-certs: there is no PEM certificate"),
        ({"ssl_ciphers": "NO-SUCH-CIPHER"}, "--ssl-ciphers: OpenSSL knows no cipher in 'NO-SUCH"),
        ({"ssl_ciphers": "\0"}, "--ssl-ciphers: must not contain control characters"),
        ({"ssl_alpn": ("a" * 256,)}, "--ssl-alpn: "),
        ({"ssl_alpn": ("x" * 256,)}, "--ssl-alpn: "),
        ({"ssl_alpn": ("é",)}, "--ssl-alpn: "),
    ],
)
def test_each_wrong_value_is_one_line_that_names_the_option(
    files: Files, change: dict[str, object], message: str
) -> None:
    if change.get("ssl_ca_certs") == "KEY":
        change = {"ssl_ca_certs": files.key}
    with pytest.raises(ConfigError, match=message) as caught:
        build_context(settings(files, **change))
    assert "\n" not in str(caught.value)


class Live:
    """A context, and the files that it is made of."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.certificate, self.key = folder / "live.crt", folder / "live.key"
        self.install(files)
        options = {"ssl_certfile": str(self.certificate), "ssl_keyfile": str(self.key)}
        self.context = TlsContext(config(**options))

    def install(self, source: Files) -> None:
        """As certbot does: new files under the old names."""
        for path, content in ((self.key, source.key), (self.certificate, source.certificate)):
            temporary = path.with_suffix(".new")
            temporary.write_bytes(Path(content).read_bytes())
            os.replace(temporary, path)


@pytest.fixture
def live(tmp_path: Path, files: Files) -> Live:
    return Live(tmp_path, files)


def served_certificate(context: ssl.SSLContext, authority: trustme.CA) -> bytes | None:
    return Handshake(context, client_context(authority)).run().client.getpeercert(binary_form=True)


def test_new_certificate_serves_new_handshakes_and_old_connections_go_on(
    live: Live, files: Files, other_files: Files, authority: trustme.CA
) -> None:
    tls = live.context
    before = served_certificate(tls.context, authority)
    old = Handshake(tls.context, client_context(authority)).run()
    midway = Handshake(tls.context, client_context(authority))  # began, not finished
    assert not tls.changed()

    live.install(other_files)
    assert tls.changed()
    tls.reload()
    assert not tls.changed()
    after = served_certificate(tls.context, authority)
    assert before != after
    old.echo()
    midway.run()
    assert midway.client.getpeercert(binary_form=True) == before


def test_a_bad_new_file_keeps_the_old_certificate_and_is_reported_once(
    live: Live, files: Files, other_files: Files, authority: trustme.CA
) -> None:
    tls = live.context
    before = served_certificate(tls.context, authority)

    live.key.write_bytes(Path(other_files.key).read_bytes())  # half of a renewal
    assert tls.changed()
    with pytest.raises(ConfigError, match="does not belong"):
        tls.reload()
    assert not tls.changed()
    assert served_certificate(tls.context, authority) == before

    os.remove(live.certificate)
    assert not tls.changed()  # being replaced
    with pytest.raises(ConfigError, match="cannot read"):
        tls.reload()  # the operator insists, by a signal
    assert served_certificate(tls.context, authority) == before

    live.certificate.write_bytes(Path(other_files.certificate).read_bytes())
    assert tls.changed()
    tls.reload()
    assert served_certificate(tls.context, authority) != before


def test_new_authorities_count_for_new_handshakes(
    files: Files, authority: trustme.CA, other_authority: trustme.CA, tmp_path: Path
) -> None:
    ca_certs = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_certs)
    tls = TlsContext(settings(files, ssl_cert_reqs=2, ssl_ca_certs=str(ca_certs)))
    client = client_context(authority)
    other_authority.issue_cert("client@example.com").configure_cert(client)
    with pytest.raises(ssl.SSLError):
        Handshake(tls.context, client).run()
    other_authority.cert_pem.write_to_path(ca_certs)
    tls.reload()
    Handshake(tls.context, client).run()


def test_reloading_while_many_threads_shake_hands(
    live: Live, files: Files, other_files: Files, authority: trustme.CA
) -> None:
    """No handshake ever sees a certificate with the wrong key."""
    tls = live.context
    failures: list[BaseException] = []
    done = threading.Event()

    def shake(_: int) -> None:
        client = client_context(authority)
        try:
            while not done.is_set():
                Handshake(tls.context, client).run()
        except BaseException as error:  # reported by the assertion below
            failures.append(error)
            raise

    with in_threads(shake, range(4)):
        for turn in range(40):
            live.install((other_files, files)[turn % 2])
            tls.reload()
        done.set()
    assert not failures


def test_plaintext_is_told_from_tls_by_the_first_byte(files: Files, authority: trustme.CA) -> None:
    assert is_plaintext(b"GET / HTTP/1.1\r\n")
    assert is_plaintext(b"\x00")
    assert not is_plaintext(b"")
    outgoing = ssl.MemoryBIO()
    hello = client_context(authority).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    assert not is_plaintext(outgoing.read())
    head, _, body = PLAINTEXT_REFUSAL.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
