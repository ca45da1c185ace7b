"""`python -m benchmarks.headline burst|hold320k|hold1m|curves`: the runs that take the whole
machine.

Nothing is pinned: server and clients share all cores, as in the measurement that the project began
with. Every run is bounded by its time limits, writes benchmarks/results/headline-NAME.json and, for
storms, the load tester's HTML report beside it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from asgi_poller.storm.fleet import Fleet
from asgi_poller.storm.plan import Plan, StormError
from asgi_poller.storm.report import page
from asgi_poller.storm.summary import document, rows
from benchmarks import environments, machine, peers
from benchmarks.curves import connection_curve, poller_curve
from benchmarks.holding import Holding, hold
from benchmarks.measures import plan_for
from benchmarks.peers import OURS, Peer
from benchmarks.runner import RESULTS, save, serving
from benchmarks.scenarios import Setup
from benchmarks.servers import ServerFailed

SAY_EVERY_SAMPLES = 20


def say(line: str) -> None:
    """Progress, apart from the figures."""
    click.echo(line, err=True)


class Teller:
    """Says how a storm is going, every two seconds or so."""

    def __init__(self) -> None:
        self._samples = 0

    def __call__(self, outcome: Any) -> None:
        self._samples += 1
        if self._samples % SAY_EVERY_SAMPLES == 0:
            tally, now = outcome.tally, outcome.samples[-1]
            say(
                f"  {now.at_s:6.1f} s  {outcome.phase}: {tally.opened:,} opened, "
                f"{tally.failures:,} failed, {tally.live:,} live, queue {now.queue}"
            )


def keep(name: str, found: dict[str, Any], *, storm: dict[str, Any] | None = None) -> None:
    """Write a result, and the report of its storm."""
    path = RESULTS / f"headline-{name}.json"
    save(found, path)
    if storm is not None:
        path.with_suffix(".html").write_text(page(storm))
    say(f"written: {path}")


def prepared(peer: Peer) -> dict[str, str]:
    """The peer's versions, its environment made. Raises NotInstalled."""
    versions = environments.prepare(peer, say)
    return {name: versions[name] for name in peer.shown if name in versions}


def run_storm(peer: Peer, plan: Plan, server_pid: int) -> dict[str, Any]:
    """Run a plan; its document."""
    return document(Fleet(plan, server_pids=(server_pid,), on_tick=Teller()).run())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """The headline runs."""


@main.command()
@click.option("--connections", type=int, default=320_000)
@click.option("--burst", "size", type=int, default=10_000)
@click.option("--interval-ms", type=float, default=50.0)
@click.option("--timeout", type=float, default=30.0, help="Seconds for one attempt.")
@click.option("--processes", type=int, default=2, help="Client processes.")
@click.option("--workers", type=int, default=2)
@click.option("--pollers", type=int, default=8)
@click.option("--server-args", default="", help="More options for asgi-poller.")
@click.option("--peers", "names", multiple=True, metavar="PATTERN", help="[default: all]")
def burst(**given: Any) -> None:
    """320,000 attempts, 10,000 every 50 ms, each closed when open; every peer in turn."""
    for peer in _chosen(given["names"]):
        if not peer.takes_part("burst") or peers.WEBSOCKETS in peer.cannot:
            continue
        more = f"--pollers {given['pollers']} {given['server_args']}" if peer.is_ours else ""
        setup = Setup(workers=given["workers"] if peer.can_workers else 1, more=more)
        try:
            versions = prepared(peer)
            with serving(peer, setup, cores=frozenset()) as server:
                plan = plan_for(
                    server.port,
                    "/",
                    connections=given["connections"],
                    burst=given["size"],
                    interval_s=given["interval_ms"] / 1e3,
                    timeout_s=given["timeout"],
                    processes=given["processes"],
                )
                say(f"{peer.name}: {plan.connections:,} attempts")
                found = run_storm(peer, plan, server.pid)
        except (environments.NotInstalled, ServerFailed, StormError) as problem:
            say(f"{peer.name} is skipped: {problem}")
            continue
        _show(peer.name, found)
        whole = {
            "machine": machine.describe(),
            "peer": peer.name,
            "versions": versions,
            "workers": setup.workers,
            "server_args": more,
            "storm": found,
        }
        keep(f"burst-{_slug(peer.name)}", whole, storm=found)


def _hold_command(name: str, *, connections: int, workers: int, help_text: str) -> None:
    @main.command(name, help=help_text)
    @click.option("--connections", type=int, default=connections)
    @click.option("--workers", type=int, default=workers)
    @click.option("--processes", type=int, default=workers, help="Client processes.")
    @click.option("--pollers", type=int, default=2)
    @click.option("--burst", "size", type=int, default=10_000)
    @click.option("--interval-ms", type=float, default=50.0)
    @click.option("--timeout", type=float, default=60.0, help="Seconds for one attempt.")
    @click.option("--limit", type=float, default=120.0, help="Seconds for each of the messages.")
    @click.option("--spare-mib", type=int, default=1024, help="Stop when less memory is left.")
    @click.option("--server-args", default="", help="More options for asgi-poller.")
    def command(**given: Any) -> None:
        peer = _chosen((OURS,))[0]
        versions = prepared(peer)
        options = Holding(
            connections=given["connections"],
            workers=given["workers"],
            processes=given["processes"],
            burst=given["size"],
            interval_s=given["interval_ms"] / 1e3,
            timeout_s=given["timeout"],
            limit_s=given["limit"],
            spare_octets=given["spare_mib"] << 20,
            server_args=f"--pollers {given['pollers']} {given['server_args']}",
        )
        try:
            found = hold(peer, options, say=say, teller=Teller())
        except (ServerFailed, StormError) as problem:
            raise click.ClickException(str(problem)) from problem
        whole = {"machine": machine.describe(), "versions": versions, **found}
        _show(name, found["storm"])
        click.echo(json.dumps(found["held"], indent=1))
        keep(name if given["connections"] == connections else f"hold{given['connections']}", whole,
             storm=found["storm"])  # fmt: skip


_hold_command(
    "hold320k",
    connections=320_000,
    workers=17,
    help_text="320,000 held at once; a message from every one, and one to every one.",
)
_hold_command(
    "hold1m",
    connections=1_000_000,
    workers=52,
    help_text="1,000,000 held at once (more with --connections and --workers).",
)


@main.command()
@click.option("--pollers", default="1,2,4,8", help="Numbers of pollers.")
@click.option("--connections", default="0,1000,10000,100000,320000", help="Idle connections.")
@click.option("--workers", type=int, default=17, help="For the curve over connections.")
@click.option("--attempts", type=int, default=18_000, help="For the curve over pollers.")
@click.option("--seconds", type=float, default=3.0, help="Of each measure.")
@click.option("--idle-seconds", type=float, default=22.0, help="Of idleness: one ping to each.")
@click.option("--server-args", default="", help="More options for asgi-poller.")
def curves(
    *,
    pollers: str,
    connections: str,
    workers: int,
    attempts: int,
    seconds: float,
    idle_seconds: float,
    server_args: str,
) -> None:
    """How cost grows: with the number of pollers, and with the number of idle connections."""
    peer = _chosen((OURS,))[0]
    versions = prepared(peer)
    counts = [int(text) for text in pollers.split(",") if text]
    idles = [int(text) for text in connections.split(",") if text]
    try:
        found = {
            "machine": machine.describe(),
            "versions": versions,
            "seconds": seconds,
            "workers": workers,
            "pollers": poller_curve(
                peer, counts, attempts=attempts, server_args=server_args, say=say
            ),
            "connections": connection_curve(
                peer,
                idles,
                workers=workers,
                seconds=seconds,
                idle_seconds=idle_seconds,
                server_args=server_args,
                say=say,
            ),
        }
    except (ServerFailed, StormError) as problem:
        raise click.ClickException(str(problem)) from problem
    keep("curves", found)
    click.echo(json.dumps({key: found[key] for key in ("pollers", "connections")}, indent=1))


def _chosen(names: tuple[str, ...]) -> tuple[Peer, ...]:
    try:
        return peers.chosen(names)
    except KeyError as error:
        raise click.UsageError(f"no peer is named {error.args[0]!r}") from None


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _show(title: str, found: dict[str, Any]) -> None:
    click.echo(f"{title}")
    for name, value in rows(found):
        click.echo(f"  {name:32} {value}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
