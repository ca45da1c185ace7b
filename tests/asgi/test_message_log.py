"""`--log-level trace`: every ASGI message of a running server, and nothing of their contents."""

from __future__ import annotations

import pytest

from tests.support.command import get, started

APP = "tests.attacks.echo:app"


@pytest.mark.parametrize("level", ["trace", "debug"])
def test_messages_are_logged_with_sizes_at_level_trace(level: str) -> None:
    with started("--log-level", level, app=APP) as command:
        command.wait_for("running on")
        get(command.address, "/secret-path?token=hidden")
        if level == "trace":
            command.wait_for(r"127\.0\.0\.1:\d+ - ASGI \[\d+\] Started scope=.*'/secret-path'")
            command.wait_for(r"Receive \{'type': 'http.request', 'body': '<0 bytes>'")
            command.wait_for(r"Send \{'type': 'http.response.start', .*'headers': '<\d+ headers>'")
            command.wait_for(r"Send \{'type': 'http.response.body', 'body': '<\d+ bytes>'")
            command.wait_for(r"ASGI \[\d+\] Completed")
        command.stop()
        assert "token=hidden" not in "\n".join(one for one in command.lines if "ASGI [" in one)
        assert ("Started scope" in command.text) is (level == "trace")
