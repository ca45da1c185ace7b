"""`python -m benchmarks.tables RESULT.json ...`: results to Markdown tables and SVG charts.

With `--into FILE` the text between `<!-- benchmarks:begin NAME -->` and `<!-- benchmarks:end -->`
is replaced, NAME being a scenario, `all`, `machine`, `goals`, or, of headline results,
`headline-burst`, `headline-hold`, `headline-pollers`, `headline-connections`. With `--charts DIR`
each scenario becomes DIR/NAME.svg, and the curves DIR/curve-NAME.svg. Of several results the later
ones win, scenario by scenario.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks import headline_tables
from benchmarks.charts import Bar, bar_chart, standing_alone
from benchmarks.curves import drawings
from benchmarks.goals import goals_table
from benchmarks.peers import OURS

MARKED = re.compile(
    r"(<!-- benchmarks:begin (?P<name>[\w-]+) -->\n).*?(<!-- benchmarks:end -->)", re.DOTALL
)


def markdown(found: dict[str, Any]) -> str:
    """Every scenario's table, then what it was measured on."""
    parts = [
        f"### {one['title']}\n\n{table(one)}" for one in found["scenarios"].values() if one["peers"]
    ]
    return "\n\n".join([*parts, about(found)]) + "\n"


def table(scenario: dict[str, Any]) -> str:
    """One scenario: a row for each peer, the best first; in brackets the spread of the rounds.

    The last columns say how many times a peer's figure ours is, and how many times our CPU a peer
    uses. A peer that was offered compression and sent plain messages did other work: no ratios.
    """
    columns = scenario["columns"]
    compared = [metric for metric in (next(iter(columns)), "cpu_us") if metric in columns]
    heads = [*columns.values(), "ours : theirs", "CPU, theirs : ours"][
        : len(columns) + len(compared)
    ]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    ours = scenario["peers"].get(OURS, {}).get("median", {})
    for name, one in ranked(scenario):
        theirs = one["median"]
        cells = [cell(one, metric) for metric in columns]
        plain = theirs.get("deflated") == 0
        ratios = [ratio(ours.get(compared[0]), theirs[compared[0]])]
        if len(compared) == 2:
            ratios.append(ratio(theirs["cpu_us"], ours.get("cpu_us")))
        shown = f"**{name}**" if name == OURS else f"{name}, not compressed" if plain else name
        cells += [""] * len(ratios) if plain else ratios
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    for name, problem in scenario["problems"].items():
        if name not in scenario["peers"]:
            lines.append(f"| {name} | {problem} |" + " |" * (len(heads) - 1))
    return "\n".join(lines)


def ranked(scenario: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The peers by the first column, the best first."""
    first = next(iter(scenario["columns"]))
    return sorted(
        scenario["peers"].items(),
        key=lambda item: float(item[1]["median"][first]),
        reverse=not scenario["less_is_better"],
    )


def cell(one: dict[str, Any], metric: str) -> str:
    """A median, and the spread of the rounds behind it."""
    if metric not in one["median"]:
        return ""
    middle, low, high = (one[which][metric] for which in ("median", "min", "max"))
    if low == high:
        return figure(middle)
    return f"{figure(middle)} ({figure(low)} to {figure(high)})"


def figure(value: float) -> str:
    """A number with as many digits as it deserves."""
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(one: float | None, other: float | None) -> str:
    """How many times the other the one is; empty where either is nothing."""
    return f"{one / other:.2f}" if one and other else ""


def about(found: dict[str, Any]) -> str:
    """Machine, commit and versions in a few lines."""
    on = found["machine"]
    dirty = " with uncommitted changes" if on["uncommitted"] else ""
    versions = "; ".join(
        f"{name}: "
        + ", ".join(f"{package} {version}" for package, version in peer["versions"].items())
        for name, peer in found["peers"].items()
    )
    rounds = "one round" if found["rounds"] == 1 else f"{found['rounds']} interleaved rounds"
    lines = [
        f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, {on['system']}, "
        f"CPython {on['python']}, somaxconn {on['somaxconn']}. "
        f"Medians of {rounds} (in brackets the least and the most), {found['seconds']:g} s each; "
        f"the server on one core, the load on another. "
        f"Commit {on['commit'][:12] or 'unknown'}{dirty}, {found['made_at'][:10]}.",
        f"Versions: {versions}.",
    ]
    lines += [f"{name} is missing: {why}." for name, why in found["skipped"].items()]
    if not found["complete"]:
        lines.append("The run's time ended before everything was measured.")
    return "  \n".join(lines)


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One document of several: the last one's machine, each scenario from the last that has it."""
    whole = {**results[-1], "scenarios": {}, "peers": {}}
    for one in results:
        whole["peers"].update(one["peers"])
        whole["scenarios"].update(
            {name: scenario for name, scenario in one["scenarios"].items() if scenario["peers"]}
        )
    return whole


def filled(text: str, found: dict[str, Any], headlines: dict[str, str]) -> str:
    """`text` with each marked place filled anew. Raises KeyError for a name that is not in the
    result.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name in headlines:
            body = headlines[name]
        elif name == "all":
            body = markdown(found).rstrip()
        elif name == "machine":
            body = about(found)
        elif name == "goals":
            body = goals_table(found["scenarios"])
        else:
            body = table(found["scenarios"][name])
        return f"{match[1]}{body}\n{match[3]}"

    return MARKED.sub(fill, text)


def charts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(scenario, SVG) for each."""
    for name, scenario in found["scenarios"].items():
        first, heading = next(iter(scenario["columns"].items()))
        bars = [
            Bar(peer, one["median"][first], one["min"][first], one["max"][first], peer == OURS)
            for peer, one in ranked(scenario)
        ]
        better = "less" if scenario["less_is_better"] else "more"
        yield name, bar_chart(scenario["title"], f"{heading}, {better} is better", bars)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--into", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--charts", "folder", type=click.Path(file_okay=False, path_type=Path))
def main(results: tuple[Path, ...], into: tuple[Path, ...], folder: Path | None) -> None:
    """Print the tables of RESULTS, fill FILEs with them, draw them."""
    documents = [json.loads(path.read_text()) for path in results]
    runs = [one for one in documents if "scenarios" in one]
    headlines = headline_tables.tables([one for one in documents if "scenarios" not in one])
    found = merged(runs) if runs else {"scenarios": {}}
    for path in into:
        try:
            path.write_text(filled(path.read_text(), found, headlines))
        except KeyError as error:
            raise click.ClickException(f"{path}: no result given has {error.args[0]!r}") from None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        curves = [one for one in documents if "pollers" in one]
        drawn_curves = drawings(curves[-1]) if curves else ()
        for name, drawn in drawn_curves:
            (folder / f"curve-{name}.svg").write_text(standing_alone(drawn))
        for name, drawn in charts(found):
            (folder / f"{name}.svg").write_text(drawn)
    if not into and folder is None:
        click.echo("\n\n".join([*headlines.values(), markdown(found) if runs else ""]).strip())


if __name__ == "__main__":
    main()
