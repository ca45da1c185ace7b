"""The header fields that every response has."""

from __future__ import annotations

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


def test_the_date_follows_the_clock_both_ways() -> None:
    """It is made once a second."""
    clock = Clock()
    default = DefaultHeaders(server=None, date=True)
    default._clock = clock
    clock.now = 1000.2
    first = default({})
    assert first == b"date: Thu, 01 Jan 1970 00:16:40 GMT\r\n"
    assert default.fields(()) == [(b"date", b"Thu, 01 Jan 1970 00:16:40 GMT")]
    clock.now = 1000.99
    assert default({}) is first
    clock.now = 1001.0
    assert default.fields(()) == [(b"date", b"Thu, 01 Jan 1970 00:16:41 GMT")]
    assert default({}) == b"date: Thu, 01 Jan 1970 00:16:41 GMT\r\n"
    clock.now = 400.5  # somebody has set it
    assert default({}) == b"date: Thu, 01 Jan 1970 00:06:40 GMT\r\n"
