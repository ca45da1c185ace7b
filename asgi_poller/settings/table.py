"""All options by name, and what to say of a name that is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from asgi_poller.errors import ConfigError
from asgi_poller.settings.application import Application, Logging
from asgi_poller.settings.edge import Proxies, Tls
from asgi_poller.settings.http2 import Http2
from asgi_poller.settings.listening import Admission, Listening, Pollers
from asgi_poller.settings.monitoring import Monitoring
from asgi_poller.settings.option import Option, options_of
from asgi_poller.settings.process import Lifetime, Processes, Reload
from asgi_poller.settings.protocol import Http, WebSockets
from asgi_poller.settings.static import Static
from asgi_poller.settings.topics import Topics
from asgi_poller.settings.uvicorn import UvicornOptions

# The order is that of --help and of the settings page.
GROUPS: tuple[tuple[str, type], ...] = (
    ("Listening", Listening),
    ("Application", Application),
    ("Static files", Static),
    ("Pollers", Pollers),
    ("Workers and event loops", Processes),
    ("Lifetime", Lifetime),
    ("HTTP", Http),
    ("HTTP/2", Http2),
    ("WebSockets", WebSockets),
    ("Admission", Admission),
    ("Proxies", Proxies),
    ("TLS", Tls),
    ("Logging", Logging),
    ("Monitoring", Monitoring),
    ("Topics", Topics),
    ("Reloading", Reload),
)
UVICORN_GROUP = "Accepted for uvicorn's sake"

SETTINGS: dict[str, Option] = {
    option.name: option for title, owner in GROUPS for option in options_of(owner, title)
}
"""The options that are attributes of Config."""

OPTIONS: dict[str, Option] = {
    **SETTINGS,
    **{option.name: option for option in options_of(UvicornOptions, UVICORN_GROUP)},
}
"""Every option of the command line, the environment and the TOML file."""

BY_SPELLING: dict[str, Option] = {
    spelling: option for option in OPTIONS.values() for spelling in option.spellings
}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'port'?` or nothing, to be put after a complaint about `name`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def by_option_name(values: dict[str, Any], *, where: str = "") -> dict[str, Any]:
    """`values` under the options' own names, whichever spelling was used.

    Raises ConfigError for an unknown name, with the nearest known one, and for an option given
    under two names. `where` says where the values are from, for the message.
    """
    settled: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for spelling, value in values.items():
        option = BY_SPELLING.get(spelling)
        if option is None:
            hint = nearest(spelling, BY_SPELLING)
            raise ConfigError(spelling, f"there is no such option{where}{hint}")
        if value is None and option.name in settled:
            continue
        if settled.get(option.name) is not None:
            raise ConfigError(spelling, f"says the same as {spelled[option.name]}: give one{where}")
        settled[option.name] = value
        spelled[option.name] = spelling
    return settled


def checked(option: Option, value: object, *, where: str = "") -> Any:
    """A Python or TOML value in its normal form. Raises ConfigError."""
    try:
        return option.kind.check(value)
    except ValueError as error:
        raise ConfigError(option.switch, f"{error}{where}") from None


def parsed(option: Option, text: str, *, where: str = "") -> Any:
    """The value that `text` stands for. Raises ConfigError."""
    try:
        return option.kind.parse(text)
    except ValueError as error:
        raise ConfigError(option.switch, f"{error}{where}") from None
