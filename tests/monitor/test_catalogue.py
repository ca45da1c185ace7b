"""The catalogue is what /metrics shows, what docs/metrics.md says, and all that the dashboard and
the alerts ask for.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from asgi_poller.metrics.loop_counts import NO_COUNTS
from asgi_poller.monitor.catalogue import CATALOGUE, Buckets, Metric
from asgi_poller.monitor.exposition import exposition
from tests.monitor.sources import answering, snapshot
from tests.support.command import run_python
from tests.support.processes import ROOT

text_string_to_metric_families = importlib.import_module(
    "prometheus_client.parser"
).text_string_to_metric_families
open_metrics = importlib.import_module(
    "prometheus_client.openmetrics.parser"
).text_string_to_metric_families

DASHBOARD = ROOT / "docs" / "grafana" / "asgi-poller.json"
ALERTS = ROOT / "docs" / "prometheus" / "alerts.yml"
SCRIPT = ROOT / "docs" / "generate_metrics.py"
NAMES = {metric.name: metric for metric in CATALOGUE}
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
# Labels that Prometheus itself adds.
FOREIGN_LABELS = {"job", "instance", "le"}


def samples_of(metric: Metric) -> set[str]:
    """The names of its samples."""
    if metric.kind == "histogram":
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.name}


SAMPLES = {sample: metric for metric in CATALOGUE for sample in samples_of(metric)}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"asgi_poller_[a-z][a-z0-9_]*[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.kind != "histogram" or not metric.name.endswith(("_count", "_sum", "_bucket"))
    assert re.fullmatch(r"[A-Z1].*[.)]", metric.help), "a sentence"
    assert not re.search(r"_(ms|us|milliseconds|kb|mb|octets)(_|$)", metric.name)


def test_names_are_used_once() -> None:
    assert len(SAMPLES) == sum(len(samples_of(metric)) for metric in CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_samples_have_the_labels_of_their_metric(metric: Metric) -> None:
    shown = snapshot()
    samples = list(metric.read(shown, shown.total))
    assert samples, "the snapshot has something of everything"
    for labels, value in samples:
        assert len(labels) == len(metric.labels)
        assert isinstance(value, Buckets) == (metric.kind == "histogram")
    assert len({tuple(labels) for labels, _ in samples}) == len(samples), "each series once"


def test_what_is_exposed_is_the_catalogue() -> None:
    text, _ = exposition(answering(snapshot()))("")
    families = {it.name: it for it in text_string_to_metric_families(text.decode())}
    for metric in CATALOGUE:
        family = families.pop(metric.name.removesuffix("_total"))
        assert family.documentation == metric.help
        assert family.type == metric.kind
        assert {sample.name for sample in family.samples} == samples_of(metric)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    assert families == {}, "nothing of the library's own registry"


def test_open_metrics_are_read_by_their_strict_parser() -> None:
    text, _ = exposition(answering(snapshot()))(OPEN_METRICS)
    names = {family.name for family in open_metrics(text.decode())}
    assert names == {
        metric.name.removesuffix("_total").removesuffix("_info" if "_info" in metric.name else "")
        if metric.kind != "gauge"
        else metric.name
        for metric in CATALOGUE
    }


def test_values_are_those_of_the_snapshot() -> None:
    text, _ = exposition(answering(snapshot()))("")
    lines = text.decode().splitlines()
    for line in (
        'asgi_poller_build_info{build="pure",python=',
        'asgi_poller_state{state="serving"} 1.0',
        'asgi_poller_listener_queue_connections{listener="http://127.0.0.1:8000"} 5.0',
        "asgi_poller_listen_overflows_total 2.0",
        'asgi_poller_refused_total{reason="503"} 6.0',
        'asgi_poller_refused_total{reason="tls"} 1.0',
        'asgi_poller_refused_total{reason="400"} 0.0',
        'asgi_poller_poller_accepted_total{poller="MasterPoller-0"} 40.0',
        'asgi_poller_poller_batch_connections_bucket{le="1",poller="MasterPoller-0"} 8.0',
        'asgi_poller_poller_batch_connections_bucket{le="8",poller="MasterPoller-0"} 16.0',
        'asgi_poller_poller_batch_connections_sum{poller="MasterPoller-0"} 40.0',
        'asgi_poller_worker_restarts_total{reason="crashed"} 1.0',
        'asgi_poller_loop_connections{loop="0",worker="2"} 3.0',
        'asgi_poller_websocket_closes_total{by="peer",code="1000"} 21.0',
        'asgi_poller_http_responses_total{status="2xx"} 33.0',
        'asgi_poller_http_request_duration_seconds_bucket{le="0.0025"} 3.0',
        'asgi_poller_http_request_duration_seconds_bucket{le="+Inf"} 6.0',
        "asgi_poller_http_request_duration_seconds_count 6.0",
        "asgi_poller_http_request_duration_seconds_sum 300.006",
    ):
        assert any(each.startswith(line) for each in lines), line
    assert not any("unix:" in each for each in lines), "what the system does not say is left out"


def test_a_server_that_has_just_begun_can_be_shown() -> None:
    begun = snapshot(
        state="starting",
        listeners=(),
        listen_overflows=None,
        listen_drops=None,
        pollers=(),
        refused={},
        workers=(),
        retired=NO_COUNTS,
        restarts={},
        events=(),
    )
    text, _ = exposition(answering(begun))(OPEN_METRICS)
    assert list(open_metrics(text.decode()))


# docs/metrics.md


def test_the_page_is_up_to_date() -> None:
    done = run_python(str(SCRIPT), "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    script = Path(shutil.copy(SCRIPT, tmp_path))
    page = Path(shutil.copy(SCRIPT.with_name("metrics.md"), tmp_path))
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("| counter |", "| gauge |", 1), encoding="utf-8")
    stale = run_python(str(script), "--check")
    assert stale.returncode == 1
    assert "is out of date" in stale.stderr
    assert run_python(str(script)).returncode == 0
    assert page.read_text(encoding="utf-8") == text


# The dashboard and the alerts


def expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (each["expr"] for each in dashboard["annotations"]["list"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    page = SCRIPT.with_name("metrics.md").read_text(encoding="utf-8")
    for block in re.findall(r"```promql\n(.*?)```", page, re.DOTALL):
        yield from block.strip().splitlines()


def complaints(expression: str) -> list[str]:
    """What in a PromQL expression is not there to be asked for."""
    found = []
    known = set(FOREIGN_LABELS)
    for name, matchers in re.findall(r"(asgi_poller_\w+)(?:\{([^}]*)\})?", expression):
        metric = SAMPLES.get(name)
        if metric is None:
            found.append(f"no metric {name}")
            continue
        known |= set(metric.labels)
        for label, value in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', matchers):
            if label not in {*metric.labels, *FOREIGN_LABELS}:
                found.append(f"{name} has no label {label}")
            elif label == "reason":
                reasons = {labels[0] for labels, _ in metric.read(snapshot(), NO_COUNTS)}
                found += [f"no reason {each}" for each in value.split("|") if each not in reasons]
    for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression):
        found += [f"by {each}" for each in re.split(r"[\s,]+", labels) if each not in known]
    if "asgi_poller_" not in expression:
        found.append("asks for nothing of ours")
    return found


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_what_is_asked_for_exists(expression: str) -> None:
    assert complaints(expression) == []


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(asgi_poller_accepted_total[1m])", "no metric asgi_poller_accepted_total"),
        ("asgi_poller_loop_lag_seconds", "no metric asgi_poller_loop_lag_seconds"),
        ('asgi_poller_state{worker="1"}', "asgi_poller_state has no label worker"),
        ("sum by (loop) (asgi_poller_state)", "by loop"),
        ('asgi_poller_refused_total{reason=~"503|rate"}', "no reason rate"),
        ("up == 0", "asks for nothing of ours"),
    ],
)
def test_a_wrong_question_is_noticed(expression: str, complaint: str) -> None:
    assert complaints(expression) == [complaint]


def test_the_dashboard_has_a_panel_for_almost_everything() -> None:
    asked = set(re.findall(r"asgi_poller_\w+", " ".join(expressions())))
    silent = {metric.name for metric in CATALOGUE if not samples_of(metric) & asked}
    assert silent <= {"asgi_poller_websocket_pings_total"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


@pytest.mark.tools
def test_promtool_accepts_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the path")
    done = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
