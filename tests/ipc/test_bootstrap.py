"""What a child is started with arrives whole, or is the end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Any

import pytest

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
from tests.support.waiting import DEADLINE_S


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


def test_a_specification_arrives_whole_with_any_number_of_descriptors() -> None:
    config = Config("main:app", headers=[("x-long", "x" * 4000)] * 200)
    ours, theirs = socket.socketpair()
    fds = [os.dup(0) for _ in range(450)]
    received: list[Any] = []
    reader = threading.Thread(target=lambda: received.extend(receive_bootstrap(theirs)))
    with ours, theirs:
        reader.start()
        packed_spec = packed(spec(config))
        assert len(packed_spec) > 500_000
        asyncio.run(asyncio.wait_for(send_bootstrap(ours, packed_spec, fds), DEADLINE_S))
        reader.join(DEADLINE_S)
        got, got_fds = received
    assert got == spec(config)
    assert len(got_fds) == 450
    assert not any(os.get_inheritable(fd) for fd in got_fds)
    for fd in (*fds, *got_fds):
        os.close(fd)


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_specification_that_breaks_off_is_the_end(cut: int) -> None:
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
