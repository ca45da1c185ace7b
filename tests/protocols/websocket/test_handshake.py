"""The opening handshake: what is refused and what is answered (RFC 6455, 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from asgi_poller.errors import ApplicationFault, HttpFault
from asgi_poller.protocols.http1.parser import RequestHead
from asgi_poller.protocols.websocket.handshake import (
    Handshake,
    check_connect,
    check_handshake,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def opening(*more: tuple[bytes, bytes], drop: bytes = b"") -> RequestHead:
    headers = [
        (b"host", b"a"),
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-key", KEY),
        (b"sec-websocket-version", b"13"),
    ]
    return RequestHead(
        "GET", b"/", "1.1", [field for field in headers if field[0] != drop] + list(more)
    )


def nothing(given: Mapping[bytes, bytes]) -> bytes:
    return b""


def accepted(handshake: Handshake, **options: Any) -> tuple[list[bytes], Any]:
    """The lines of the 101, and the compression."""
    head, deflate = handshake.accept(**{"default_headers": nothing, **options})
    lines = head.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert lines[:4] == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPT,
    ]
    return lines[4:-2], deflate


def test_the_smallest() -> None:
    assert accepted(check_handshake(opening())) == ([], None)


def test_what_the_application_and_the_server_add() -> None:
    lines, _ = accepted(
        check_handshake(opening()),
        headers=[(b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")],
        default_headers=lambda given: b"date: now\r\nserver: us\r\n",
    )
    assert lines == [b"set-cookie: a=b", b"set-cookie: c=d", b"date: now", b"server: us"]


def test_what_the_application_gives_itself_is_not_there_twice() -> None:
    asked = []

    def default_headers(given: Mapping[bytes, bytes]) -> bytes:
        asked.append(set(given))
        return b""

    headers = [(b"Date", b"now"), (b"server", b"mine"), (b"x", b"y")]
    lines, _ = accepted(
        check_handshake(opening()), headers=headers, default_headers=default_headers
    )
    assert lines == [b"date: now", b"server: mine", b"x: y"]
    assert asked == [{b"date", b"server"}]


def test_subprotocols_of_all_fields_in_order() -> None:
    handshake = check_handshake(
        opening(
            (b"sec-websocket-protocol", b"chat, superchat,,"),
            (b"sec-websocket-protocol", b"v2"),
        )
    )
    assert handshake.subprotocols == ["chat", "superchat", "v2"]
    assert accepted(handshake, subprotocol="v2")[0] == [b"Sec-WebSocket-Protocol: v2"]
    assert accepted(handshake)[0] == []


@pytest.mark.parametrize("subprotocol", ["other", "CHAT", "", "chat, superchat", 5])
def test_a_subprotocol_that_was_not_offered(subprotocol: Any) -> None:
    handshake = check_handshake(opening((b"sec-websocket-protocol", b"chat, superchat")))
    with pytest.raises(ApplicationFault, match="not offered"):
        handshake.accept(subprotocol=subprotocol, default_headers=nothing)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"sec-websocket-protocol", b"chat")],
        [(b"Sec-WebSocket-Accept", b"x")],
        [(b"Sec-WebSocket-Extensions", b"x")],
        [(b"x", b"a\r\nb: c")],
        [(b"x\r\n", b"a")],
        [("x", "y")],
    ],
)
def test_headers_that_an_application_may_not_give(headers: Any) -> None:
    handshake = check_handshake(opening())
    with pytest.raises(ApplicationFault):
        handshake.accept(headers=headers, default_headers=nothing)
    assert accepted(handshake) == ([], None)  # it may still do better


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("off", None),
        ("on", b"; server_no_context_takeover; client_no_context_takeover"),
        ("takeover", b""),
    ],
)
def test_compression(mode: str, answer: bytes | None) -> None:
    offer = (b"sec-websocket-extensions", b"x-other, permessage-deflate; client_max_window_bits")
    lines, deflate = accepted(check_handshake(opening(offer)), deflate=mode)
    if answer is None:
        assert (lines, deflate) == ([], None)
    else:
        assert lines == [b"Sec-WebSocket-Extensions: permessage-deflate" + answer]
        assert (not deflate.server_takeover) is (mode == "on")


def test_extensions_of_several_fields_are_one_list() -> None:
    handshake = check_handshake(
        opening(
            (b"sec-websocket-extensions", b"permessage-deflate; mystery"),
            (b"sec-websocket-extensions", b"permessage-deflate"),
        )
    )
    assert accepted(handshake, deflate="on")[1] is not None


def with_field(name: bytes, value: bytes) -> RequestHead:
    """An opening with another value for one of its fields."""
    return opening((name, value), drop=name)


REFUSED: dict[str, tuple[RequestHead, int]] = {
    "POST": (RequestHead("POST", b"/", "1.1", opening().headers), 405),
    "HTTP/1.0": (RequestHead("GET", b"/", "1.0", opening().headers), 400),
    "no key": (opening(drop=b"sec-websocket-key"), 400),
    "two keys": (opening((b"sec-websocket-key", KEY)), 400),
    "a short key": (with_field(b"sec-websocket-key", b"abc="), 400),
    "a key of 17 bytes": (with_field(b"sec-websocket-key", b"A" * 23 + b"="), 400),
    "a key that is not base64": (with_field(b"sec-websocket-key", b"!" * 22 + b"=="), 400),
    "no version": (opening(drop=b"sec-websocket-version"), 400),
    "version 8": (with_field(b"sec-websocket-version", b"8"), 426),
    "versions in a list": (with_field(b"sec-websocket-version", b"13, 8"), 426),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    head, status = REFUSED[name]
    with pytest.raises(HttpFault) as fault:
        check_handshake(head)
    assert fault.value.status == status


def test_a_body_is_refused() -> None:
    """Its bytes would be taken for frames: a request within a request."""
    head = opening((b"content-length", b"5"))
    head.has_body = True
    with pytest.raises(HttpFault, match="400"):
        check_handshake(head)


def test_refusals_say_what_would_do() -> None:
    for name, field in (("POST", b"allow"), ("version 8", b"sec-websocket-version")):
        with pytest.raises(HttpFault) as fault:
            check_handshake(REFUSED[name][0])
        assert field in dict(fault.value.headers)


def test_an_extended_connect_needs_no_key() -> None:
    """RFC 8441, 5."""
    offered = (b"sec-websocket-protocol", b"chat")
    handshake = check_connect(opening(offered, drop=b"sec-websocket-key"))
    assert handshake.agree("chat", "off") == ([(b"Sec-WebSocket-Protocol", b"chat")], None)
    with pytest.raises(HttpFault, match="no Sec-WebSocket-Version"):
        check_connect(opening(drop=b"sec-websocket-version"))
    with pytest.raises(HttpFault, match="13 is spoken") as fault:
        check_connect(opening((b"sec-websocket-version", b"8"), drop=b"sec-websocket-version"))
    assert fault.value.status == 400  # 426 is not for HTTP/2, which has no Upgrade
    assert fault.value.headers == ((b"sec-websocket-version", b"13"),)
