"""What is known of one option, and the function that declares one as a dataclass field."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from asgi_poller.settings.kinds import BYTES_PER_UNIT, Kind

T = TypeVar("T")

ENVIRONMENT_PREFIX = "ASGI_POLLER_"
METADATA_KEY = "option"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: everything but its value. Immutable, any thread.

    `name` is the attribute of `Config` and the TOML key, `flag` its name on the command line
    without dashes, `aliases` other keywords that mean the same. `help` is one sentence; `note` goes
    to the settings page only: what happens beyond a limit and where the number comes from.
    `uvicorn` is "same" where name and default are uvicorn's, else uvicorn's default as text, and
    empty where uvicorn has no such option.
    """

    name: str
    kind: Kind
    default: Any
    group: str
    help: str
    flag: str
    note: str
    uvicorn: str
    aliases: tuple[str, ...]

    @property
    def switch(self) -> str:
        """The option as it is typed: `--ws-max-size`."""
        return f"--{self.flag}"

    @property
    def variable(self) -> str:
        """The environment variable: `ASGI_POLLER_WS_MAX_SIZE`."""
        return ENVIRONMENT_PREFIX + self.flag.upper().replace("-", "_")

    @property
    def unit(self) -> str:
        """What a bare number means: "seconds", "bytes", or nothing."""
        return {"SECONDS": "seconds", "SIZE": "bytes"}.get(self.kind.metavar, "")

    @property
    def shown_default(self) -> str:
        """The default as it would be typed: `16MiB`, `10s`, `on`, `none`."""
        return _as_typed(self.default, self.kind.metavar)

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every keyword that means this option, the attribute's name first."""
        return tuple(dict.fromkeys((self.name, self.flag.replace("-", "_"), *self.aliases)))


def _as_typed(value: Any, metavar: str) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if metavar == "SECONDS":
        return f"{value:g}s"
    if metavar == "MODE":
        return f"{value:o}"
    if metavar == "SIZE":
        for unit, size in (("MiB", BYTES_PER_UNIT["m"]), ("KiB", BYTES_PER_UNIT["k"])):
            if value and value % size == 0:
                return f"{value // size}{unit}"
    return str(value) or "empty"


def option(
    default: T,
    kind: Kind,
    help: str,
    *,
    flag: str = "",
    note: str = "",
    uvicorn: str = "",
    aliases: tuple[str, ...] = (),
) -> T:
    """A dataclass field that carries an Option. Typed as the field's value so that attributes keep
    their types.
    """
    about = {
        "kind": kind,
        "default": default,
        "help": help,
        "flag": flag,
        "note": note,
        "uvicorn": uvicorn,
        "aliases": aliases,
    }
    # A secret stays out of repr(), and so out of logs.
    return dataclasses.field(default=default, repr=not kind.secret, metadata={METADATA_KEY: about})


def options_of(owner: type, group: str) -> tuple[Option, ...]:
    """The options that a class of declarations holds itself, in their order."""
    return tuple(
        Option(
            **{
                **field.metadata[METADATA_KEY],
                "name": field.name,
                "group": group,
                "flag": field.metadata[METADATA_KEY]["flag"] or field.name.replace("_", "-"),
            }
        )
        for field in dataclasses.fields(owner)
    )
