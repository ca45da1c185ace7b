"""The monitor of a running server, in each of its forms: what clients do is what it shows."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.monitor.metrics import MonitorPort, monitor_of
from tests.support.client import get
from tests.support.command import Command, pid_at, run_python, started
from tests.support.frames import close as close_frame
from tests.support.processes import free_port, is_alive
from tests.support.server import Served
from tests.support.waiting import wait_until

METRICS = ("--metrics", "0")
FORMS = {
    "one process": (),
    "loops": ("--loops", "2"),
    "workers": ("--workers", "2"),
    "preload": ("--workers", "2", "--preload"),
    "uvloop off": ("--loop", "asyncio"),
    "reload": ("--reload",),
}


def ready(command: Command, form: str) -> tuple[MonitorPort, Served]:
    command.wait_ready(2 if "--workers" in FORMS[form] else 1)
    port = monitor_of(command)
    wait_until(lambda: port.status("/readyz") == 200, "it is ready")
    return port, Served(command.address[1])


@pytest.mark.parametrize("form", FORMS)
def test_what_clients_do_is_what_it_shows(form: str) -> None:
    with started(*FORMS[form], *METRICS) as command:
        port, served = ready(command, form)
        assert port.status("/healthz") == 200
        before = port.value("poller_accepted_total")
        with served.websocket() as client:
            client.frame()
            for _ in range(5):
                served.echo(client)
            port.wait_for("websocket_messages_received_total", 5)
            assert port.value("websocket_messages_sent_total") == 6
            assert port.value("loop_websockets") == 1
            assert port.value("websockets_opened_total") == 1
            assert port.value("websocket_handshake_duration_seconds_count") == 1
            client.sendall(close_frame(1000))
            client.frame()
        port.wait_for("websocket_closes_total", 1, code="1000", by="peer")
        port.wait_for("http_responses_total", 0, status="2xx")
        assert served.ask(get("/", "Connection: close")).startswith(b"HTTP/1.1 200 ")
        assert served.ask(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        port.wait_for("refused_total", 1, reason="400")
        assert port.value("poller_accepted_total") == before + 3
        wait_until(lambda: port.value("loop_connections") == 0, "all have left")
        memory = port.value("worker_resident_memory_bytes")
        assert 5 * 1024 * 1024 < memory < 1024 * 1024 * 1024
        loops = {"loops": 2, "workers": 2, "preload": 2}.get(form, 1)
        assert len([each for it in port.json()["workers"] for each in it["loops"]]) == loops
        assert port.value("loop_lag_seconds_count") > 0
        assert not command.said("/metrics"), "no access log"


def test_its_own_connections_are_in_no_metric() -> None:
    with started(*METRICS) as command:
        port, _ = ready(command, "one process")
        for _ in range(20):
            port.page("/metrics")
            port.ask(b"nonsense\r\n\r\n")
        shown = port.json()
        assert sum(poller["accepted"] for poller in shown["pollers"]) == 0
        assert shown["refused"] == {}
        assert shown["total"]["responses"] == {"2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0}


@pytest.mark.parametrize("form", ["one process", "workers"])
def test_a_blocked_application_is_shown_and_hides_nothing(form: str) -> None:
    with started(*FORMS[form], *METRICS, "--timeout-worker-heartbeat", "1s") as command:
        port, served = ready(command, form)
        loops = 2 if form == "workers" else 1
        blocked: set[int] = set()
        while len(blocked) < loops:
            blocked.add(int(served.ask(get("/block?60", "Connection: close")).split()[-2]))
        assert port.status("/healthz") in (200, 503)
        wait_until(lambda: port.value("loop_silent_seconds") > 0.5, "it is shown")
        if form == "one process":  # workers are replaced
            wait_until(lambda: port.status("/healthz") == 503, "it is blocked for too long")
            answer = port.page("/healthz").body.decode()
            assert answer.startswith("all event loops have been blocked for ")
            assert port.status("/readyz") == 503
        else:
            port.wait_for("worker_restarts_total", 2, reason="lost")
            wait_until(lambda: port.status("/readyz") == 200, "others serve")


def test_a_killed_worker_is_a_restart_and_nothing_that_was_counted_is_lost() -> None:
    with started(*FORMS["workers"], *METRICS) as command:
        port, served = ready(command, "workers")
        for _ in range(8):
            with served.websocket() as client:
                client.frame()
                served.echo(client)
        port.wait_for("websocket_messages_received_total", 8)
        for pid in command.workers:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_alive(pid), "it has died")  # type: ignore[misc]
        assert port.status("/healthz") in (200, 503), "it answers whatever happens"
        port.wait_for("worker_restarts_total", 2, reason="crashed")
        assert port.value("websocket_messages_received_total") == 8
        wait_until(lambda: port.value("worker_state", state="serving") == 2, "others serve")
        assert port.status("/readyz") == 200
        assert pid_at(command.address) in command.workers


def test_the_application_may_start_slowly(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.write_text("hang")
    for form in ("one process", "workers"):
        with started(*FORMS[form], *METRICS, environ={"TEST_FAIL": str(fail)}) as command:
            port = monitor_of(command)
            command.wait_for("Waiting for application startup")
            assert port.status("/healthz") == 200
            answer = port.page("/readyz")
            assert (answer.status, answer.body) == (503, b"starting\n")
            command.stop()


def test_a_reload_keeps_the_port(tmp_path: Path) -> None:
    source = tmp_path / "changing.py"
    source.write_text("from tests.supervisor.app import app\n")
    options = ("--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path))
    with started(*options, *METRICS, app="changing:app") as command:
        port, _ = ready(command, "reload")
        source.write_text("from tests.supervisor.app import app  # changed\n")
        port.wait_for("worker_restarts_total", 1, reason="reload")
        wait_until(lambda: port.status("/readyz") == 200, "it serves again")
        source.write_text("oops(\n")
        command.wait_for("Waiting for a change")
        assert port.status("/readyz") == 503


def test_a_port_in_use_is_one_line() -> None:
    with started(*METRICS) as command:
        port = monitor_of(command)
        for form in ("one process", "workers", "reload"):
            with started(*FORMS[form], "--metrics", str(port.port)) as second:
                assert second.wait() == 1
                assert second.lines[-1] == (
                    f"asgi-poller: error: --metrics: 127.0.0.1:{port.port} is already in use"
                    " by another program"
                )
                assert "Traceback" not in second.text


def test_a_missing_library_is_one_line() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None;"
        "from asgi_poller.__main__ import main; main()"
    )
    for options in ((), ("--workers", "2"), ("--reload",)):
        done = run_python("-c", code, "tests.supervisor.app:app", "--port", "0", *METRICS, *options)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("asgi-poller: error: --metrics: needs ")
        assert "pip install 'asgi-poller[metrics]'" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("form", ["one process", "preload"])
def test_what_the_application_forks_does_not_keep_the_port(form: str) -> None:
    number = str(free_port())
    with started(*FORMS[form], "--metrics", number, app="tests.supervisor.forking:app") as command:
        command.wait_ready(2 if form == "preload" else 1)
        served = Served(command.address[1])
        child = int(served.ask(get("/leave", "Connection: close")).rpartition(b"\r\n")[2])
        assert is_alive(child)
        command.signal(signal.SIGKILL)
        command.wait(has_heir=True)
        # a killed server ends no children of its application
        with started("--metrics", number) as second:
            ready(second, "one process")


def test_a_server_on_a_unix_socket(tmp_path: Path) -> None:
    with started("--uds", str(tmp_path / "app.sock"), *METRICS, port=None) as command:
        command.wait_ready()
        port = monitor_of(command)
        wait_until(lambda: port.status("/readyz") == 200, "it is ready")
        (listener,) = port.json()["listeners"]
        assert listener["url"] == f"unix:{tmp_path / 'app.sock'}"
        assert port.value("listener_queue_limit_connections") == 0, "the system does not say"


def test_a_token_of_the_environment_is_not_shown_to_the_application() -> None:
    environ = {"ASGI_POLLER_METRICS_TOKEN": "s3cret"}
    with started(*FORMS["workers"], *METRICS, environ=environ) as command:
        command.wait_ready(2)
        port = monitor_of(command)
        assert port.status("/metrics") == 401
        assert port.page("/metrics", "Authorization: Bearer s3cret").status == 200
        for pid in (command.pid, *command.workers):
            shown = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"s3cret" not in shown
