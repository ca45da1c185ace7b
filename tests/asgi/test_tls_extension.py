"""The `tls` extension, from real handshakes; names against another implementation of RFC 4514."""

from __future__ import annotations

import datetime
import re
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_poller.asgi.tls_extension import distinguished_name, tls_extension
from asgi_poller.config import Config
from asgi_poller.tls import ServerContext, build_context
from tests.support.tls import Handshake, client_context, write_pair

AUTHORITY = trustme.CA()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ServerContext:
    directory = tmp_path_factory.mktemp("tls")
    files = write_pair(directory, "server", AUTHORITY.issue_cert("localhost"))
    AUTHORITY.cert_pem.write_to_path(directory / "ca.pem")
    return build_context(
        Config(
            "main:app",
            ssl_certfile=files.certificate,
            ssl_keyfile=files.key,
            ssl_cert_reqs=ssl.CERT_OPTIONAL,
            ssl_ca_certs=str(directory / "ca.pem"),
        )
    )


def der(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def test_without_a_client_certificate(server: ServerContext) -> None:
    done = Handshake(server, client_context(AUTHORITY)).run()
    extension = tls_extension(done.server)
    seen_by_client = done.client.getpeercert(binary_form=True)
    assert extension["server_cert"] is not None
    assert der(extension["server_cert"]) == seen_by_client
    assert extension["client_cert_chain"] == []
    assert extension["client_cert_name"] is None
    assert extension["client_cert_error"] is None
    assert extension["tls_version"] == 0x0304
    assert set(extension) == {
        "server_cert",
        "client_cert_chain",
        "client_cert_name",
        "client_cert_error",
        "tls_version",
        "cipher_suite",
    }


@pytest.mark.parametrize(
    ("version", "number", "ciphers", "suites"),
    [
        # RFC 8446, B.4 and RFC 5289, 3.2
        (ssl.TLSVersion.TLSv1_3, 0x0304, None, {0x1301, 0x1302, 0x1303}),
        (ssl.TLSVersion.TLSv1_2, 0x0303, "ECDHE-ECDSA-AES128-GCM-SHA256", {0xC02B}),
        (ssl.TLSVersion.TLSv1_2, 0x0303, "ECDHE-ECDSA-CHACHA20-POLY1305", {0xCCA9}),
    ],
)
def test_version_and_cipher_are_the_numbers_on_the_wire(
    server: ServerContext,
    version: ssl.TLSVersion,
    number: int,
    ciphers: str | None,
    suites: set[int],
) -> None:
    client = client_context(AUTHORITY)
    client.minimum_version = client.maximum_version = version
    if ciphers:
        client.set_ciphers(ciphers)
    extension = tls_extension(Handshake(server, client).run().server)
    assert extension["tls_version"] == number
    assert extension["cipher_suite"] in suites


def test_client_certificate_with_its_chain(server: ServerContext) -> None:
    intermediate = AUTHORITY.create_child_ca()
    leaf = intermediate.issue_cert(
        "client@example.com", common_name="Alice, the first", organization_name="Example + Söhne"
    )
    client = client_context(AUTHORITY)
    leaf.configure_cert(client)
    extension = tls_extension(Handshake(server, client).run().server)
    sent = [der(blob.bytes().decode()) for blob in leaf.cert_chain_pems]
    assert len(sent) == 2
    assert [der(pem) for pem in extension["client_cert_chain"]] == sent
    subject = x509.load_der_x509_certificate(sent[0]).subject
    assert extension["client_cert_name"] == subject.rfc4514_string()
    assert extension["client_cert_name"].startswith("CN=Alice\\, the first,")


def test_the_chain_of_a_resumed_session(server: ServerContext) -> None:
    """TLS 1.2 resumption sends no certificates; the session remembers the client's own."""
    client = client_context(AUTHORITY)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    leaf = AUTHORITY.issue_cert("client@example.com", common_name="Alice")
    leaf.configure_cert(client)
    first = Handshake(server, client).run()
    again = Handshake(server, client)
    again.client.session = first.client.session
    again.run()
    assert again.client.session_reused
    extension = tls_extension(again.server)
    assert der(extension["client_cert_chain"][0]) == der(leaf.cert_chain_pems[0].bytes().decode())
    assert extension["client_cert_name"] == tls_extension(first.server)["client_cert_name"]


def test_a_context_that_is_not_ours_reports_what_it_can(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    extension = tls_extension(Handshake(context, client_context(AUTHORITY)).run().server)
    assert extension["server_cert"] is None
    assert extension["cipher_suite"] is None
    assert extension["tls_version"] == 0x0304


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ((), ""),
        (((("commonName", "a"),),), "CN=a"),
        (((("countryName", "DE"),), (("commonName", "a"),)), "CN=a,C=DE"),
        (((("commonName", "a"), ("userId", "7")),), "CN=a+UID=7"),
        (((("commonName", ' #x"+,;<>\\= '),),), 'CN=\\ #x\\"\\+\\,\\;\\<\\>\\\\=\\ '),
        (((("commonName", "#x"),),), "CN=\\#x"),
        (((("commonName", " "),),), "CN=\\ "),
        (((("commonName", ""),),), "CN="),
        (((("commonName", "a\x00b\n\x85"),),), "CN=a\\00b\\0A\\C2\\85"),
        (((("commonName", "Müller"),),), "CN=Müller"),
        (((("emailAddress", "a@b"),), (("surname", "x"),)), "sn=x,emailAddress=a@b"),
        (((("1.2.3.4", "hé"),),), "1.2.3.4=#0C0368C3A9"),
        (((("1.2.3.4", "x" * 200),),), "1.2.3.4=#0C81C8" + "78" * 200),
        (((("1.2.3.4", "x" * 300),),), "1.2.3.4=#0C82012C" + "78" * 300),
    ],
)
def test_distinguished_names(
    subject: tuple[tuple[tuple[str, str], ...], ...], expected: str
) -> None:
    """RFC 4514, sections 2 and 4."""
    assert distinguished_name(subject) == expected


KEY = ec.generate_private_key(ec.SECP256R1())
CA_KEY = serialization.load_pem_private_key(AUTHORITY.private_key_pem.bytes(), None)
CA_NAME = x509.load_pem_x509_certificate(AUTHORITY.cert_pem.bytes()).subject
ATTRIBUTES = st.builds(
    x509.NameAttribute,
    st.sampled_from(
        [NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME, NameOID.USER_ID]
    ),
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20).filter(
        str.isprintable
    ),
)


def issue(subject: x509.Name) -> bytes:
    assert isinstance(CA_KEY, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(CA_NAME)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(CA_KEY, hashes.SHA256())
    )
    private = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ATTRIBUTES, min_size=1, max_size=2), min_size=1, max_size=3))
def test_any_subject_reads_as_cryptography_has_it(
    server: ServerContext, tmp_path: Path, names: list[list[x509.NameAttribute[str]]]
) -> None:
    unique = [{attribute.oid: attribute for attribute in rdn}.values() for rdn in names]
    subject = x509.Name([x509.RelativeDistinguishedName(rdn) for rdn in unique])
    (tmp_path / "client.pem").write_bytes(issue(subject))
    client = client_context(AUTHORITY)
    client.load_cert_chain(tmp_path / "client.pem")
    name = tls_extension(Handshake(server, client).run().server)["client_cert_name"]
    assert name is not None
    # The order inside a multi-valued RDN is DER's, which sorts a set.
    assert split(name) == split(subject.rfc4514_string())


def split(name: str) -> list[list[str]]:
    """The RDNs of a name, each in its own order; escaped separators are none."""
    return [sorted(parts(rdn, "+")) for rdn in parts(name, ",")]


def parts(text: str, separator: str) -> list[str]:
    found: list[str] = re.findall(rf"(?:\\.|[^\\{separator}])+", text, re.DOTALL)
    return found
