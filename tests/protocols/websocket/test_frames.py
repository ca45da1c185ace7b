"""Frames as the server sends them (RFC 6455, 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.protocols.websocket.frames import (
    FIN_BINARY,
    FIN_TEXT,
    cut_reason,
    encode_close,
    encode_frame,
    is_sendable_close_code,
)
from tests.support.frames import ServerFrame, server_frames


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_every_form_of_a_length(length: int) -> None:
    payload = b"x" * length
    assert server_frames(encode_frame(FIN_BINARY, payload)) == [ServerFrame(2, payload)]
    header = len(encode_frame(FIN_TEXT, payload)) - length
    assert header == (2 if length < 126 else 4 if length < 65536 else 10)  # the shortest


@pytest.mark.parametrize("code", [None, 1005, 1006, 1015])
def test_codes_that_never_travel_leave_the_close_empty(code: int | None) -> None:
    assert encode_close(code, "why") == b"\x88\x00"


def test_a_close_with_a_reason() -> None:
    assert encode_close(1000) == b"\x88\x02\x03\xe8"
    assert encode_close(1001, "né") == b"\x88\x05\x03\xe9n\xc3\xa9"


@given(st.text())
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    cut = cut_reason(reason)
    assert len(cut) <= 123
    whole = reason.encode("utf-8", "replace")
    assert whole.startswith(cut)
    assert cut.decode() in whole.decode()
    assert len(whole) - len(cut) < 4 or len(cut) > 119
    (frame,) = server_frames(encode_close(4000, reason))
    assert frame.payload[2:] == cut


def test_a_reason_with_a_lone_surrogate_is_no_error() -> None:
    assert cut_reason("a\ud800b") == b"a?b"


@pytest.mark.parametrize(
    ("code", "may_be_sent"),
    [
        (0, False),
        (999, False),
        (1000, True),
        (1003, True),
        (1004, False),
        (1005, False),
        (1006, False),
        (1007, True),
        (1012, True),
        (1014, True),
        (1015, False),
        (1016, False),
        (2999, False),
        (3000, True),
        (4999, True),
        (5000, False),
        (-1, False),
    ],
)
def test_codes_that_an_endpoint_may_send(code: int, may_be_sent: bool) -> None:
    assert is_sendable_close_code(code) is may_be_sent
