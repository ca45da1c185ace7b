"""`Config`: every setting of a server, checked, in one immutable object.

It acts on nothing: no application is imported, no socket is bound, no logging is set up (the
Config that programs embed, in asgi_poller.embedding, does). It reads the two environment variables
that uvicorn reads (WEB_CONCURRENCY, FORWARDED_ALLOW_IPS), and `Config.from_sources` the
ASGI_POLLER_ ones.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from asgi_poller.errors import ConfigError
from asgi_poller.settings import sources
from asgi_poller.settings.application import Application, Logging
from asgi_poller.settings.edge import Proxies, Tls
from asgi_poller.settings.http2 import Http2
from asgi_poller.settings.listening import Admission, Listening, Pollers
from asgi_poller.settings.monitoring import Monitoring
from asgi_poller.settings.process import Lifetime, Processes, Reload
from asgi_poller.settings.protocol import Http, WebSockets
from asgi_poller.settings.rules import apply_rules
from asgi_poller.settings.static import Static
from asgi_poller.settings.table import OPTIONS, SETTINGS, by_option_name, checked, parsed
from asgi_poller.settings.topics import Topics
from asgi_poller.settings.uvicorn import translate, without_objects

ASGIApplication: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""ASGI 3: `await app(scope, receive, send)`."""

App: TypeAlias = str | Callable[..., Any]
"""What a user may pass: `module:attribute`, an application, or a factory (with `factory=True`)."""

# uvicorn's variables, by the option that each is the default of.
SHARED_VARIABLES = {"workers": "WEB_CONCURRENCY", "forwarded_allow_ips": "FORWARDED_ALLOW_IPS"}


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Config(
    Listening,
    Pollers,
    Admission,
    Processes,
    Lifetime,
    Reload,
    Http,
    Http2,
    WebSockets,
    Proxies,
    Tls,
    Application,
    Static,
    Logging,
    Monitoring,
    Topics,
):
    """All settings. Immutable, any thread; can be pickled if `app` is a string, so that workers can
    be given it.

    `Config("module:app", port=8001, workers="auto")`: attribute names are those of the command line
    with underscores; the first four may be positional, as uvicorn's. Durations are seconds, sizes
    bytes; text with a unit (`"16MiB"`, `"50ms"`) is accepted for both. None means "not given"
    unless None is a value of the option. uvicorn's keywords are understood. Raises ConfigError for
    an unknown keyword (with the nearest known one), a wrong type or range, and settings that
    contradict each other.

    `notices` are lines that the operator should read once, at start-up.
    """

    app: App
    notices: tuple[str, ...] = field(default=(), compare=False)

    def __init__(
        self,
        app: App,
        host: str | None = None,
        port: int | str | None = None,
        uds: str | os.PathLike[str] | None = None,
        *,
        notices: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        options |= {"host": host, "port": port, "uds": uds}
        given = by_option_name(without_objects(options))
        given = {
            name: checked(OPTIONS[name], value)
            for name, value in sources.really_given(given).items()
        }
        found = translate(given)
        values = {option.name: option.default for option in SETTINGS.values()}
        values |= _from_shared_variables(given) | given
        found += apply_rules(app, values)
        values |= {"app": app, "notices": tuple(dict.fromkeys((*notices, *found)))}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_sources(
        cls,
        app: App | None = None,
        *,
        file: str | None = None,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Config:
        """Settings from all sources: `options` before the environment before the TOML `file` before
        the defaults.

        `environ` is os.environ unless given; passwords are taken out of it. Raises ConfigError as
        the constructor does, also if no source says which application to serve.
        """
        gathered = sources.gather(app, options, file=file, environ=environ)
        if gathered.app is None:
            raise ConfigError(
                "APP", "is missing: give the application as MODULE:ATTRIBUTE, such as main:app"
            )
        return cls(gathered.app, notices=gathered.notices, **gathered.values)

    @property
    def longest_stop_s(self) -> float:
        """What a stop with --drain-delay may take until the lifespan's shutdown."""
        return self.drain_delay + self.drain_spread + self.timeout_graceful_shutdown


def _from_shared_variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """What uvicorn's two variables say, for the options that are not given. The --env-file may set
    them too.
    """
    if all(name in given for name in SHARED_VARIABLES):
        return {}
    env_file = given.get("env_file")
    environ = {**(sources.env_file_values(env_file) if env_file else {}), **os.environ}
    return {
        name: parsed(OPTIONS[name], environ[variable], where=f" (from {variable})")
        for name, variable in SHARED_VARIABLES.items()
        if name not in given and environ.get(variable)
    }
