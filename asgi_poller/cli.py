"""The command line: `asgi-poller APP [OPTIONS]`, made from the table of options.

The only module that ends the process. Whatever the operator has to change is one line on standard
error and an exit code: 2 for an option, 1 for an address, 3 for an application that does not start
(as uvicorn's).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NoReturn

import click

from asgi_poller.config import Config
from asgi_poller.errors import OperatorFault
from asgi_poller.settings.option import Option
from asgi_poller.settings.table import OPTIONS, checked, parsed

PROGRAM = "asgi-poller"
WIDEST_HELP = 100  # columns
_HOT_MODULE = "asgi_poller.protocols.http1.parser"  # of those that a build may compile

OUR_OPTIONS = "Options"
NOTHING = (None, (), "", False)  # defaults that --help need not show


def _refuse(message: str, exit_code: int) -> NoReturn:
    """Prints on one line what the operator has to change, and ends the command."""
    click.echo(f"{PROGRAM}: error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(exit_code)


class TableOption(click.Option):
    """A click option made from an Option of the table. Its value is None unless it was typed."""

    def __init__(self, about: Option) -> None:
        self.about = about
        others = [f"--{name.replace('_', '-')}" for name in about.spellings]
        spellings = list(dict.fromkeys([about.switch, *others]))
        if about.kind.flag:
            spellings = [f"{name}/--no-{name[2:]}" for name in spellings]
        super().__init__(
            [*spellings, about.name],
            default=None,
            multiple=about.kind.repeatable,
            metavar=None if about.kind.flag else about.kind.metavar,
            help=about.help,
            # Text is read by the table, so that every source of options has the same messages.
            type=None if about.kind.flag else click.STRING,
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """The line of --help: other spellings are left out, repetition and default added."""
        about = self.about
        if about.kind.flag:
            typed = f"{about.switch} / --no-{about.flag}"
        else:
            typed = f"{about.switch} {about.kind.metavar}"
        repeat = " May be repeated." if about.kind.repeatable else ""
        default = f"  [{about.shown_default}]" if about.default not in NOTHING else ""
        return typed, f"{about.help}{repeat}{default}"

    def value_of(self, raw: Any) -> Any:
        """The typed value. Raises ConfigError."""
        if self.about.kind.flag:
            return raw
        if self.about.kind.repeatable:
            return checked(self.about, raw)
        return parsed(self.about, raw)


class ServerCommand(click.Command):
    """The command: --help by groups, faults on one line."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Reads the arguments; a mistake in them is one line, without click's usage lines."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            _refuse(error.format_message(), error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the server; a fault of the operator's is one line."""
        try:
            return super().invoke(ctx)
        except OperatorFault as fault:
            _refuse(str(fault), fault.exit_code)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options under the headings of the table."""
        groups: dict[str, list[tuple[str, str]]] = {OUR_OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                title = OUR_OPTIONS
                if isinstance(parameter, TableOption):
                    title = parameter.about.group
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def build_kind() -> str:
    """Whether the hot modules are compiled (hatch_build.py): "compiled" or "pure"."""
    spec = find_spec(_HOT_MODULE)
    is_compiled = spec is not None and isinstance(spec.loader, ExtensionFileLoader)
    return "compiled" if is_compiled else "pure"


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    try:
        ours = version(PROGRAM)
    except PackageNotFoundError:
        ours = "(not installed)"  # run from a source tree
    python = f"{platform.python_implementation()} {platform.python_version()}"
    click.echo(f"{PROGRAM} {ours} ({build_kind()}) with {python} on {platform.system()}")
    ctx.exit()


def _run(app: str | None, config_file: str | None, **given: Any) -> None:
    """Serve the ASGI application APP, given as MODULE:ATTRIBUTE.

    Every option can also be set by an environment variable (--ws-max-size: ASGI_POLLER_WS_MAX_SIZE)
    and in a TOML file (ws_max_size = "16MiB"). The command line goes first, then the environment,
    then the file. Durations are seconds or 50ms, 5s, 2m, 1h; sizes are bytes or 64k, 16MiB, 1g;
    "none" takes a limit off.
    """
    ctx = click.get_current_context()
    values = {
        parameter.about.name: parameter.value_of(given[parameter.about.name])
        for parameter in ctx.command.params
        # click gives an option that takes many and was given none as ().
        if isinstance(parameter, TableOption) and given[parameter.about.name] not in (None, ())
    }
    config = Config.from_sources(app, file=config_file, **values)
    # Imported late: --help and a mistyped option need not wait for it.
    from asgi_poller.serve_main import serve

    ctx.exit(serve(config, owns_process=True))


def _parameters() -> list[click.Parameter]:
    return [
        click.Argument(["app"], required=False, metavar="APP"),
        click.Option(
            ["--config", "config_file"],
            metavar="FILE",
            help="Read options from this TOML file.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
        ),
        *(TableOption(option) for option in OPTIONS.values()),
    ]


command = ServerCommand(
    PROGRAM,
    params=_parameters(),
    callback=_run,
    help=_run.__doc__,
    context_settings={
        "max_content_width": WIDEST_HELP,
        "help_option_names": ["-h", "--help"],
    },
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process with its exit code."""
    command.main(None if arguments is None else list(arguments), prog_name=PROGRAM)
    sys.exit(0)  # not reached: click ends the process itself
