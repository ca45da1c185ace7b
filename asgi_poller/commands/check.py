"""`asgi-poller check`: everything that would stop the server from starting, found without serving.

No address is bound, no thread started, no lifespan run. The application's module is imported (and
its factory called), as that is what fails most often.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from asgi_poller import platform
from asgi_poller.asgi.proxy_headers import TrustedHosts
from asgi_poller.asgi.static_files import static_mounts
from asgi_poller.commands.table_command import (
    CONTEXT_SETTINGS,
    SubTableCommand,
    one_line,
    serving_parameters,
    typed_values,
)
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError, OperatorFault
from asgi_poller.importer import load_application
from asgi_poller.listeners.examine import address_faults
from asgi_poller.logs import configure_logging
from asgi_poller.loops.loop_factory import loop_factory
from asgi_poller.loops.request_filter import request_filter
from asgi_poller.monitor.monitor import require_library
from asgi_poller.privileges import resolve
from asgi_poller.serve.limits_wiring import reads_heads
from asgi_poller.serve.runner import end_process_soon
from asgi_poller.supervisor.reloader import watched_directories
from asgi_poller.tls import context_of
from asgi_poller.topics.upstreams import reached_service, require_service


def faults(config: Config) -> Iterator[OperatorFault]:
    """What would keep the server from starting, in the order in which a start would meet it."""
    first: list[Callable[[], object]] = [
        lambda: configure_logging(config),
        lambda: resolve(config.user, config.group),
        lambda: loop_factory(config.loop),
        lambda: _check_processes(config),
        lambda: _check_pid_file(config),
        lambda: require_library(config),
        lambda: require_service(config),
    ]
    then: list[Callable[[], object]] = [
        lambda: context_of(config),
        lambda: TrustedHosts(config.forwarded_allow_ips),
        lambda: request_filter(config),
        lambda: static_mounts(config),
        lambda: reads_heads(config, workers=config.workers > 1),
        lambda: load_application(config),
    ]
    yield from _raised_by(first)
    yield from address_faults(config)
    yield from _raised_by(then)


def warnings(config: Config) -> Iterator[str]:
    """What the operator should know, although the server starts."""
    yield from config.notices
    identity = None
    try:
        identity = resolve(config.user, config.group)
    except ConfigError:
        return  # it is among the faults
    if identity is not None and os.geteuid() not in (0, identity.uid):
        yield f"--user and --group take root; this check runs as uid {os.geteuid()}"


def _raised_by(steps: Iterable[Callable[[], object]]) -> Iterator[OperatorFault]:
    for step in steps:
        try:
            step()
        except OperatorFault as fault:
            yield fault


def _check_processes(config: Config) -> None:
    if config.workers > 1:
        platform.require_fd_passing("--workers")
        if config.preload:
            platform.require_fork("--preload")
    if config.reload:
        watched_directories(config)


def _check_pid_file(config: Config) -> None:
    if config.pid_file is None:
        return
    directory = os.path.dirname(config.pid_file) or "."
    if not os.path.isdir(directory):
        raise ConfigError("--pid", f"there is no directory {directory} for {config.pid_file}")


def _look_at_service(config: Config) -> int:
    """Say in a line whether the service of --topics answers; the exit code."""
    try:
        click.echo(f"--topics: {reached_service(config)}")
    except OperatorFault as fault:
        click.echo(one_line("error", str(fault)), err=True)
        return fault.exit_code
    return 0


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _run(app: str | None, config_file: str | None, **given: Any) -> None:
    """Check that APP could be served with these options, and serve nothing.

    Reads every source of options, the logging configuration, certificates and keys, looks up hosts,
    users and directories, imports the application, and asks the service of --topics whether it
    answers. Does not bind an address, so that it can run beside the server, and does not run the
    application's lifespan. Each finding is one line.

    Exit code as the server's would be: 0 if it could start, 2 for a wrong option, 1 for an address,
    3 for an application that cannot be loaded. The first fault decides.
    """
    ctx = click.get_current_context()
    config = Config.from_sources(app, file=config_file, **typed_values(ctx, given))
    warning_count = exit_code = fault_count = 0
    for warning in warnings(config):
        warning_count += 1
        click.echo(one_line("warning", warning), err=True)
    for fault in faults(config):
        exit_code = exit_code or fault.exit_code
        fault_count += 1
        click.echo(one_line("error", str(fault)), err=True)
    if config.topics is not None and not exit_code:
        exit_code = _look_at_service(config)
        fault_count += exit_code and 1
    counted = _counted(warning_count, "warning")
    if fault_count:
        counted = f"{_counted(fault_count, 'error')}, {counted}"
    verdict = "cannot be served" if fault_count else "can be served"
    click.echo(f"{config.app} {verdict}: {counted}")
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if not all(each.daemon for each in others):
        end_process_soon(exit_code)  # the application's own threads, from its import
    ctx.exit(exit_code)


command = SubTableCommand(
    "check",
    params=serving_parameters(),
    callback=_run,
    help=_run.__doc__,
    context_settings=CONTEXT_SETTINGS,
)
