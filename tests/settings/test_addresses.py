"""Addresses to listen on, as they are written."""

from __future__ import annotations

import pytest

from asgi_poller.settings.addresses import BindAddress, check_bind, parse_bind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", BindAddress("tcp", host="127.0.0.1", port=8000)),
        ("localhost:0", BindAddress("tcp", host="localhost", port=0)),
        (":8000", BindAddress("tcp", host="", port=8000)),
        ("[::1]:443", BindAddress("tcp", host="::1", port=443)),
        ("[::]:0", BindAddress("tcp", host="::", port=0)),
        ("unix:/run/app.sock", BindAddress("unix", path="/run/app.sock")),
        ("unix:///run/app.sock", BindAddress("unix", path="/run/app.sock")),
        ("unix:app.sock", BindAddress("unix", path="app.sock")),
        ("fd://3", BindAddress("fd", fd=3)),
    ],
)
def test_addresses_in_parts(text: str, expected: BindAddress) -> None:
    assert parse_bind(text) == expected
    assert check_bind(f" {text} ") == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be HOST:PORT"),
        ("8000", "must be HOST:PORT"),
        ("localhost", "must be HOST:PORT"),
        ("localhost:http", "port from 0 to 65535"),
        ("localhost:65536", "port from 0 to 65535"),
        ("localhost:-1", "port from 0 to 65535"),
        ("http://localhost:80", "must be HOST:PORT"),
        ("::1:8000", "needs brackets"),
        ("unix:", "lacks the path"),
        ("unix://", "lacks the path"),
        ("fd://", "lacks the descriptor"),
        ("fd://three", "lacks the descriptor"),
        ("fd://-1", "lacks the descriptor"),
    ],
)
def test_what_is_no_address_is_refused_with_a_hint(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_bind(text)


def test_only_text_is_an_address() -> None:
    with pytest.raises(ValueError, match="must be text such as"):
        check_bind(8000)
