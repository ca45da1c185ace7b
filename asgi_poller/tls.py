"""TLS for listeners: the server's context, made from the `ssl_*` options, and made again for new
certificates.

A reload builds a whole new context and puts it in the place of the old one when it is complete.
Connections keep the context that they began with, so none is dropped; and there is no moment at
which a certificate is paired with the other one's key, which loading into the live context would
have while a new pair is being written. Each handshake takes `TlsContext.context` as it is then.

OpenSSL's messages name neither the file nor the option. Each way to be wrong has a line of its own
here: a ConfigError whose option is the one to mend.
"""

from __future__ import annotations

import os
import re
import ssl

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.settings.http2 import is_http2_spoken

HANDSHAKE_RECORD = (
    0x16  # RFC 8446, 5.1: ContentType handshake, the first byte of every TLS connection
)

HTTP2 = "h2"  # in ALPN (RFC 9113, 3.2)

# The answer to a client that speaks HTTP to a TLS port, as nginx gives it; then it is closed.
PLAINTEXT_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 54\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"This port speaks TLS: use https or wss in the address\n"
)

_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)  # RFC 7468, 5


def is_plaintext(first: bytes) -> bool:
    """Whether the first byte(s) of a connection to a TLS port are not TLS. b"" is no answer:
    False.
    """
    return bool(first) and first[0] != HANDSHAKE_RECORD


class ServerContext(ssl.SSLContext):
    """A context that remembers what the ASGI `tls` extension reports and OpenSSL does not give
    back.

    `server_cert_pem` is the server's own certificate, `cipher_ids` the TLS number of each cipher
    suite by OpenSSL's name. Both are set once, before the context is used.
    """

    server_cert_pem: str | None = None
    cipher_ids: dict[str, int] = {}  # noqa: RUF012 # replaced, never changed


class TlsContext:
    """The context of the moment. Any thread may read `context`; one thread reloads.

    Raises ConfigError from the constructor and from `reload()`.
    """

    __slots__ = ("_config", "_paths", "_seen", "context")

    def __init__(self, config: Config) -> None:
        self._config = config
        paths = (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs)
        self._paths = tuple(path for path in paths if path is not None)
        self._seen = self._look()
        self.context = build_context(config)

    def changed(self) -> bool:
        """Whether a file is another one than at the last (attempted) load. One stat(2) per file.

        A file that is missing has not changed: it is being replaced.
        """
        now = self._look()
        return now != self._seen and None not in now

    def reload(self) -> None:
        """Read the files again, for handshakes from now on. If they are bad, the old context stays.

        Raises ConfigError, and then keeps quiet in `changed()` until a file changes once more.
        """
        # Looked at before reading: what is written during the load counts as a change after it.
        self._seen = self._look()
        self.context = build_context(self._config)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_identity(path) for path in self._paths)


def context_of(config: Config) -> TlsContext | None:
    """The server's context; None without a certificate. Raises ConfigError."""
    return None if config.ssl_certfile is None else TlsContext(config)


def _identity(path: str) -> tuple[int, int, int] | None:
    # Links are followed: certbot and Kubernetes replace the link, not the file.
    try:
        status = os.stat(path)
    except OSError:
        return None  # missing, for the moment perhaps: see changed()
    return status.st_mtime_ns, status.st_ino, status.st_size


def build_context(config: Config) -> ServerContext:
    """A context for the server's side of handshakes. Raises ConfigError, naming the option.

    As uvicorn makes it, and besides: ALPN, and no renegotiation (TLS 1.2; a client could keep us at
    it for the price of a few bytes).
    """
    certfile = config.ssl_certfile
    assert certfile is not None  # `context_of` has looked
    context = _new_context(config.ssl_version)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.server_cert_pem = _first_certificate(_read("--ssl-certfile", certfile), certfile)
    _load_pair(context, certfile, config)
    _set_client_verification(context, config)
    if config.ssl_ciphers:
        try:
            context.set_ciphers(config.ssl_ciphers)
        except (ssl.SSLError, ValueError) as error:
            problem = f"OpenSSL knows no cipher in {config.ssl_ciphers!r}"
            raise ConfigError("--ssl-ciphers", problem) from error
    context.cipher_ids = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
    alpn = _alpn(config)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def _alpn(config: Config) -> list[str]:
    """Protocols, the preferred first (RFC 7301)."""
    if config.ssl_alpn is not None:
        return list(config.ssl_alpn)
    spoken = [HTTP2] if is_http2_spoken(config.http) else []
    return spoken if config.http == "2" else [*spoken, "http/1.1"]


def _new_context(version: int) -> ServerContext:
    try:
        if version == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("a client's protocol")
        return ServerContext(version)
    except (ValueError, OverflowError) as error:
        problem = (
            f"{version} is no server protocol of Python's ssl module; leave it out, or write 17"
        )
        raise ConfigError("--ssl-version", problem) from error


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(option, f"cannot read {path!r}: {reason}") from error


def _first_certificate(pem: bytes, path: str) -> str:
    match = _CERTIFICATE.search(pem.decode("latin-1"))
    try:
        if match is None:
            raise ValueError("no certificate")
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(match[0]))
    except ValueError as error:
        raise ConfigError("--ssl-certfile", f"there is no PEM certificate in {path!r}") from error


class _NoPassword(Exception):
    """Raised inside OpenSSL's question for a password that is not configured."""


class _Password:
    """Answers OpenSSL's question for the password, and remembers that it was asked.

    Without it OpenSSL would ask at the terminal, where nobody types.
    """

    __slots__ = ("_password", "asked")

    def __init__(self, password: str | None) -> None:
        self._password = password
        self.asked = False

    def __call__(self) -> str:
        self.asked = True
        if self._password is None:
            raise _NoPassword
        return self._password


def _load_pair(context: ssl.SSLContext, certfile: str, config: Config) -> None:
    option, keyfile = "--ssl-keyfile", config.ssl_keyfile
    if keyfile is None:
        option, keyfile = "--ssl-certfile", certfile
    key = _read(option, keyfile)
    password = _Password(config.ssl_keyfile_password)
    try:
        context.load_cert_chain(certfile, keyfile, password)
    except _NoPassword as error:
        problem = f"the key in {keyfile!r} is encrypted: its password is needed"
        raise ConfigError("--ssl-keyfile-password", problem) from error
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or str(error)
        if reason == "KEY_VALUES_MISMATCH":
            problem = f"the key in {keyfile!r} does not belong to the certificate in {certfile!r}"
            raise ConfigError(option, problem) from error
        if password.asked:
            problem = f"the password does not open the key in {keyfile!r}"
            raise ConfigError("--ssl-keyfile-password", problem) from error
        if b"PRIVATE KEY-----" not in key:
            problem = f"there is no PEM private key in {keyfile!r}"
            if config.ssl_keyfile is None:
                problem += "; give its file as --ssl-keyfile"
            raise ConfigError(option, problem) from error
        words = reason.replace("_", " ").lower()
        problem = f"OpenSSL refuses the certificate in {certfile!r} or its key: {words}"
        raise ConfigError("--ssl-certfile", problem) from error


def _set_client_verification(context: ssl.SSLContext, config: Config) -> None:
    context.verify_mode = ssl.VerifyMode(config.ssl_cert_reqs)
    path = config.ssl_ca_certs
    if path is None:
        return
    _read("--ssl-ca-certs", path)
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise ConfigError("--ssl-ca-certs", f"there is no PEM certificate in {path!r}") from error
