"""What an operator sees of processes and threads: names in ps and top, the lines of a start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.command import running
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the names are in /proc")


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def threads_of(pid: int) -> set[str]:
    return {path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")}


def test_processes_and_threads_have_names() -> None:
    with running("--loops", "2") as command:
        assert name_of(command.pid) == "asgi-poller: su"
        assert sorted(map(name_of, command.workers)) == ["asgi-poller: w1", "asgi-poller: w2"]
        wait_until(
            lambda: {"MasterPoller-0", "LaneMonitor"} <= threads_of(command.pid), "pollers' names"
        )
        for worker in command.workers:
            assert {"Loop-1", "ParentWatchdog"} <= threads_of(worker)


def test_the_whole_title_is_set_where_that_can_be_done(tmp_path: Path) -> None:
    (tmp_path / "setproctitle.py").write_text(
        "import pathlib, sys\n"
        f"def setproctitle(title): open({str(tmp_path / 'titles')!r}, 'a').write(title + '\\n')\n"
    )
    with running(environ={"PYTHONPATH": f"{tmp_path}:{ROOT}"}):
        titles = (tmp_path / "titles").read_text().splitlines()
    assert titles[0] == "asgi-poller: supervisor"
    assert sorted(titles[1:]) == ["asgi-poller: worker 1", "asgi-poller: worker 2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_start_in_colour_and_without_a_warning(workers: int) -> None:
    with running("--use-colors", workers=workers) as command:
        pass
    (where,) = (line for line in command.lines if " running on " in line)
    assert "running on \x1b[1mhttp://127.0.0.1:" in where
    assert where.endswith("\x1b[0m (Press CTRL+C to quit)")
    assert f"[\x1b[36m{command.pid}\x1b[0m]" in command.text
    assert "WARNING" not in command.text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_backlog_that_was_asked_for_and_is_capped_is_told(workers: int) -> None:
    with running("--backlog", "2147483647", workers=workers) as command:
        line = command.wait_for(r"--backlog 2147483647 is capped at \d+").string
    assert line.startswith("WARNING: ")
