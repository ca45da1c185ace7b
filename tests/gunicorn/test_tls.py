"""gunicorn's TLS options, with real handshakes."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trustme

from tests.support.gunicorn import Gunicorn, gunicorn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is not for Windows")


class Files(NamedTuple):
    """PEM files: the server's, the authority's, a client's (key and chain in one)."""

    certificate: str
    key: str
    authority: str
    client: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert("someone@example.org", common_name="someone")
    names = Files(*(str(directory / f"{name}.pem") for name in Files._fields))
    server.cert_chain_pems[0].write_to_path(names.certificate)
    server.private_key_pem.write_to_path(names.key)
    authority.cert_pem.write_to_path(names.authority)
    client.private_key_and_cert_chain_pem.write_to_path(names.client)
    return names


def client_context(files: Files, *, with_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.authority)
    if with_certificate:
        context.load_cert_chain(files.client)
    return context


def served(server: Gunicorn) -> Gunicorn:
    server.scheme = "https"
    return server


def test_https_and_wss(files: Files) -> None:
    with gunicorn("--certfile", files.certificate, "--keyfile", files.key) as server:
        context = client_context(files)
        assert served(server).seen(verify=context)["scheme"] == "https"
        with server.channel(ssl=context) as channel:
            channel.send("hello")
            assert channel.recv() == "hello"


def test_client_certificates_are_required(files: Files) -> None:
    options = ["--certfile", files.certificate, "--keyfile", files.key]
    options += ["--ca-certs", files.authority, "--cert-reqs", "2"]
    with gunicorn(*options) as server:
        seen = served(server).seen(verify=client_context(files, with_certificate=True))
        assert seen["tls"]["client_cert_name"].startswith("CN=someone")
        with pytest.raises(httpx.HTTPError):
            server.get(verify=client_context(files))


def test_ciphers(files: Files) -> None:
    options = ("--certfile", files.certificate, "--keyfile", files.key)
    with gunicorn(*options, "--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384") as server:
        context = client_context(files)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        served(server).get(verify=context).raise_for_status()
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        with pytest.raises(httpx.HTTPError):
            server.get(verify=context)


def test_the_hook_makes_the_context(files: Files, tmp_path: Path) -> None:
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(
        "import ssl\n"
        "def ssl_context(conf, default_ssl_context_factory):\n"
        "    context = default_ssl_context_factory()\n"
        "    context.maximum_version = ssl.TLSVersion.TLSv1_2\n"
        "    return context\n"
    )
    options = ("-c", str(configuration), "--certfile", files.certificate, "--keyfile", files.key)
    with gunicorn(*options) as server:
        seen = served(server).seen(verify=client_context(files))
        assert seen["tls"]["tls_version"] == 0x0303


def test_a_wrong_pair_is_one_line(files: Files) -> None:
    options = ("--certfile", files.certificate, "--keyfile", files.client)
    with gunicorn(*options, ready=0) as server:
        assert server.wait() == 3
        assert server.said("does not belong to the certificate")
        assert not server.said("Traceback")
