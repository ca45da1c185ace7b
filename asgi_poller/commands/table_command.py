"""Commands whose options are those of the table: `asgi-poller` itself, and the subcommands that
look at the same options.
"""

from __future__ import annotations

from typing import Any, NoReturn

import click

from asgi_poller.errors import OperatorFault
from asgi_poller.settings.option import Option
from asgi_poller.settings.table import OPTIONS, checked, parsed

PROGRAM = "asgi-poller"
WIDEST_HELP = 100  # columns

OUR_OPTIONS = "Options"
NOTHING = (None, (), "", False)  # defaults that --help need not show

CONTEXT_SETTINGS = {"max_content_width": WIDEST_HELP, "help_option_names": ["-h", "--help"]}


def one_line(kind: str, message: str) -> str:
    """A line of ours on standard error; `kind` is "error" or "warning"."""
    return f"{PROGRAM}: {kind}: {' '.join(message.split())}"


def _refuse(message: str, exit_code: int) -> NoReturn:
    """Prints on one line what the operator has to change, and ends the command."""
    click.echo(one_line("error", message), err=True)
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


class OneLineCommand(click.Command):
    """A command whose faults are one line each."""

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
        """Runs the command; a fault of the operator's is one line."""
        try:
            return super().invoke(ctx)
        except OperatorFault as fault:
            _refuse(str(fault), fault.exit_code)


class SubTableCommand(OneLineCommand):
    """A subcommand that takes the options of serving. Its --help has its own options alone."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes how to call it."""
        formatter.write_usage(ctx.command_path, "[APP] [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options of this command, and where the others are."""
        records = [
            record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            and not isinstance(parameter, TableOption)
            and (record := parameter.get_help_record(ctx)) is not None
        ]
        with formatter.section(OUR_OPTIONS):
            formatter.write_dl(records)
        formatter.write_paragraph()
        formatter.write_text(f"All options of `{PROGRAM} --help` are taken too.")


def serving_parameters() -> list[click.Parameter]:
    """What serving takes: APP, --config and the options of the table."""
    return [
        click.Argument(["app"], required=False, metavar="APP"),
        click.Option(
            ["--config", "config_file"],
            metavar="FILE",
            help="Read options from this TOML file.",
        ),
        *(TableOption(option) for option in OPTIONS.values()),
    ]


def typed_values(ctx: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the table that were typed, by name. Raises ConfigError."""
    return {
        parameter.about.name: parameter.value_of(given[parameter.about.name])
        for parameter in ctx.command.params
        # click gives an option that takes many and was given none as ().
        if isinstance(parameter, TableOption) and given[parameter.about.name] not in (None, ())
    }
