"""The command line: `asgi-poller APP [OPTIONS]`, made from the table of options, and its
subcommands.

The only module that ends the process. Whatever the operator has to change is one line on standard
error and an exit code: 2 for an option, 1 for an address, 3 for an application that does not start
(as uvicorn's).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from asgi_poller.commands import SUBCOMMANDS
from asgi_poller.commands.table_command import (
    CONTEXT_SETTINGS,
    OUR_OPTIONS,
    PROGRAM,
    OneLineCommand,
    TableOption,
    serving_parameters,
    typed_values,
)
from asgi_poller.config import Config
from asgi_poller.system.build import build_kind, our_version


class ServerCommand(OneLineCommand):
    """The command: subcommands, and --help by groups."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:
        """Runs the subcommand that the first argument names, or serves."""
        first = (sys.argv[1:] if args is None else args)[:1]
        if first and first[0] in SUBCOMMANDS:
            name = first[0]
            subcommand: click.Command = import_module(SUBCOMMANDS[name].module).command
            arguments = list(sys.argv[1:] if args is None else args)[1:]
            return subcommand.main(arguments, *rest, **more | {"prog_name": f"{PROGRAM} {name}"})
        return super().main(args, *rest, **more)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes how to serve, and how to call a subcommand."""
        formatter.write_usage(PROGRAM, "APP [OPTIONS]")
        formatter.write_usage(PROGRAM, f"{'|'.join(SUBCOMMANDS)} [APP] [OPTIONS]", prefix=" " * 7)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the subcommands, and the options under the headings of the table."""
        with formatter.section("Subcommands"):
            formatter.write_dl([(name, about.help) for name, about in SUBCOMMANDS.items()])
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


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    ours = our_version() or "(not installed)"  # run from a source tree
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
    config = Config.from_sources(app, file=config_file, **typed_values(ctx, given))
    # Imported late: --help and a mistyped option need not wait for it.
    from asgi_poller.serve_main import serve

    ctx.exit(serve(config, owns_process=True))


def _parameters() -> list[click.Parameter]:
    app, config_file, *options = serving_parameters()
    version_option = click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_print_version,
        help="Show the version and exit.",
    )
    return [app, config_file, version_option, *options]


command = ServerCommand(
    PROGRAM,
    params=_parameters(),
    callback=_run,
    help=_run.__doc__,
    context_settings=CONTEXT_SETTINGS,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process with its exit code."""
    command.main(None if arguments is None else list(arguments), prog_name=PROGRAM)
    sys.exit(0)  # not reached: click ends the process itself
