"""Options: what a running server shows of itself, and how long it goes on showing it at the end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asgi_poller.settings.addresses import HIGHEST_PORT, parse_bind
from asgi_poller.settings.kinds import Kind, optional, seconds, shown, text
from asgi_poller.settings.option import option

_LOOPBACK = "127.0.0.1"
# What a Bearer token may consist of (RFC 6750, 2.1), so that it fits a header and a URL.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def _monitor_address() -> Kind:
    """HOST:PORT, or a port of 127.0.0.1; kept as HOST:PORT."""
    hint = "must be PORT, HOST:PORT or [IPV6]:PORT"

    def check(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError(f"{hint}, not {shown(value)}")
        value = value.strip()
        if value.isdecimal():
            if int(value) > HIGHEST_PORT:
                raise ValueError(f"{hint}, with a port up to {HIGHEST_PORT}, not {shown(value)}")
            return f"{_LOOPBACK}:{value}"
        try:
            is_tcp = parse_bind(value).kind == "tcp"
        except ValueError:
            is_tcp = False
        if not is_tcp:
            raise ValueError(f"{hint}, with a port up to {HIGHEST_PORT}, not {shown(value)}")
        return value

    return Kind("[HOST:]PORT", check, check)


def _token() -> Kind:
    plain = text("TOKEN", secret=True)

    def check(value: object) -> str:
        given: str = plain.check(value)
        if _TOKEN.fullmatch(given) is None:
            raise ValueError("must consist of letters, digits and -._~+/ (RFC 6750)")
        return given

    return Kind("TOKEN", check, check, secret=True)


@dataclass(frozen=True, kw_only=True, init=False)
class Monitoring:
    """What a running server shows of itself."""

    __slots__ = ()

    metrics: str | None = option(
        None,
        optional(_monitor_address()),
        "Show a dashboard, /metrics, /healthz, /readyz and /status.json on this port.",
        note="The host is 127.0.0.1 unless told. /metrics needs prometheus-client:"
        " pip install 'asgi-poller[metrics]'. The port never speaks TLS.",
    )
    metrics_token: str | None = option(
        None,
        optional(_token()),
        "What a client of --metrics must know, except for /healthz and /readyz.",
        note="As `Authorization: Bearer TOKEN`, or in a browser once as `?token=TOKEN`. Beyond"
        " loopback, dashboard and /status.json are not shown without it. Better given as an"
        " environment variable, which is taken out of the environment once read: other users can"
        " see a command line.",
    )
    drain_delay: float = option(
        0.0,
        seconds(),
        "Seconds to go on serving after the signal to stop, while /readyz says 503.",
        note="So that balancers stop sending before the server stops accepting."
        " --timeout-graceful-shutdown begins afterwards. A second signal skips it.",
    )
