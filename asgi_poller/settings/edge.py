"""Options: TLS, and the proxies in front."""

from __future__ import annotations

from dataclasses import dataclass

from asgi_poller.settings.kinds import Kind, flag, integer, optional, seconds, shown, text, texts
from asgi_poller.settings.option import option

# Numbers rather than the ssl module's names: a Python built without ssl can serve without TLS.
PROTOCOL_TLS_SERVER = 17  # ssl.PROTOCOL_TLS_SERVER
CERT_NONE, CERT_REQUIRED = 0, 2  # ssl.CERT_NONE, ssl.CERT_REQUIRED

TRUSTED_BY_DEFAULT = "127.0.0.1,::1"
LONGEST_ALPN_NAME = 255  # RFC 7301, 3.1


def _trusted() -> Kind:
    """Addresses and networks, kept as one text with commas, as uvicorn has it; or a list."""
    many = texts("ADDRESSES", commas=True)

    def check(value: object) -> str:
        return ",".join(many.check(value))

    return Kind("ADDRESSES", check, check)


def _check_alpn(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= LONGEST_ALPN_NAME:
        raise ValueError(f"must be protocol names such as http/1.1, not {shown(value)}")
    return value


@dataclass(frozen=True, kw_only=True, init=False)
class Proxies:
    """What proxies in front say of the client."""

    __slots__ = ()

    proxy_headers: bool = option(
        True,
        flag(),
        "Take the client's address and scheme from X-Forwarded-For and -Proto, or Forwarded.",
        uvicorn="same",
    )
    forwarded_allow_ips: str = option(
        TRUSTED_BY_DEFAULT,
        _trusted(),
        "Proxies to believe: addresses and networks, with commas. * is everyone.",
        note="Default: $FORWARDED_ALLOW_IPS if that is set.",
        uvicorn="same",
    )
    request_id: bool = option(
        False,
        flag(),
        "Give each request an id: a trusted proxy's X-Request-ID, else one that is made.",
        note="It is in the scope, in the response and in the log.",
    )
    proxy_protocol: bool = option(
        False,
        flag(),
        "Expect a PROXY protocol header (v1 or v2) from the proxies in --forwarded-allow-ips.",
        note="Connections from elsewhere are served without one, and closed if they send one.",
    )


@dataclass(frozen=True, kw_only=True, init=False)
class Tls:
    """TLS."""

    __slots__ = ()

    ssl_keyfile: str | None = option(
        None, optional(text("PATH")), "Private key, if it is not in --ssl-certfile.", uvicorn="same"
    )
    ssl_certfile: str | None = option(
        None,
        optional(text("PATH")),
        "Certificate and its chain (PEM). With it, TLS is spoken.",
        note="Read again on SIGHUP and when it changes.",
        uvicorn="same",
    )
    ssl_keyfile_password: str | None = option(
        None,
        optional(text("TEXT", secret=True)),
        "Password of the private key.",
        note="Better given as an environment variable, which is taken out of the environment once"
        " read: other users can see a command line.",
        uvicorn="same",
    )
    ssl_version: int = option(
        PROTOCOL_TLS_SERVER,
        integer(0),
        "A protocol constant of Python's ssl module.",
        uvicorn="same",
    )
    ssl_cert_reqs: int = option(
        CERT_NONE,
        integer(CERT_NONE, CERT_REQUIRED),
        "Client certificates: 0 not asked for, 1 checked if sent, 2 required.",
        uvicorn="same",
    )
    ssl_ca_certs: str | None = option(
        None,
        optional(text("PATH")),
        "Authorities that client certificates must come from (PEM).",
        uvicorn="same",
    )
    ssl_ciphers: str | None = option(
        None,
        optional(text("CIPHERS")),
        "Cipher list in OpenSSL's format, instead of OpenSSL's own choice.",
        uvicorn="same",
    )
    ssl_alpn: tuple[str, ...] | None = option(
        None,
        optional(texts("NAME", one=_check_alpn, commas=True)),
        "Protocols offered by ALPN, the preferred first, instead of those that --http means.",
    )
    ssl_handshake_timeout: float = option(
        10.0,
        seconds(0.001),
        "Seconds in which a TLS handshake must be done; else the connection is closed.",
    )
