"""Where options come from besides the command line and Python: environment variables and a TOML
file.

Each function returns checked values by attribute name and raises ConfigError that names the source.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from asgi_poller.errors import ConfigError
from asgi_poller.settings.option import ENVIRONMENT_PREFIX, Option
from asgi_poller.settings.table import (
    BY_SPELLING,
    OPTIONS,
    by_option_name,
    checked,
    nearest,
    parsed,
)
from asgi_poller.settings.uvicorn import without_objects

APP_VARIABLE = f"{ENVIRONMENT_PREFIX}APP"
CONFIG_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG"
_UVICORN_PREFIX = "UVICORN_"
_BY_VARIABLE = {
    f"{ENVIRONMENT_PREFIX}{name.upper()}": option for name, option in BY_SPELLING.items()
}

# Kubernetes describes a service called asgi-poller to its neighbours in variables of our prefix.
_KUBERNETES = re.compile(r"(SERVICE_.*|PORT(_\d+_(TCP|UDP).*)?)")
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp)://.*")


COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What all sources say together, before rules across options. `values` and `origins` are by
    option name, one origin for each value: COMMAND_LINE, "environment variable NAME", "file FILE".
    `origins` has the application's too, as "app". `notices` are lines for the operator.
    """

    app: Any
    values: dict[str, Any]
    origins: dict[str, str]
    notices: tuple[str, ...]


def gather(
    app: Any, options: Mapping[str, Any], *, file: str | None, environ: Mapping[str, str] | None
) -> Gathered:
    """`options` before the environment before the TOML `file`; `app` is None if no source has one.

    `environ` is os.environ unless given; passwords are taken out of it. Raises ConfigError.
    """
    if environ is None:
        take_secrets()
        environ = {**taken_secrets, **os.environ}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    file = file or environ.get(CONFIG_VARIABLE) or None
    file_app = None
    if file is not None:
        file_app, values = from_toml(file)
        origins = dict.fromkeys((*values, "app") if file_app else values, f"file {file}")
    found, notices = from_environment(environ)
    values |= found
    for variable in environ:
        name = _BY_VARIABLE[variable].name if variable in _BY_VARIABLE else None
        if name in found:
            origins[name] = _of_variable(variable)
    typed = really_given(by_option_name(without_objects(dict(options))))
    values |= typed
    origins |= dict.fromkeys(typed, COMMAND_LINE)
    if app:
        origins["app"] = COMMAND_LINE
    elif environ.get(APP_VARIABLE):
        app, origins["app"] = environ[APP_VARIABLE], _of_variable(APP_VARIABLE)
    return Gathered(app or file_app, values, origins, tuple(notices))


def really_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose value is one. None is one only for options that have it as a value."""
    return {
        name: value
        for name, value in given.items()
        if value is not None or OPTIONS[name].kind.nullable
    }


def _of_variable(variable: str) -> str:
    return f"environment variable {variable}"


#: Secrets that were taken out of the environment: for the process that is to replace this one.
taken_secrets: dict[str, str] = {}


def take_secrets() -> None:
    """Take the variables with passwords out of os.environ: no process that the application starts
    inherits them, and nothing that shows an environment shows them.
    """
    for variable, option in _BY_VARIABLE.items():
        if option.kind.secret and variable in os.environ:
            taken_secrets[variable] = os.environ.pop(variable)


def from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Values of the ASGI_POLLER_ variables, and a line for each variable of that prefix that is no
    option's, and one for those of uvicorn's.
    """
    known = _BY_VARIABLE
    reserved = {APP_VARIABLE, CONFIG_VARIABLE}
    values: dict[str, Any] = {}
    notices = []
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in reserved:
            continue
        if _is_of_kubernetes(variable.removeprefix(ENVIRONMENT_PREFIX), text):
            continue
        option = known.get(variable)
        if option is None:
            # No error: others may set variables that begin like ours.
            notices.append(f"{variable} is set, but is no option{nearest(variable, known)}")
        else:
            values[option.name] = parsed(option, text, where=f" (from {variable})")
    return values, [*notices, *_of_uvicorn(environ, known)]


def _of_uvicorn(environ: Mapping[str, str], known: Container[str]) -> list[str]:
    """One line for all of uvicorn's variables, which we do not read; none if there are none."""
    pairs = []
    for variable, text in environ.items():
        name = variable.removeprefix(_UVICORN_PREFIX)
        ours = ENVIRONMENT_PREFIX + name
        if name == variable or _is_of_kubernetes(name, text):
            continue
        if ours == APP_VARIABLE or ours in known:
            pairs.append(f"{variable} (set {ours})")
        else:
            pairs.append(f"{variable} (we have none like it)")
    return [f"uvicorn's variables are not read: {', '.join(pairs)}"] if pairs else []


def _is_of_kubernetes(rest: str, text: str) -> bool:
    if rest == "PORT":
        return _KUBERNETES_ADDRESS.fullmatch(text) is not None
    return _KUBERNETES.fullmatch(rest) is not None


def from_toml(path: str) -> tuple[str | None, dict[str, Any]]:
    """The application (key `app`) and the values of a TOML file. In keys, - and _ are the same."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError("--config", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("--config", f"{path} is not valid TOML: {error}") from error
    where = f" (in {path})"
    app = document.pop("app", None)
    if app is not None and not isinstance(app, str):
        raise ConfigError("app", f"must be text such as 'module:app'{where}")
    values: dict[str, Any] = {}
    for key, value in document.items():
        if values.setdefault(key.replace("-", "_"), value) is not value:
            raise ConfigError(key, f"is given twice, with - and with _{where}")
    named = by_option_name(values, where=where)
    return app, {
        name: checked(OPTIONS[name], _toml_value(OPTIONS[name], value), where=where)
        for name, value in named.items()
    }


def _toml_value(option: Option, value: object) -> object:
    """TOML has no null: "none" is None where the option can be that, as on the command line."""
    is_none = isinstance(value, str) and value.strip().lower() == "none"
    return None if is_none and option.kind.nullable else value


def env_file_values(path: str) -> dict[str, str]:
    """What an --env-file sets. Changes nothing. Raises ConfigError: not installed, not readable."""
    try:
        from dotenv import dotenv_values
    except ImportError as error:
        raise ConfigError(
            "--env-file", "needs python-dotenv: pip install 'asgi-poller[standard]'"
        ) from error
    if not os.path.isfile(path):
        raise ConfigError("--env-file", f"there is no file {path}")
    try:
        found = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--env-file", f"{path} cannot be read: {error}") from error
    return {name: value for name, value in found.items() if value is not None}
