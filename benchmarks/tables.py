"""`python -m benchmarks.tables [RESULT.json ...]`: results to Markdown tables and SVG charts.

Without RESULTs, those of benchmarks/results, the oldest first. With `--into FILE` the text between
`<!-- benchmarks:begin NAME -->` and `<!-- benchmarks:end -->` is replaced, NAME being a scenario, a
pattern such as `echo-*` for all of them with their titles, `all`, `machine`, `summary`, `goals`,
or, of headline results, `headline-burst`, `headline-hold`, `headline-pollers`,
`headline-connections`. NAME is about the interpreter of most results; NAME@3.13 about another. With
`--charts DIR` each scenario becomes DIR/NAME.svg, and the curves DIR/curve-NAME.svg. Of several
results the later ones win, scenario by scenario; peers that they lack are kept, with their date.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from benchmarks import headline_tables
from benchmarks.charts import Bar, bar_chart, standing_alone
from benchmarks.curves import drawings
from benchmarks.goals import goals_table
from benchmarks.peers import COMPILED, OURS, is_ours
from benchmarks.runner import RESULTS
from benchmarks.summary import summary_table

KEPT = ("run-*.json", "goals-*.json", "headline-*.json")
MARKED = re.compile(
    r"(<!-- benchmarks:begin (?P<name>[\w*-]+)(?:@(?P<python>[\w.]+))? -->\n)"
    r".*?(<!-- benchmarks:end -->)",
    re.DOTALL,
)


def markdown(found: dict[str, Any]) -> str:
    """Every scenario's table, then what it was measured on."""
    return "\n\n".join([titled(found["scenarios"].values()), about(found)]).lstrip() + "\n"


def titled(scenarios: Iterable[dict[str, Any]]) -> str:
    """Tables of scenarios, each below its title."""
    return "\n\n".join(f"### {one['title']}\n\n{table(one)}" for one in scenarios if one["peers"])


def table(scenario: dict[str, Any]) -> str:
    """One scenario: a row for each peer, the best first; in brackets the spread of the rounds.

    The last columns say how many times a peer's figure ours is, and how many times our CPU a peer
    uses. Ours is the compiled build where that was measured. A peer that was offered compression
    and sent plain messages did other work: no ratios.
    """
    columns = scenario["columns"]
    compared = [metric for metric in (next(iter(columns)), "cpu_us") if metric in columns]
    heads = [*columns.values(), "ours : theirs", "CPU, theirs : ours"][
        : len(columns) + len(compared)
    ]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    ours = reference(scenario["peers"])
    lines += [
        _row(name, one["median"], [cell(one, metric) for metric in columns], ours, compared)
        for name, one in ranked(scenario)
    ]
    for name, one in scenario.get("earlier", {}).items():
        cells = [cell(one, metric) for metric in columns]
        shown = f"{name}, on {one['made_at'][:10]}"
        lines.append(_row(shown, one["median"], cells, one["ours"], compared))
    for name, problem in scenario["problems"].items():
        if name not in scenario["peers"]:
            lines.append(f"| {name} | {problem} |" + " |" * (len(heads) - 1))
    return "\n".join(lines)


def reference(peers: dict[str, Any]) -> dict[str, float]:
    """The figures of ours that the others are compared with."""
    one: dict[str, float] = peers.get(COMPILED, peers.get(OURS, {})).get("median", {})
    return one


def _row(
    name: str,
    theirs: dict[str, float],
    cells: list[str],
    ours: dict[str, float],
    compared: list[str],
) -> str:
    """A peer's row, with its ratios behind the cells."""
    plain = theirs.get("deflated") == 0
    ratios = [ratio(ours.get(compared[0]), theirs[compared[0]])]
    if len(compared) == 2:
        ratios.append(ratio(theirs["cpu_us"], ours.get("cpu_us")))
    shown = f"**{name}**" if is_ours(name) else f"{name}, not compressed" if plain else name
    cells = [*cells, *([""] * len(ratios) if plain else ratios)]
    return f"| {shown} | " + " | ".join(cells) + " |"


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


def measured_on(found: dict[str, Any], spread: str = "") -> str:
    """Machine, rounds and commit in a line; `spread` says what stands beside the medians."""
    on = found["machine"]
    dirty = " with uncommitted changes" if on["uncommitted"] else ""
    rounds = "one round" if found["rounds"] == 1 else f"{found['rounds']} interleaved rounds"
    return (
        f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, {on['system']}, "
        f"CPython {on['python']}, somaxconn {on['somaxconn']}. "
        f"Medians of {rounds}{spread}, {found['seconds']:g} s each; "
        f"the server on one core, the load on another. "
        f"Commit {on['commit'][:12] or 'unknown'}{dirty}, {found['made_at'][:10]}."
    )


def about(found: dict[str, Any]) -> str:
    """Machine, commit and versions in a few lines."""
    versions = "; ".join(
        f"{name}: "
        + ", ".join(f"{package} {version}" for package, version in peer["versions"].items())
        for name, peer in found["peers"].items()
        if peer["versions"]
    )
    lines = [
        measured_on(found, " (in brackets the least and the most)"),
        f"Versions: {versions}.",
    ]
    lines += [f"{name} is missing: {why}." for name, why in found["skipped"].items()]
    if not found["complete"]:
        lines.append("The run's time ended before everything was measured.")
    return "  \n".join(lines)


def interpreter_of(document: dict[str, Any]) -> str:
    """The interpreter of a result's servers, as in 3.11 or 3.13t; old results do not name it."""
    version = str(document["machine"]["python"])
    return str(document.get("interpreter") or ".".join(version.split(".")[:2]))


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One document of several: each scenario from the last that has it, the machine of the one that
    gives most scenarios. The peers that a scenario's last result lacks are `earlier`, each with our
    figures in its own run.
    """
    scenarios: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    giver: dict[str, int] = {}
    for number, one in enumerate(results):
        versions |= one["peers"]
        for name, scenario in one["scenarios"].items():
            if not scenario["peers"]:
                continue
            earlier = _earlier(scenarios[name]) if name in scenarios else {}
            named = scenario["peers"].keys() | scenario["problems"].keys()
            kept = {peer: had for peer, had in earlier.items() if peer not in named}
            scenarios[name] = {**scenario, "earlier": kept, "made_at": one["made_at"]}
            giver[name] = number
    most = max(range(len(results)), key=lambda number: list(giver.values()).count(number))
    return {**results[most], "scenarios": scenarios, "peers": versions}


def _earlier(scenario: dict[str, Any]) -> dict[str, Any]:
    """The peers of a scenario, ours left out, as rows for a later run's table."""
    beside = {"ours": reference(scenario["peers"]), "made_at": scenario["made_at"]}
    rows = {name: one | beside for name, one in ranked(scenario) if not is_ours(name)}
    kept: dict[str, Any] = scenario["earlier"]
    return rows | kept


def by_interpreter(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The merged results of each interpreter; those of the one with most results also as ""."""
    tags = Counter(interpreter_of(one) for one in runs)
    found = {tag: merged([one for one in runs if interpreter_of(one) == tag]) for tag in tags}
    most = max(tags, key=lambda tag: tags[tag], default="")
    return found | {"": found.get(most, {"scenarios": {}})}


def filled(text: str, runs: dict[str, dict[str, Any]], headlines: dict[str, str]) -> str:
    """`text` with each marked place filled anew from what `by_interpreter` gave. Raises KeyError
    for a name that is not in the results.
    """

    def fill(match: re.Match[str]) -> str:
        name, python = match["name"], match["python"] or ""
        if python and python not in runs:
            return f"{match[1]}No result is kept for CPython {python}.\n{match[4]}"
        found = runs[python]
        scenarios = found["scenarios"]
        if name in headlines:
            body = headlines[name]
        elif name == "all":
            body = markdown(found).rstrip()
        elif name == "machine":
            body = about(found)
        elif name == "goals":
            body = goals_table(scenarios)
        elif name == "summary":
            body = f"{summary_table(scenarios)}\n\n{measured_on(found)}"
        elif "*" in name:
            body = titled(one for had, one in scenarios.items() if fnmatch(had, name))
        else:
            body = table(scenarios[name])
        return f"{match[1]}{body}\n{match[4]}"

    return MARKED.sub(fill, text)


def kept_results() -> list[Path]:
    """The results that the pages are made from."""
    return [path for pattern in KEPT for path in RESULTS.glob(pattern)]


def documents_of(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The results in these files, the oldest first; those without a date before the others."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(paths)]
    return sorted(found, key=lambda one: str(one.get("made_at", "")))


def charts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(scenario, SVG) for each."""
    for name, scenario in found["scenarios"].items():
        first, heading = next(iter(scenario["columns"].items()))
        bars = [
            Bar(peer, one["median"][first], one["min"][first], one["max"][first], is_ours(peer))
            for peer, one in ranked(scenario)
        ]
        better = "less" if scenario["less_is_better"] else "more"
        yield name, bar_chart(scenario["title"], f"{heading}, {better} is better", bars)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--into", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--charts", "folder", type=click.Path(file_okay=False, path_type=Path))
def main(results: tuple[Path, ...], into: tuple[Path, ...], folder: Path | None) -> None:
    """Print the tables of RESULTS, fill FILEs with them, draw them."""
    documents = documents_of(results or kept_results())
    runs = by_interpreter([one for one in documents if "scenarios" in one])
    headlines = headline_tables.tables([one for one in documents if "scenarios" not in one])
    for path in into:
        try:
            path.write_text(filled(path.read_text(), runs, headlines))
        except KeyError as error:
            raise click.ClickException(f"{path}: no result given has {error.args[0]!r}") from None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        curves = [one for one in documents if "pollers" in one]
        drawn_curves = drawings(curves[-1]) if curves else ()
        for name, drawn in drawn_curves:
            (folder / f"curve-{name}.svg").write_text(standing_alone(drawn))
        for name, drawn in charts(runs[""]):
            (folder / f"{name}.svg").write_text(drawn)
    if not into and folder is None:
        printed = [markdown(found) for tag, found in runs.items() if tag]
        click.echo("\n\n".join([*headlines.values(), *printed]).strip())


if __name__ == "__main__":
    main()
