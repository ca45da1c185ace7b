"""`python -m benchmarks`: asgi-poller beside its peers, in one command, on your machine."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks import peers, scenarios
from benchmarks.runner import RESULTS, Run, Runner, save
from benchmarks.tables import markdown

# No measure begins later; the longest takes 15 s, so that the whole is done within 5 minutes.
QUICK_BUDGET_S = 270.0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="The main scenarios, one short round: 5 minutes.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only such scenarios; repeat.")
@click.option(
    "--peers", "peer_names", multiple=True, metavar="PATTERN", help="Only such peers; repeat."
)
@click.option("--rounds", type=click.IntRange(min=1), help="[default: 3; quick: 1]")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Of each measure. [default: 3]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write.")
@click.option("--list", "listing", is_flag=True, help="Name the scenarios and peers, run nothing.")
def main(
    *,
    quick: bool,
    only: tuple[str, ...],
    peer_names: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    out: Path | None,
    listing: bool,
) -> None:
    """Measure, print Markdown tables, and write benchmarks/results/*.json."""
    if listing:
        for scenario in scenarios.SCENARIOS:
            click.echo(
                f"{scenario.name:28} {scenario.title}{'  (quick)' if scenario.quick else ''}"
            )
        for peer in peers.PEERS:
            click.echo(f"{peer.name:28} {peer.command}")
        return
    try:
        run = Run(
            peers=peers.chosen(peer_names),
            scenarios=scenarios.chosen(only, quick=quick),
            rounds=rounds or (1 if quick else 3),
            seconds=seconds or (0.7 if quick else 3.0),
            warmup_s=0.2 if quick else 1.0,
            scale=0.2 if quick else 1.0,
            budget_s=QUICK_BUDGET_S if quick else float("inf"),
        )
    except KeyError as error:
        raise click.UsageError(f"nothing is named {error.args[0]!r}; see --list") from None
    found = Runner(run, say=lambda line: click.echo(line, err=True)).carry_out()
    kind = "quick" if quick else "run"
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = out or RESULTS / f"{kind}-{stamp}.json"
    save(found, path)
    click.echo(markdown(found))
    click.echo(f"written: {path}", err=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
