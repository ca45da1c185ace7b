"""The parts of a cluster, each a real program on loopback: nodes, HAProxy and Redis, as the
files of examples/cluster have them.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from asgi_poller.settings.table import BY_SPELLING
from tests.support.command import Command, Process
from tests.support.processes import ROOT, free_port
from tests.support.waiting import DEADLINE_S, wait_until

EXAMPLE = ROOT / "examples" / "cluster"
APP = "examples.cluster.feed:app"


def options_of(command: Sequence[str]) -> dict[str, str]:
    """The options of one of our commands as the files write them: --name=value."""
    assert command[0] == "asgi-poller"
    words = [word for word in command[1:] if word.startswith("-")]
    assert len(words) == len(command) - 2, f"APP and --name=value, not {command}"
    found = dict(word.removeprefix("--").split("=", 1) for word in words)
    for name in found:
        assert name.replace("-", "_") in BY_SPELLING, f"there is no --{name}"
    return found


def node_options() -> dict[str, str]:
    """What the compose file starts a node with."""
    services = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]
    return options_of(services["node1"]["command"])


class Node:
    """A server on ports of its own, which it has again when it is started again."""

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self.port, self.monitor_port = free_port(), free_port()
        self._options = options
        self._command: Command | None = None

    @property
    def command(self) -> Command:
        assert self._command is not None, f"{self.name} is not started"
        return self._command

    def start(self, workers: int = 1) -> None:
        """Start, and wait until it serves."""
        monitor = f"127.0.0.1:{self.monitor_port}"
        self._command = Command(
            *("--port", str(self.port), "--workers", str(workers), "--metrics", monitor),
            *self._options,
            app=APP,
        )
        self._command.wait_for("running on")
        if workers > 1:
            self._command.wait_for(r"Worker \d+ \[\d+\] is ready", count=workers)

    def kill(self) -> None:
        """All its processes at once, as if its machine had lost its power."""
        self.command.close()

    def close(self) -> None:
        if self._command is not None:
            self._command.close()


class HaProxy:
    """HAProxy with the example's configuration, before nodes at other addresses."""

    def __init__(self, folder: Path, nodes: Sequence[Node]) -> None:
        self.port = free_port()
        self._file = folder / "haproxy.cfg"
        self._file.write_text(haproxy_text(self.port, nodes))
        self._stats = folder / "haproxy.sock"
        self._process: Process | None = None

    def start(self) -> None:
        """Start, and wait until it listens."""
        extra = self._file.with_name("stats.cfg")
        extra.write_text(f"global\n    stats socket {self._stats}\n")
        command = ["haproxy", "-db", "-f", str(self._file), "-f", str(extra)]
        self._process = process = Process(command, both_streams=True)

        def is_over() -> bool:
            return process.process.poll() is not None

        wait_until(lambda: is_open(self.port) or is_over(), "HAProxy listens")
        assert not is_over(), process.text

    def is_up(self, node: Node) -> bool:
        """Whether it sends clients to a node."""
        with socket.socket(socket.AF_UNIX) as stats, contextlib.suppress(OSError):
            stats.settimeout(DEADLINE_S)
            stats.connect(str(self._stats))
            stats.sendall(b"show stat\n")
            text = b"".join(iter(lambda: stats.recv(65536), b"")).decode()
            return re.search(rf"^feed,{node.name},.*,UP,", text, re.MULTILINE) is not None
        return False

    def close(self) -> None:
        """End it at once, and so all connections through it."""
        if self._process is not None:
            self._process.close()


def haproxy_text(port: int, nodes: Sequence[Node]) -> str:
    """The example's configuration with these addresses in the place of its own."""
    text = (EXAMPLE / "haproxy.cfg").read_text()
    text, count = re.subn(r"^    bind :8000$", f"    bind 127.0.0.1:{port}", text, flags=re.M)
    assert count == 1
    line = "    server {0.name} 127.0.0.1:{0.port} port {0.monitor_port}\n"
    lines = "".join(line.format(node) for node in nodes)
    text, count = re.subn(r"(?:^    server node\d node\d:8000\n)+", lines, text, flags=re.M)
    assert count == 1
    return text


class Redis:
    """A Redis with the compose file's options, which finds its data again when it is started
    again.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it answers."""
        services = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]
        command = [*services["redis"]["command"], "--bind", "127.0.0.1"]
        command += ["--port", str(self.port), "--dir", str(self._folder)]
        self._process = Process(command, both_streams=True)
        self._process.wait_for("Ready to accept connections")

    def kill(self) -> None:
        """With SIGKILL: it writes nothing more."""
        assert self._process is not None
        self._process.signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), DEADLINE_S):
        return True
    return False


@contextlib.contextmanager
def closing(*parts: Node | HaProxy | Redis) -> Iterator[None]:
    """Leave nothing behind, and show what the nodes have said if the test fails."""
    try:
        yield
    except BaseException:  # shown and raised again, whatever ends the test
        for part in parts:
            if isinstance(part, Node) and part._command is not None:
                print(f"== {part.name}\n{part.command.text}")
        raise
    finally:
        for part in parts:
            part.close()
