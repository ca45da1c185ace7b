"""Rules across options: values that follow from others, contradictions, start-up notices."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from asgi_poller.errors import ConfigError
from asgi_poller.settings.http2 import is_http2_spoken
from asgi_poller.settings.table import SETTINGS

#: What --forwarded-allow-ips takes besides addresses and networks; nothing between two commas.
_PROXY_WORDS = ("", "*", "unix")

Values = dict[str, Any]


def cpu_count() -> int:
    """CPU cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def apply_rules(app: object, values: Values) -> list[str]:
    """Completes `values` (one for every setting, changed in place) and returns the notices,
    a line each.

    Raises ConfigError for settings that cannot both be meant.
    """
    if values["workers"] == "auto":
        values["workers"] = cpu_count()
    _check_app(app, values)
    _check_http(values)
    _check_tls(values)
    _check_monitoring(values)
    return [
        *_reload_notices(values),
        *_worker_notices(values),
        *_listening_notices(values),
        *_monitoring_notices(values),
        *_tls_notices(values),
        *_proxy_notices(values),
        *_log_notices(values),
        *_static_notices(values),
    ]


def _check_app(app: object, values: Values) -> None:
    if isinstance(app, str):
        if not app.strip():
            raise ConfigError("APP", "is empty: give MODULE:ATTRIBUTE, such as main:app")
        return
    if not callable(app):
        raise ConfigError("APP", f"must be MODULE:ATTRIBUTE or an application, not {app!r}")
    reason = "needs the application as text such as 'main:app', so that it can be imported again"
    if values["reload"]:
        raise ConfigError("--reload", reason)
    # A forked worker inherits the object; any other must import it.
    if values["workers"] > 1 and not values["preload"]:
        raise ConfigError("--workers", f"{reason} (or preload=True)")


def _check_http(values: Values) -> None:
    if values["http"] == "2" and not is_http2_spoken("2"):
        raise ConfigError("--http", "2 needs h2: pip install 'asgi-poller[http2]'")
    if "h2" in (values["ssl_alpn"] or ()) and not is_http2_spoken(values["http"]):
        raise ConfigError(
            "--ssl-alpn", "h2 is not spoken: leave it out, or give --http auto, with h2 installed"
        )


def _check_tls(values: Values) -> None:
    if values["ssl_certfile"] is None:
        for name in ("ssl_keyfile", "bind_tls"):
            if values[name]:
                raise ConfigError(
                    SETTINGS[name].switch, "needs a certificate: give --ssl-certfile too"
                )
    elif values["ssl_cert_reqs"] and values["ssl_ca_certs"] is None:
        raise ConfigError(
            "--ssl-cert-reqs",
            "needs --ssl-ca-certs, the authorities that client certificates come from",
        )


def _check_monitoring(values: Values) -> None:
    """Where both are written alike; that a port is taken otherwise, binding it shows."""
    served = [*values["bind"], *values["bind_tls"]]
    if not served and values["uds"] is None and values["fd"] is None:
        served.append(f"{values['host']}:{values['port']}")
    metrics = values["metrics"]
    if metrics in served and not metrics.endswith(":0"):
        raise ConfigError("--metrics", f"{metrics} is where the server listens: give another port")


def _reload_notices(values: Values) -> list[str]:
    if values["reload"]:
        if values["preload"]:
            raise ConfigError("--preload", "cannot be combined with --reload: leave one out")
        if values["workers"] == 1:
            return []
        values["workers"] = 1
        return ["--workers is ignored with --reload"]
    unused = [
        name for name in ("reload_dirs", "reload_includes", "reload_excludes") if values[name]
    ]
    return [f"{SETTINGS[name].switch} does nothing without --reload" for name in unused]


def _static_notices(values: Values) -> list[str]:
    if values["static_path_mount"]:
        return []
    return [
        f"{SETTINGS[name].switch} does nothing without --static-path-mount"
        for name in ("static_path_dir_to_file", "static_path_expires")
        if values[name] != SETTINGS[name].default
    ]


def _worker_notices(values: Values) -> list[str]:
    """What only a supervisor can do. (--limit-max-requests ends a single process, as uvicorn's.)"""
    if values["workers"] > 1 or values["reload"]:
        return []
    notices = []
    if values["drain_spread"] and not values["drain_delay"]:
        notices.append("--drain-spread does nothing without --workers or --drain-delay")
    return notices + [
        f"{SETTINGS[name].switch} does nothing without --workers 2 or more"
        for name in (
            "preload",
            "worker_max_lifetime",
            "worker_max_memory",
            "worker_nice",
        )
        if values[name] != SETTINGS[name].default
    ]


def _listening_notices(values: Values) -> list[str]:
    others = [name for name in ("uds", "fd", "bind", "bind_tls") if values[name] not in (None, ())]
    if not others:
        return []
    instead = SETTINGS[others[0]].switch
    return [
        f"{SETTINGS[name].switch} is not used, as {instead} says where to listen: add --bind"
        for name in ("host", "port")
        if values[name] != SETTINGS[name].default
    ]


def _monitoring_notices(values: Values) -> list[str]:
    notices = []
    if values["metrics_token"] is not None and values["metrics"] is None:
        notices.append("--metrics-token does nothing without --metrics")
    if values["drain_delay"] and values["reload"]:
        notices.append("--drain-delay does nothing with --reload")
    return notices


def _tls_notices(values: Values) -> list[str]:
    if values["ssl_certfile"] is not None:
        return []
    unused = [
        name
        for name, option in SETTINGS.items()
        if name.startswith("ssl_") and values[name] != option.default
    ]
    return [f"{SETTINGS[name].switch} does nothing without --ssl-certfile" for name in unused]


def _proxy_notices(values: Values) -> list[str]:
    """Words that look as if they meant a proxy. A mistyped address is an error elsewhere."""
    words = [word.strip() for word in values["forwarded_allow_ips"].split(",")]
    nobody = [word for word in words if word not in _PROXY_WORDS and not _is_network(word)]
    if not nobody or not (values["proxy_headers"] or values["proxy_protocol"]):
        return []
    return [
        f"--forwarded-allow-ips: {', '.join(map(repr, nobody))} matches no proxy:"
        " give addresses, networks, unix or *; host names are not looked up"
    ]


def _log_notices(values: Values) -> list[str]:
    """Formats are of the built-in configuration; another one says its own."""
    given = [
        name
        for name in ("log_format", "access_log_format")
        if values[name] != SETTINGS[name].default
    ]
    if not given:
        return []
    switches = [SETTINGS[name].switch for name in given]
    if values["log_config"] is None:
        return [f"{switch} does nothing where logging is left alone" for switch in switches]
    if values["log_config"] != SETTINGS["log_config"].default:
        raise ConfigError(
            switches[0],
            "cannot be combined with --log-config: name the formatter in that configuration",
        )
    if len(given) > 1:
        raise ConfigError(
            switches[1], "cannot be combined with --log-format json, which has all fields"
        )
    unused = []
    if values["access_log_format"] is not None and not values["access_log"]:
        unused.append("--access-log-format does nothing with --no-access-log")
    if values["log_format"] == "json" and values["use_colors"]:
        unused.append("--use-colors does nothing with --log-format json")
    return unused


def _is_network(word: str) -> bool:
    try:
        ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False
    return True
