"""From gunicorn's settings, and the ASGI_POLLER_ environment, to a Config.

What both have is decided by gunicorn's setting if it was given, else by our variable, else by
gunicorn's default. What is gunicorn's business alone (addresses, processes, reloading, logging) is
not read from our variables at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from asgi_poller.asgi.proxy_headers import TRUST_UNIX
from asgi_poller.config import Config
from asgi_poller.settings.application import Application, Logging
from asgi_poller.settings.listening import Listening
from asgi_poller.settings.monitoring import Monitoring
from asgi_poller.settings.option import options_of
from asgi_poller.settings.process import Processes, Reload
from asgi_poller.settings.sources import CONFIG_VARIABLE, from_environment, from_toml
from asgi_poller.settings.table import OPTIONS

# For limits that are always numbers here; --limit-request-head bounds a head's parts all the same.
_UNLIMITED_BYTES = 2**31 - 1
_MAX_FIELDS = 32768  # gunicorn's meaning of --limit-request-fields 0
_LIFESPAN_S = 1.0  # kept back from --graceful-timeout, after which gunicorn kills; or a tenth of it
_RELOAD_DRAIN_S = 1.0  # someone waits for a changed page


class Shared(NamedTuple):
    """A setting of gunicorn's that we have too: `option` is ours, `convert` makes its value."""

    option: str
    convert: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _or_unlimited(value: int) -> int:
    return value or _UNLIMITED_BYTES


def _with_unix(addresses: list[str]) -> list[str]:
    """gunicorn believes peers of unix sockets, whatever the list says."""
    return [*addresses, TRUST_UNIX]


def _http_version(protocols: list[str] | str) -> str:
    if "h2" not in protocols:
        return "1"
    return "auto" if "h1" in protocols else "2"


def _without_lifespan(graceful_s: int) -> float:
    """What of --graceful-timeout is left for connections."""
    return graceful_s - max(graceful_s / 10, min(_LIFESPAN_S, graceful_s / 2))


SHARED: dict[str, Shared] = {
    "asgi_lifespan": Shared("lifespan", _same),
    "asgi_loop": Shared("loop", _same),
    "ca_certs": Shared("ssl_ca_certs", _same),
    "cert_reqs": Shared("ssl_cert_reqs", int),
    "certfile": Shared("ssl_certfile", _same),
    "ciphers": Shared("ssl_ciphers", _same),
    "forwarded_allow_ips": Shared("forwarded_allow_ips", _with_unix),
    "graceful_timeout": Shared("timeout_graceful_shutdown", _without_lifespan),
    "http2_initial_window_size": Shared("http2_initial_stream_window_size", _same),
    "http2_max_concurrent_streams": Shared("http2_max_concurrent_streams", _same),
    "http_protocols": Shared("http", _http_version),
    "keepalive": Shared("timeout_keep_alive", float),
    "keyfile": Shared("ssl_keyfile", _same),
    "limit_request_field_size": Shared("limit_request_field_size", _or_unlimited),
    "limit_request_fields": Shared("limit_request_fields", lambda value: value or _MAX_FIELDS),
    "limit_request_line": Shared("limit_request_line", _or_unlimited),
    "max_requests": Shared("limit_max_requests", lambda value: value or None),
    "max_requests_jitter": Shared("limit_max_requests_jitter", _same),
    "proxy_protocol": Shared("proxy_protocol", lambda value: value not in (False, None, "off")),
    "root_path": Shared("root_path", _same),
    "websocket_max_message_size": Shared("ws_max_size", _or_unlimited),
}

# Settings that have no effect here, and what to do instead.
_WITHOUT_EFFECT = {
    "http2_cleartext": "prior knowledge is understood wherever HTTP/2 is spoken",
    "http2_max_frame_size": "frames have 16 KiB at most",
    "http2_max_header_list_size": "a head is bounded by ASGI_POLLER_LIMIT_REQUEST_HEAD",
    "post_request": "it is a hook of WSGI workers",
    "pre_request": "it is a hook of WSGI workers",
    "proxy_allow_ips": "PROXY headers are believed from --forwarded-allow-ips",
    "secure_scheme_headers": "the scheme is taken from X-Forwarded-Proto or Forwarded",
    "threads": "event loops in further threads are ASGI_POLLER_LOOPS",
    "worker_connections": "connections are limited by ASGI_POLLER_LIMIT_CONNECTIONS",
}

_OF_GUNICORN = {
    option.name: option
    for owner in (Listening, Processes, Reload, Application, Logging, Monitoring)
    for option in options_of(owner, "")
    # loops are ours alone; these of the application's are gunicorn's too, in SHARED
    if option.name not in ("loops", "loop", "lifespan", "reset_contextvars")
}


def worker_config(
    cfg: Any, app: str | Callable[..., Any], environ: Mapping[str, str] = os.environ
) -> Config:
    """The Config of a worker that serves `app` under gunicorn's configuration `cfg`.

    Acts on nothing. Raises ConfigError.
    """
    ignored = _ignored(environ)
    environ = {name: text for name, text in environ.items() if name not in ignored}
    chosen = _chosen_elsewhere(environ)
    options: dict[str, Any] = {}
    for name, (option, convert) in SHARED.items():
        setting = cfg.settings.get(name)  # None: this gunicorn does not have it yet
        if setting is not None and (option not in chosen or is_given(setting)):
            options[option] = convert(setting.get())
    if cfg.reload:
        options["timeout_graceful_shutdown"] = _RELOAD_DRAIN_S
    # Processes, reloading and the access log are gunicorn's, whatever a TOML file says.
    options |= {"workers": 1, "reload": False, "preload": False, "access_log": False}
    options |= {"metrics": None, "metrics_token": None}  # its arbiter has no port for them
    return Config.from_sources(app, environ=environ, **options)


def notices(cfg: Any, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Lines that the operator should read once: what was set and has no effect here.

    Raises ConfigError.
    """
    lines = [
        f"--{name.replace('_', '-')} has no effect with this worker: {instead}"
        for name, instead in _WITHOUT_EFFECT.items()
        if name in cfg.settings and is_given(cfg.settings[name])
    ]
    ignored = [f"{variable} is not used under gunicorn" for variable in _ignored(environ)]
    return [*lines, *ignored, *worker_config(cfg, "checked:later", environ).notices]


def is_given(setting: Any) -> bool:
    """Whether a gunicorn setting has another value than its default."""
    given: bool = setting.get() != type(setting)().get()
    return given


def _ignored(environ: Mapping[str, str]) -> list[str]:
    names = {
        f"ASGI_POLLER_{spelling.upper()}"
        for option in _OF_GUNICORN.values()
        for spelling in option.spellings
    }
    return sorted(names.intersection(environ))


def _chosen_elsewhere(environ: Mapping[str, str]) -> set[str]:
    """The options that our variables or our TOML file set."""
    chosen = set(from_environment(environ)[0])
    path = environ.get(CONFIG_VARIABLE)
    if path:
        chosen |= set(from_toml(path)[1])
    return chosen & set(OPTIONS)
