"""The header fields that every response has."""

from __future__ import annotations

import pytest

from asgi_poller.loops.default_headers import DefaultHeaders
from tests.support.fake_connection import Clock


def fields(*headers: tuple[bytes, bytes], server: bytes | None = b"us", date: bool = True) -> bytes:
    return DefaultHeaders(server=server, date=date, headers=headers)({})


def names(lines: bytes) -> list[bytes]:
    assert lines == b"" or lines.endswith(b"\r\n")
    return [line.partition(b": ")[0] for line in lines.split(b"\r\n")[:-1]]


def test_the_applications_replace_ours() -> None:
    default = DefaultHeaders(server=b"us", date=True)
    assert names(default({b"date": b"x"})) == [b"server"]
    assert names(default({b"server": b"x"})) == [b"date"]
    assert default({b"server": b"x", b"date": b"x"}) == b""
    assert names(default({b"content-length": b"5"})) == [b"date", b"server"]
    assert names(default({})) == [b"date", b"server"]


def test_the_date_follows_the_clock_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    made: list[float] = []

    def formatdate(usegmt: bool) -> str:
        made.append(clock.now)
        return f"at {int(clock.now)}"

    monkeypatch.setattr("asgi_poller.loops.default_headers.formatdate", formatdate)
    default = DefaultHeaders(server=None, date=True)
    default._clock = clock
    clock.now = 1000.2
    assert default({}) == b"date: at 1000\r\n"
    clock.now = 1000.99
    assert default({}) == b"date: at 1000\r\n"
    clock.now = 1001.0
    assert default({}) == b"date: at 1001\r\n"
    clock.now = 400.5  # somebody has set it
    assert default({}) == b"date: at 400\r\n"
    assert len(made) == 3
