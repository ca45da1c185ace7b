"""`asgi-poller-storm`: options to a plan, a plan to a fleet, an outcome to a table, JSON and HTML.

Exit code 0: every attempt opened and no channel was lost. 1: some failed. 2: a wrong option. 130:
interrupted.
"""

from __future__ import annotations

import importlib.util
import json
import select
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from asgi_poller.storm.fleet import Fleet
from asgi_poller.storm.limits import processes_for, throttle_notice
from asgi_poller.storm.plan import (
    IN_FLIGHT_LIMIT_COUNT,
    Plan,
    StormError,
    loopback_sources,
    made_payload,
    parse_header,
    parse_octets,
    parse_seconds,
    parse_url,
    resolve,
)
from asgi_poller.storm.report import page
from asgi_poller.storm.summary import document

EXIT_FAILURES, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
DEFAULT_CONNECTIONS = {"open": 1000, "hold": 1000, "echo": 100, "fan-out": 1000}

T = TypeVar("T")


class Unit(click.ParamType[Any]):
    """An option whose text one of plan.py's parsers turns into a value."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value, or click's one-line usage error."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except StormError as error:
            self.fail(str(error), param, ctx)


SECONDS = Unit("duration", parse_seconds)
OCTETS = Unit("size", parse_octets)
HEADER = Unit("header", parse_header)
COUNT = click.IntRange(min=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("url")
@click.option(
    "--mode",
    type=click.Choice(tuple(DEFAULT_CONNECTIONS)),
    default="open",
    help="open: close each channel once open. hold: keep all open. echo: send, await, send again. "
    "fan-out: one channel sends, the server sends to all.",
)
@click.option("-c", "--connections", type=COUNT, help="Attempts in all. [default: 1000; echo: 100]")
@click.option("--burst", type=COUNT, help="Attempts begun together. [default: 1000]")
@click.option("--interval", type=SECONDS, default="50ms", help="From one burst to the next.")
@click.option("--concurrency", type=COUNT, help="Attempts under way at once. [default: all due]")
@click.option(
    "--timeout", type=SECONDS, default="30s", help="For one attempt, from connect() to the answer."
)
@click.option(
    "--close",
    type=click.Choice(("drop", "handshake")),
    default="drop",
    help="drop: close the socket, like a client that vanishes. handshake: close frames first.",
)
@click.option(
    "-p",
    "--processes",
    type=COUNT,
    help="Client processes. [default: 2, more where descriptors need it]",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="ADDRESS",
    help="Local address to start from; repeat to take turns. [default: many, on loopback]",
)
@click.option("--size", type=OCTETS, default="32", help="Octets of each message.")
@click.option(
    "--message", metavar="TEXT|@FILE", help="The message itself, in place of --size letters."
)
@click.option("--text/--binary", default=True, help="Type of message.")
@click.option(
    "--in-flight",
    type=click.IntRange(1, IN_FLIGHT_LIMIT_COUNT),
    default=1,
    help="Messages each channel has under way (echo).",
)
@click.option(
    "--duration", type=SECONDS, default="5s", help="How long to measure (echo, fan-out) or to hold."
)
@click.option("--warmup", type=SECONDS, default="1s", help="Before measuring (echo, fan-out).")
@click.option("--touch", is_flag=True, help="Every held channel sends one message (hold).")
@click.option("--deflate", is_flag=True, help="Offer permessage-deflate, without context takeover.")
@click.option(
    "-H",
    "--header",
    "headers",
    type=HEADER,
    multiple=True,
    help="'Name: value' for every request; repeat.",
)
@click.option("--insecure", is_flag=True, help="Do not verify the server's certificate (wss).")
@click.option(
    "--cafile", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust (wss)."
)
@click.option(
    "--server-pid",
    "server_pids",
    type=COUNT,
    multiple=True,
    help="Measure CPU and memory of this local process and its children; repeat.",
)
@click.option("--json", "json_path", metavar="FILE|-", help="Write the outcome as JSON.")
@click.option(
    "--report", "report_path", metavar="FILE", help="Write the outcome as an HTML page with plots."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table.")
def main(**options: Any) -> None:
    """Open many WebSockets to URL, fast, and say how it went.

    \b
    asgi-poller-storm ws://127.0.0.1:8000/ws -c 320000 --burst 10000
    asgi-poller-storm ws://127.0.0.1:8000/ws --mode echo --report report.html
    """
    if not hasattr(select, "epoll"):
        _give_up("this needs Linux: its sockets are driven by epoll")
    if importlib.util.find_spec("rich") is None:
        _give_up("rich is missing: pip install 'asgi-poller[storm]'")
    try:
        plan = _plan(options)
        for path in (options["json_path"], options["report_path"]):
            _check_writable(path)
        found = _run(plan, options)
    except StormError as error:
        _give_up(str(error))
    _write(found, json_path=options["json_path"], report_path=options["report_path"])
    if found["interrupted"]:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_FAILURES if found["failed"]["total"] or found["lost"]["total"] else 0)


def _give_up(problem: str) -> None:
    click.echo(f"asgi-poller-storm: {problem}", err=True)
    sys.exit(EXIT_USAGE)


def _plan(options: dict[str, Any]) -> Plan:
    """The plan that the options ask for. Raises StormError."""
    target = parse_url(options["url"])
    mode = options["mode"]
    connections = options["connections"] or DEFAULT_CONNECTIONS[mode]
    if mode == "fan-out" and (options["processes"] or 1) > 1:
        raise StormError("--processes: fan-out counts a round in one process; leave it at 1")
    sources = options["sources"] or loopback_sources(target["family"], target["address"])
    for source in options["sources"]:
        if resolve(source, 0)[0] != target["family"]:
            raise StormError(
                f"--source {source}: not an address of the family of {target['address'][0]}"
            )
    return Plan(
        **target,
        mode=mode,
        connections=connections,
        burst=options["burst"] or 1000,
        interval_s=options["interval"],
        concurrency=options["concurrency"] or 0,
        timeout_s=options["timeout"],
        close=options["close"],
        processes=processes_for(mode=mode, connections=connections, asked=options["processes"]),
        sources=tuple(sources),
        payload=_payload(options["message"], octets=options["size"], text=options["text"]),
        text=options["text"],
        in_flight=options["in_flight"],
        duration_s=options["duration"],
        warmup_s=options["warmup"] if mode in ("echo", "fan-out") else 0.0,
        touch=options["touch"],
        deflate=options["deflate"],
        headers=options["headers"],
        tls_verify=not options["insecure"],
        tls_ca=options["cafile"],
    )


def _payload(message: str | None, *, octets: int, text: bool) -> bytes:
    if message is None:
        return made_payload(octets)
    if not message.startswith("@"):
        return message.encode()
    try:
        payload = Path(message[1:]).read_bytes()
        if text:
            payload.decode()  # a text message is UTF-8 (RFC 6455, 5.6)
    except OSError as error:
        raise StormError(f"--message {message}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StormError(f"--message {message}: not UTF-8; say --binary") from error
    return payload


def _check_writable(path: str | None) -> None:
    """Better to learn it before the run than after. Raises StormError."""
    if path is None or path == "-":
        return
    try:
        with Path(path).open("a"):
            pass
    except OSError as error:
        raise StormError(f"cannot write {path}: {error.strerror}") from error


def _run(plan: Plan, options: dict[str, Any]) -> dict[str, Any]:
    """Run it with what a person sees on stderr; the document. Ctrl-C ends the run, a second one at
    once.
    """
    from rich.console import Console  # only here: rich is the `storm` extra's

    from asgi_poller.storm.live import Progress, show_summary

    console = Console(stderr=True)
    notice = throttle_notice(plan)
    if notice and not options["quiet"]:
        console.print(notice, style="yellow", highlight=False)
    progress = None if options["quiet"] else Progress(console)
    fleet = Fleet(
        plan, server_pids=options["server_pids"], on_tick=progress.tick if progress else None
    )
    before = signal.signal(signal.SIGINT, lambda *_: fleet.stop())
    try:
        with progress or nullcontext():
            outcome = fleet.run()
    finally:
        signal.signal(signal.SIGINT, before)
    found = document(outcome)
    if not options["quiet"]:
        for problem in found["client"]["dead"]:
            console.print(problem, style="red", highlight=False)
        show_summary(console, found)
    return found


def _write(found: dict[str, Any], *, json_path: str | None, report_path: str | None) -> None:
    if json_path == "-":
        click.echo(json.dumps(found))
    elif json_path is not None:
        Path(json_path).write_text(json.dumps(found, indent=1) + "\n")
    if report_path is not None:
        Path(report_path).write_text(page(found))
