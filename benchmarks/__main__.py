"""`python -m benchmarks`: asgi-poller beside its peers, in one command, on your machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks import environments, goals, interpreters, peers, scenarios
from benchmarks.interpreters import CURRENT
from benchmarks.peers import Peer
from benchmarks.runner import RESULTS, Run, Runner, save
from benchmarks.tables import markdown

# No measure begins later; the longest takes 15 s, so that the whole is done within 5 minutes, and
# within 20.
BUDGETS_S = {"quick": 270.0, "goals": 1180.0, "run": float("inf")}
ROUNDS = {"quick": 1, "goals": 3, "run": 3}
SECONDS = {"quick": 0.7, "goals": 3.0, "run": 3.0}
WARMUPS_S = {"quick": 0.2, "goals": 0.5, "run": 1.0}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="The main scenarios, one short round: 5 minutes.")
@click.option(
    "--goals", "for_goals", is_flag=True, help="What the goals are about, both builds: 20 minutes."
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Only such scenarios; repeat.")
@click.option(
    "--peers", "peer_names", multiple=True, metavar="PATTERN", help="Only such peers; repeat."
)
@click.option("--python", metavar="NAME", help="What runs the servers: 3.13, or a path.")
@click.option("--before", metavar="COMMIT", help="Also our server as it was at COMMIT.")
@click.option("--rounds", type=click.IntRange(min=1), help="[default: 3; quick: 1]")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Of each measure. [default: 3]")
@click.option("--minutes", type=click.FloatRange(min=0), help="No measure begins later.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write.")
@click.option("--prepare", is_flag=True, help="Make the peers' environments, run nothing.")
@click.option("--list", "listing", is_flag=True, help="Name the scenarios and peers, run nothing.")
def main(**given: Any) -> None:
    """Measure, print Markdown tables, and write benchmarks/results/*.json."""
    if given["listing"]:
        show_lists()
        return
    try:
        run = asked_run(given)
    except KeyError as error:
        raise click.UsageError(f"nothing is named {error.args[0]!r}; see --list") from None
    except (interpreters.NoInterpreter, environments.NotInstalled) as error:
        raise click.UsageError(str(error)) from None
    runner = Runner(run, say=say)
    if given["prepare"]:
        for peer in runner.installed():
            say(f"{peer.name} is ready")
        return
    found = runner.carry_out()
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    kind = f"{run.kind}-{run.interpreter.tag}" if given["python"] else run.kind
    path = given["out"] or RESULTS / f"{kind}-{stamp}.json"
    save(found, path)
    click.echo(markdown(found))
    if run.kind == "goals" or given["only"]:
        click.echo(goals.goals_table(found["scenarios"]))
    say(f"written: {path}")


def say(line: str) -> None:
    """Progress, beside the tables."""
    click.echo(line, err=True)


def show_lists() -> None:
    """The names of scenarios and peers."""
    for scenario in scenarios.SCENARIOS:
        click.echo(f"{scenario.name:28} {scenario.title}{'  (quick)' if scenario.quick else ''}")
    for peer in peers.PEERS:
        click.echo(f"{peer.name:28} {peer.command}")


def asked_run(given: dict[str, Any]) -> Run:
    """What the options ask for. Raises KeyError, NoInterpreter, NotInstalled."""
    kind = "quick" if given["quick"] else "goals" if given["for_goals"] else "run"
    python = given["python"]
    budget_s = BUDGETS_S[kind] if given["minutes"] is None else 60 * given["minutes"]
    only = given["only"] or (goals.SCENARIOS if kind == "goals" else ())
    return Run(
        peers=(*asked_peers(given, kind), *earlier_selves(given["before"])),
        scenarios=scenarios.chosen(only, quick=kind == "quick"),
        rounds=given["rounds"] or ROUNDS[kind],
        seconds=given["seconds"] or SECONDS[kind],
        warmup_s=WARMUPS_S[kind],
        scale=0.2 if kind == "quick" else 1.0,
        budget_s=budget_s,
        interpreter=interpreters.find(python) if python else CURRENT,
        kind=kind,
        once=goals.FAN_OUTS if kind == "goals" else (),
    )


def asked_peers(given: dict[str, Any], kind: str) -> tuple[Peer, ...]:
    """Those that are named, or all of the kind of run. Raises KeyError."""
    return peers.chosen(given["peer_names"] or (goals.PEERS if kind == "goals" else ()))


def earlier_selves(commit: str | None) -> tuple[Peer, ...]:
    """Our server as pure Python at another commit. Raises NotInstalled."""
    if commit is None:
        return ()
    tree = environments.exported_tree(commit)
    return (peers.ours(f"{peers.OURS}, commit {tree.name[:7]}", tree=tree),)


if __name__ == "__main__":
    main()
