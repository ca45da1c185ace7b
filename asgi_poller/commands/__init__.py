"""The subcommands: what `asgi-poller` does besides serving.

A subcommand is the first argument, exactly, so no application is hidden: one has a colon in its
name. Its module has a `command`, and is imported only when it is asked for.
"""

from __future__ import annotations

from typing import NamedTuple


class Subcommand(NamedTuple):
    """The module with the `command`, and the line of --help."""

    module: str
    help: str


SUBCOMMANDS = {
    "check": Subcommand(
        "asgi_poller.commands.check",
        "Check options, files and the application's import; serve nothing.",
    ),
    "config": Subcommand(
        "asgi_poller.commands.show_config",
        "Print the settings in force, and where each comes from.",
    ),
    "status": Subcommand(
        "asgi_poller.commands.status",
        "Show how a running server is, once or every second.",
    ),
}
