"""Parcels, messages, stacks, and what else the supervisor is made of."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_poller import platform
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.ipc.bootstrap import (
    ForkServerSpec,
    Origin,
    WorkerSpec,
    packed,
    receive_bootstrap,
    send_bootstrap,
)
from asgi_poller.ipc.control import Control, Lines, Message, encoded
from asgi_poller.ipc.stack_dump import stack_of
from asgi_poller.supervisor import recycling
from asgi_poller.supervisor.spawn import described_exit
from asgi_poller.worker.parent_watchdog import ParentWatchdog
from tests.supervisor.command import DEADLINE_S, ROOT

# Parcels


def spec(config: Config | None) -> WorkerSpec:
    return WorkerSpec(
        number=1,
        infos=(),
        rows=(4, 5),
        marks=(0, 0),
        has_table=False,
        websocket_share=None,
        nice=0,
        config=config,
        origin=Origin(),
    )


def test_a_parcel_arrives_whole_with_any_number_of_descriptors() -> None:
    config = Config("main:app", headers=[("x-long", "x" * 4000)] * 200)
    ours, theirs = socket.socketpair()
    fds = [os.dup(0) for _ in range(450)]
    received: list[Any] = []
    reader = threading.Thread(target=lambda: received.extend(receive_bootstrap(theirs)))
    with ours, theirs:
        reader.start()
        octets = packed(spec(config))
        assert len(octets) > 500_000
        asyncio.run(asyncio.wait_for(send_bootstrap(ours, octets, fds), DEADLINE_S))
        reader.join(DEADLINE_S)
        got, got_fds = received
    assert got == spec(config)
    assert len(got_fds) == 450
    assert not any(os.get_inheritable(fd) for fd in got_fds)
    for fd in (*fds, *got_fds):
        os.close(fd)


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_parcel_that_breaks_off_is_the_end(cut: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            kept, aside = socket.socketpair()
            with kept, aside:
                asyncio.run(send_bootstrap(kept, packed(spec(None)), []))
                ours.send(aside.recv(65536)[:cut])
        with pytest.raises(EOFError):
            receive_bootstrap(theirs)


def test_settings_that_cannot_be_passed_are_one_line() -> None:
    config = Config(lambda scope, receive, send: None, lifespan="off")
    with pytest.raises(ConfigError, match=r"--workers: the settings cannot be passed"):
        packed(ForkServerSpec(config=config, origin=Origin()))


# Messages


def test_messages_are_read_however_they_are_cut() -> None:
    octets = encoded("ready", threads=[1, 2]) + encoded("leaving")
    for cut in range(len(octets)):
        lines = Lines()
        messages = lines.feed(octets[:cut]) + lines.feed(octets[cut:])
        assert messages == [{"kind": "ready", "threads": [1, 2]}, {"kind": "leaving"}]


@pytest.mark.parametrize(
    "octets", [b"[]\n", b"{}\n", b'{"kind": 1}\n', b"\xff\n", b"x" * 2_000_000]
)
def test_what_is_no_message_is_an_error(octets: bytes) -> None:
    with pytest.raises(ValueError):
        Lines().feed(octets)


def with_control(work: Callable[[Control, socket.socket, asyncio.Queue[Any]], Any]) -> None:
    """Run `work` with a Control, the other end, and a queue of what it told; None is the end."""

    async def main() -> None:
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        ours, theirs = socket.socketpair()
        control = Control(ours, on_message=told.put_nowait, on_end=lambda: told.put_nowait(None))
        with theirs:
            async with asyncio.timeout(DEADLINE_S):
                await work(control, theirs, told)
        control.close()

    asyncio.run(main())


def test_a_slow_reader_gets_everything_in_the_end() -> None:
    async def work(control: Control, theirs: socket.socket, told: asyncio.Queue[Any]) -> None:
        for number in range(3000):
            control.send("drain", number=number, padding="x" * 1000)
        theirs.setblocking(False)
        lines = Lines()
        messages: list[Message] = []
        while len(messages) < 3000:
            messages += lines.feed(await asyncio.get_running_loop().sock_recv(theirs, 65536))
        assert [message["number"] for message in messages] == list(range(3000))

    with_control(work)


def test_the_end_is_told_once_and_sending_to_nobody_is_harmless() -> None:
    async def work(control: Control, theirs: socket.socket, told: asyncio.Queue[Any]) -> None:
        theirs.sendall(encoded("leaving"))
        theirs.close()
        control.send("drain")
        control.read_now()
        assert told.get_nowait() == {"kind": "leaving"}
        assert told.get_nowait() is None
        control.send("drain")
        control.read_now()
        assert told.empty()

    with_control(work)


def test_one_that_babbles_is_hung_up_on(caplog: pytest.LogCaptureFixture) -> None:
    async def work(control: Control, theirs: socket.socket, told: asyncio.Queue[Any]) -> None:
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert await told.get() is None
        assert theirs.recv(1) == b""

    with_control(work)
    assert "does not speak our language" in caplog.text


# Stacks, ends, memory

_DUMP = """\
Thread 0x00007f0000000a00 (most recent call first):
  File "idle.py", line 1 in wait

Current thread 0x00007f0000000b00 [MainThread] (most recent call first):
  File "main.py", line 7 in block
"""


def test_the_stack_of_one_thread_is_found() -> None:
    assert "line 7 in block" in stack_of(0x7F0000000B00, _DUMP)
    assert "idle.py" not in stack_of(0x7F0000000B00, _DUMP)
    assert stack_of(0x7F0000000A00, _DUMP).endswith("line 1 in wait")
    assert stack_of(1, _DUMP) == _DUMP.strip(), "all of it rather than nothing"


_WINDOWS = """
import asyncio, multiprocessing.spawn, os, select, signal, socket, subprocess
for name in "SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 SIGTTIN SIGTTOU SIGCHLD".split():
    delattr(signal, name)
for name in "SCM_RIGHTS CMSG_SPACE recv_fds send_fds".split():
    delattr(socket, name)
for module, name in ((os, "fork"), (os, "WNOHANG"), (os, "pidfd_open"), (select, "poll")):
    delattr(module, name)
import asgi_poller.serve_main
"""


def test_it_can_be_imported_where_there_are_no_workers() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _WINDOWS], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_ends_are_described() -> None:
    assert described_exit(3) == "ended with exit code 3"
    assert described_exit(-9) == "was killed by SIGKILL"
    assert described_exit(-200) == "was killed by signal 200"


def test_memory_of_a_process_is_known_and_of_none_is_not() -> None:
    octets = recycling.resident_bytes(os.getpid())
    assert octets is not None
    assert 1 << 20 < octets < 1 << 40
    assert recycling.resident_bytes(1 << 30) is None


def test_memory_can_be_asked_of_ps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "LINUX", False)
    fake = tmp_path / "ps"
    fake.write_text("#!/bin/sh\necho ' 2048'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert recycling.resident_bytes(1) == 2048 * 1024
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert recycling.resident_bytes(1) is None


def test_reasons_to_recycle() -> None:
    config = Config("main:app", worker_max_lifetime=10, worker_max_memory="1MiB")
    assert "it has served for 10 s" in str(
        recycling.reason_to_recycle(config, pid=os.getpid(), age_s=10.0)
    )
    assert "(--worker-max-memory)" in str(
        recycling.reason_to_recycle(config, pid=os.getpid(), age_s=1.0)
    )
    assert recycling.reason_to_recycle(Config("main:app"), pid=1, age_s=1e9) is None


def test_an_orphan_is_ended_although_its_loop_is_blocked() -> None:
    ours, theirs = socket.socketpair()
    ended: list[int] = []
    done = threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        done.set()

    with theirs:
        ParentWatchdog(theirs, 0.0, end).start()
        theirs_can_wait = done.wait(0.05)
        assert not theirs_can_wait, "not while the supervisor lives"
        ours.close()
        assert done.wait(DEADLINE_S)
    assert ended == [1]
