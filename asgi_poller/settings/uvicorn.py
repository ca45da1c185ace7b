"""Options of uvicorn's that are no settings of ours: accepted, so that a command line or a call of
`uvicorn.run` works unchanged, and turned into our own, or refused with what to do instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgi_poller.errors import ConfigError
from asgi_poller.settings.http2 import is_http2_spoken
from asgi_poller.settings.kinds import choice, flag, optional, seconds, size
from asgi_poller.settings.option import option
from asgi_poller.settings.process import Lifetime

Given = dict[str, Any]


@dataclass(frozen=True, kw_only=True, init=False)
class UvicornOptions:
    """Accepted for uvicorn's sake. Not attributes of Config."""

    __slots__ = ()

    http2: bool | None = option(
        None, optional(flag()), "The same as --http auto; --no-http2 as --http 1.", uvicorn="off"
    )
    interface: str = option(
        "auto",
        choice("auto", "asgi3", also=("asgi2", "wsgi")),
        "Application interface: ASGI 3 is the only one.",
        uvicorn="same",
    )
    h11_max_incomplete_event_size: int | None = option(
        None, optional(size(256)), "The same as --limit-request-head.", uvicorn="same"
    )
    timeout_worker_healthcheck: float | None = option(
        None,
        optional(seconds(0.001)),
        "Raises the timeouts of worker start-up and heartbeat to this; never lowers them.",
        note="uvicorn's limit both for a worker to get ready and for its answer to a ping, which a "
        "thread gives. Ours is answered by the event loop, so a low value would end workers that "
        "uvicorn leaves alone.",
        uvicorn="5",
    )


# Keywords of uvicorn.Config that take objects, and what to do instead.
REFUSED_OBJECTS = {
    "ssl_context_factory": "is not supported: use ssl_certfile and the other ssl_ options",
    "callback_notify": "is not supported: start a task in the application's lifespan instead",
}
# Without meaning once callback_notify is refused.
IGNORED = ("timeout_notify",)


def without_objects(options: Given) -> Given:
    """`options` without those keywords. Raises ConfigError for one that was really used."""
    for name, problem in REFUSED_OBJECTS.items():
        if options.get(name):
            raise ConfigError(name, problem)
    set_aside = {*REFUSED_OBJECTS, *IGNORED}
    return {name: value for name, value in options.items() if name not in set_aside}


def translate(given: Given) -> list[str]:
    """Takes uvicorn's own options out of `given` (attribute names to checked values, changed in
    place), and replaces values of ours that only uvicorn has. Returns a line for each thing that
    the operator should know. Raises ConfigError.
    """
    notices: list[str] = []
    for name, translator in _TRANSLATORS.items():
        if given.get(name) is not None:
            notices += translator(given)
    for field in dataclasses.fields(UvicornOptions):
        given.pop(field.name, None)
    return notices


def _http(given: Given) -> list[str]:
    if given["http"] in ("h11", "zttp"):
        raise ConfigError(
            "--http", f"{given['http']} is not used here: leave it out (httptools parses)"
        )
    if given["http"] == "httptools":
        given["http"] = "1"
    return []


def _http2(given: Given) -> list[str]:
    wanted, http = given["http2"], given.get("http", "auto")
    if wanted is None:
        return []
    if http == ("1" if wanted else "2"):
        raise ConfigError(
            "--http2" if wanted else "--no-http2",
            f"contradicts --http {http}: leave one of them out",
        )
    if wanted and not is_http2_spoken("2"):
        raise ConfigError("--http2", "needs h2: pip install 'asgi-poller[http2]'")
    given["http"] = http if wanted else "1"
    return []


def _interface(given: Given) -> list[str]:
    if given["interface"] == "wsgi":
        raise ConfigError(
            "--interface", "wsgi is not served: wrap the application in a2wsgi.WSGIMiddleware"
        )
    if given["interface"] == "asgi2":
        raise ConfigError(
            "--interface",
            "asgi2 is not served: wrap the application in "
            "asgiref.compatibility.guarantee_single_callable",
        )
    return []


def _loop(given: Given) -> list[str]:
    if given["loop"] != "none":
        return []
    given["loop"] = "asyncio"
    return ["--loop none is uvicorn's; using asyncio"]


def _ws(given: Given) -> list[str]:
    if given["ws"] not in ("websockets", "websockets-sansio"):
        return []
    name, given["ws"] = given["ws"], "auto"
    return [f"--ws {name} is uvicorn's; using auto"]


def _h11_size(given: Given) -> list[str]:
    given.setdefault("limit_request_head", given["h11_max_incomplete_event_size"])
    return []


def _healthcheck(given: Given) -> list[str]:
    for field in dataclasses.fields(Lifetime):
        if field.name in ("timeout_worker_startup", "timeout_worker_heartbeat"):
            given.setdefault(field.name, max(given["timeout_worker_healthcheck"], field.default))
    return []


_TRANSLATORS: dict[str, Callable[[Given], list[str]]] = {
    "http": _http,
    "http2": _http2,
    "interface": _interface,
    "loop": _loop,
    "ws": _ws,
    "h11_max_incomplete_event_size": _h11_size,
    "timeout_worker_healthcheck": _healthcheck,
}
