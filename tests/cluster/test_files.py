"""The files of examples/cluster: they fit their schemas, and what they say of us is so."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from asgi_poller.config import SHARED_VARIABLES, Config
from asgi_poller.monitor.catalogue import CATALOGUE
from asgi_poller.settings.table import BY_SPELLING
from tests.cluster.parts import EXAMPLE, options_of
from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S

FILES = sorted(path for path in EXAMPLE.rglob("*") if path.suffix not in (".py", ".pyc", ""))
MANIFESTS = ("feed.yaml", "redis.yaml")
HAPROXY = (EXAMPLE / "haproxy.cfg").read_text()
NGINX = (EXAMPLE / "nginx.conf").read_text()
DOCKERFILE = (EXAMPLE / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())


def manifests() -> Iterator[dict[str, Any]]:
    for name in MANIFESTS:
        yield from yaml.safe_load_all((EXAMPLE / "kubernetes" / name).read_text())


def manifest(kind: str, name: str = "feed") -> dict[str, Any]:
    return next(
        each for each in manifests() if each["kind"] == kind and each["metadata"]["name"] == name
    )


POD = manifest("Deployment")["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
COMMANDS = {"compose": COMPOSE["services"]["node1"]["command"], "kubernetes": CONTAINER["args"]}


def configured(place: str) -> Config:
    """The settings that the nodes of a place have."""
    options = options_of(COMMANDS[place])
    values: dict[str, Any] = {name.replace("-", "_"): it for name, it in options.items()}
    return Config("feed:app", **values)


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|m)", text)
    assert found is not None, text
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]


def test_the_compose_file_fits_its_schema() -> None:
    pytest.importorskip("check_jsonschema", reason="pip install '.[test]'")
    schema = ("--builtin-schema", "vendor.compose-spec")
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(EXAMPLE / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("number", range(len(list(manifests()))))
def test_manifests_fit_their_schemas(number: int) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install '.[test]'")
    resource = list(manifests())[number]
    validator.validate(resource, validator.latest_version(), strict=True)


@pytest.mark.parametrize("place", COMMANDS)
def test_nodes_are_started_with_what_we_have(place: str) -> None:
    config = configured(place)
    assert config.notices == ()
    assert config.workers == 2
    assert config.metrics == "0.0.0.0:9100"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_options_and_variables_exist(path: Any) -> None:
    text = path.read_text()
    ours = re.findall(r"(?:ASGI_POLLER_([A-Z_]+))", text)
    assert {name.lower() for name in ours} <= set(BY_SPELLING)
    assert set(re.findall(r"FORWARDED_ALLOW_IPS", text)) <= set(SHARED_VARIABLES.values())
    if "docker" not in path.name.lower():
        # in comments too; those of the other programs stand in their own command lines
        named = re.findall(r"#.*?(?<![\w-])--([a-z-]+)", text)
        known = {"build", "file", "install", "up", "values"}
        assert {name.replace("-", "_") for name in set(named) - known} <= set(BY_SPELLING)


def test_the_dockerfile_starts_what_is_there() -> None:
    found = re.search(r"^CMD \[(.*)\]$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    command: list[str] = yaml.safe_load(f"[{found[1]}]")
    assert command[:2] == ["asgi-poller", "feed:app"]
    named = [word.removeprefix("--") for word in command if word.startswith("--")]
    assert {name.replace("-", "_") for name in named} <= set(BY_SPELLING)
    extras = re.search(r"/src\[(.*?)\]", DOCKERFILE)
    assert extras is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    copied = re.findall(r"^COPY (\S+) \.$", DOCKERFILE, re.MULTILINE)
    assert copied
    assert all((ROOT / name).is_file() for name in copied)


def test_files_that_compose_mounts_exist() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (EXAMPLE / source).is_file(), volume
    build = COMPOSE["services"]["node1"]["build"]
    assert (EXAMPLE / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


@pytest.mark.parametrize("place", COMMANDS)
def test_a_node_may_take_as_long_as_its_stop_does(place: str) -> None:
    """With some seconds for the lifespan's shutdown, and for a worker that has to be killed."""
    allowed_s = {
        "compose": seconds(COMPOSE["services"]["node1"]["stop_grace_period"]),
        "kubernetes": POD["terminationGracePeriodSeconds"],
    }[place]
    assert allowed_s >= configured(place).longest_stop_s + 10


def test_haproxy_sees_a_drain_before_it_begins() -> None:
    found = re.search(r"check port (\d+) inter (\d+s) fall (\d+)", HAPROXY)
    assert found is not None
    assert configured("compose").metrics == f"0.0.0.0:{found[1]}"
    assert configured("compose").drain_delay >= seconds(found[2]) * (int(found[3]) + 1)
    assert "option httpchk GET /readyz\n" in HAPROXY


def test_kubernetes_sees_a_drain_before_it_begins() -> None:
    probe = CONTAINER["readinessProbe"]
    seen_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert configured("kubernetes").drain_delay >= seen_s + 2


def test_probes_ask_what_answers_them() -> None:
    paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    for name, path in paths.items():
        assert CONTAINER[name]["httpGet"] == {"path": path, "port": "metrics"}
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    config = configured("kubernetes")
    assert config.metrics is not None
    assert ports == {"http": config.port, "metrics": int(config.metrics.rpartition(":")[2])}
    annotations = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == ports["metrics"]


def test_everything_selects_the_pods() -> None:
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    target = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "feed")
    redis = manifest("StatefulSet", "redis")["spec"]
    assert manifest("Service", "redis")["spec"]["selector"] == redis["selector"]["matchLabels"]


def test_the_autoscaler_counts_open_websockets() -> None:
    """The adapter's rule makes its metric from one that /metrics has."""
    rules = yaml.safe_load((EXAMPLE / "kubernetes" / "adapter.yaml").read_text())["rules"]["custom"]
    (metric,) = manifest("HorizontalPodAutoscaler")["spec"]["metrics"]
    made = {rule["name"]["as"]: rule for rule in rules}
    series = made[metric["pods"]["metric"]["name"]]["seriesQuery"].partition("{")[0]
    (ours,) = (each for each in CATALOGUE if each.name == series)
    assert ours.kind == "gauge"
    assert ours.help == "Open WebSockets."


def test_the_proxies_wait_for_pings() -> None:
    """A WebSocket on which nothing is said has a ping and a pong in time, and one more may fail."""
    interval_s = configured("compose").ws_ping_interval
    assert interval_s is not None
    least_s = 2 * interval_s
    (tunnel,) = re.findall(r"timeout tunnel (\S+)", HAPROXY)
    (reading,) = re.findall(r"proxy_read_timeout (\S+);", NGINX)
    assert seconds(tunnel) > least_s
    assert seconds(reading) > least_s


def test_proxies_have_the_nodes_of_the_compose_file() -> None:
    nodes = {name for name in COMPOSE["services"] if name.startswith("node")}
    port = configured("compose").port
    wanted = {(name, port) for name in nodes}
    found = re.findall(r"^    server (node\d) \1:(\d+)$", HAPROXY, re.MULTILINE)
    assert {(name, int(number)) for name, number in found} == wanted
    found = re.findall(r"^    server (node\d):(\d+) ", NGINX, re.MULTILINE)
    assert {(name, int(number)) for name, number in found} == wanted


def test_redis_has_one_address_and_one_password() -> None:
    config = configured("compose")
    assert config.topics_history
    secret = manifest("Secret", "feed-topics")["stringData"]
    service = manifest("Service", "redis")
    port = service["spec"]["ports"][0]["port"]
    assert secret["url"] == f"redis://:{secret['password']}@redis:{port}/0"
    (redis,) = manifest("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    variables = [*CONTAINER["env"], *redis["env"]]
    assert {each["valueFrom"]["secretKeyRef"]["key"] for each in variables} == set(secret)
    environment = COMPOSE["services"]["node1"]["environment"]
    assert environment["ASGI_POLLER_TOPICS"] == f"redis://redis:{port}/0"
    assert "redis" in COMPOSE["services"]
