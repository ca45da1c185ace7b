"""`asgi-poller config`: the settings in force, and where each value comes from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click

from asgi_poller.commands.table_command import (
    CONTEXT_SETTINGS,
    SubTableCommand,
    one_line,
    serving_parameters,
    typed_values,
)
from asgi_poller.config import SHARED_VARIABLES, Config
from asgi_poller.settings.option import Option
from asgi_poller.settings.sources import Gathered, gather
from asgi_poller.settings.table import OPTIONS, SETTINGS
from asgi_poller.settings.uvicorn import translate
from asgi_poller.settings.written import as_data, as_toml, as_typed

DEFAULT = "default"
NOT_SHOWN = "(set, not shown)"
_NO_APP = "MODULE:ATTRIBUTE"  # stands for the application where no source names one
_WIDEST_CELL = 46  # columns


@dataclass(frozen=True, slots=True)
class Setting:
    """One option in force. `origin` is DEFAULT, or says who gave it."""

    option: Option
    value: Any
    origin: str

    @property
    def is_given(self) -> bool:
        """Whether anything but its default decided."""
        return self.origin != DEFAULT

    @property
    def is_hidden(self) -> bool:
        """Whether it is a secret that has been given."""
        return self.option.kind.secret and self.value is not None


def settings_in_force(config: Config, gathered: Gathered) -> list[Setting]:
    """Every setting, in the order of --help."""
    origins = {**_uvicorn_origins(gathered), **_shared_origins(config, gathered)}
    found = []
    for name, option in SETTINGS.items():
        value = getattr(config, name)
        origin = gathered.origins.get(name) or origins.get(name, DEFAULT)
        given = gathered.values.get(name, value)
        if given != value and not option.kind.secret:  # "auto" has become a number, for instance
            origin = f"{origin}, given as {', '.join(as_typed(option, given)) or 'nothing'}"
        found.append(Setting(option, value, origin))
    return found


def _uvicorn_origins(gathered: Gathered) -> dict[str, str]:
    """Settings that options of uvicorn's stand for."""
    found: dict[str, str] = {}
    for name, value in gathered.values.items():
        if name in SETTINGS:
            continue
        meant = {name: value}
        translate(meant)
        found |= dict.fromkeys(meant, f"{gathered.origins[name]}, as {OPTIONS[name].switch}")
    return found


def _shared_origins(config: Config, gathered: Gathered) -> dict[str, str]:
    """Settings that uvicorn's two variables are the default of."""
    found = {}
    for name, variable in SHARED_VARIABLES.items():
        if os.environ.get(variable):
            found[name] = f"environment variable {variable}"
        elif getattr(config, name) != SETTINGS[name].default and name not in gathered.values:
            found[name] = f"{variable} in file {config.env_file}"
    return found


def as_text(app: Setting | None, settings: Iterable[Setting]) -> str:
    """A table: the option as it would be typed, and its origin. `app` is its row."""
    rows: list[tuple[str, str]] = []
    if app is not None:
        rows.append((shlex.quote(str(app.value)), app.origin))
    title = ""
    for setting in settings:
        if setting.option.group != title:
            title = setting.option.group
            rows.append((f"\n{title}", ""))
        rows += [(f"  {typed}", setting.origin) for typed in _typed(setting)]
    width = max([len(left) for left, _ in rows if len(left) <= _WIDEST_CELL], default=0)
    return "\n".join(f"{left:<{width}}  {right}".rstrip() for left, right in rows)


def _typed(setting: Setting) -> list[str]:
    """The setting as words of a command line, one line for each time that it is given."""
    option, value = setting.option, setting.value
    if setting.is_hidden:
        masked = option.kind.masked
        return [f"{option.switch} {NOT_SHOWN if masked is None else masked(value)}"]
    if isinstance(value, bool):
        return [option.switch if value else f"--no-{option.flag}"]
    if isinstance(value, dict):
        return [f"{option.switch} (a table)"]
    if value is None and option.kind.flag:
        return [f"{option.switch} (decided at start)"]
    typed = [f"{option.switch} {shlex.quote(text)}" for text in as_typed(option, value)]
    return typed or [f"{option.switch} (empty)"]


def as_toml_file(app: Setting | None, settings: Iterable[Setting]) -> str:
    """A file for --config that means the same. Secrets are left out. Raises ConfigError."""
    lines = []
    if app is not None:
        lines.append(f"{app.option.name} = {as_toml(app.option, app.value)}  # {_plain(app)}")
    title = ""
    for setting in settings:
        option = setting.option
        if option.group != title:
            title = option.group
            lines += ["", f"# {title}"]
        if setting.is_hidden:
            lines.append(f"# {option.name}: {NOT_SHOWN}  # {_plain(setting)}")
        elif setting.value is None and option.kind.flag and option.default is None:
            lines.append(f"# {option.name}: decided at start")
        else:
            lines.append(f"{option.name} = {as_toml(option, setting.value)}  # {_plain(setting)}")
    return "\n".join(lines)


def _plain(setting: Setting) -> str:
    """An origin without what a comment may not hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in setting.origin)


def as_json(app: Setting | None, settings: Iterable[Setting], notices: Iterable[str]) -> str:
    """The same for programs: sizes in bytes, durations in seconds, secrets null."""
    options = {}
    for setting in settings:
        value = None if setting.is_hidden else as_data(setting.option, setting.value)
        options[setting.option.name] = {"value": value, "origin": setting.origin}
        if setting.is_hidden:
            options[setting.option.name]["is_hidden"] = True
    found = {
        "app": None if app is None else {"value": app.value, "origin": app.origin},
        "options": options,
        "warnings": list(notices),
    }
    return json.dumps(found, indent=2, default=str)


def _app_setting(gathered: Gathered) -> Setting | None:
    if gathered.app is None:
        return None
    about = SETTINGS["app_dir"]  # a text as it is
    option = Option(
        name="app",
        kind=about.kind,
        default=None,
        group=about.group,
        help="",
        flag="app",
        note="",
        uvicorn="",
        aliases=(),
    )
    return Setting(option, gathered.app, gathered.origins["app"])


def _run(app: str | None, config_file: str | None, show_all: bool, form: str, **given: Any) -> None:
    """Print the settings that APP would be served with, and where each one comes from: the command
    line, an environment variable, a file, or the default.

    Nothing is imported, and nothing is served. Without --all only what has been given is shown.
    Passwords are never shown. The TOML can be used as a file for --config.
    """
    ctx = click.get_current_context()
    gathered = gather(app, typed_values(ctx, given), file=config_file, environ=None)
    config = Config(gathered.app or _NO_APP, notices=gathered.notices, **gathered.values)
    settings = settings_in_force(config, gathered)
    shown = [setting for setting in settings if show_all or setting.is_given]
    the_app = _app_setting(gathered)
    for notice in config.notices:
        click.echo(one_line("warning", notice), err=True)
    if form == "json":
        text = as_json(the_app, shown, config.notices)
    elif form == "toml":
        text = as_toml_file(the_app, shown)
    else:
        text = as_text(the_app, shown)
    rest = len(settings) - len(shown)
    if rest and form != "json":
        # the first says to a reader of the file what it does not say
        mark = "# " if form == "toml" else ""
        hint = f"{mark}{rest} other options have their defaults: --all shows them."
        text = f"{text.strip(chr(10))}\n\n{hint}".lstrip("\n")
    click.echo(text.strip("\n").encode(errors="backslashreplace"))


def _parameters() -> list[click.Parameter]:
    return [
        *serving_parameters(),
        click.Option(
            ["--all", "show_all"], is_flag=True, help="Show options that have their defaults too."
        ),
        click.Option(
            ["--format", "form"],
            type=click.Choice(["text", "toml", "json"]),
            default="text",
            help="How to write it.  [text]",
        ),
    ]


command = SubTableCommand(
    "config",
    params=_parameters(),
    callback=_run,
    help=_run.__doc__,
    context_settings=CONTEXT_SETTINGS,
)
