"""Accept-Encoding against the codings that a file has."""

from __future__ import annotations

import pytest

from asgi_poller.protocols.content_coding import preferred

ALL = (b"br", b"zstd", b"gzip")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", b"br"),
        ("gzip, deflate", b"gzip"),
        ("zstd;q=0.9, br;q=0.8", b"zstd"),
        ("gzip;q=1.0, br;q=0.999", b"gzip"),
        ("x-gzip", b"gzip"),
        ("GZIP", b"gzip"),
        ("*", b"br"),
        ("br;q=0, *", b"zstd"),
        ("gzip;q=0", None),
        ("gzip; q=0.000", None),
        ("*;q=0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", b"gzip"),
        ("identity;q=0", None),
        ("deflate", None),
        ("", None),
        ("gzip;q=2", None),  # no weight
        ("gzip;q=nan, br;q=1e9", None),
        ("gzip;level=9", None),
        ("br\x00, ;;, =, gzip", b"gzip"),
        ("gzip" + ", x" * 1000, None),
    ],
)
def test_what_a_client_gets(accepted: str, coding: bytes | None) -> None:
    assert preferred(accepted.encode(), ALL) == coding


def test_only_what_is_there() -> None:
    assert preferred(b"br, gzip", (b"gzip",)) == b"gzip"
    assert preferred(b"br, gzip", ()) is None
    assert preferred(None, ALL) is None
