"""Options: HTTP and WebSockets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from asgi_poller.settings.kinds import (
    FALSE_WORDS,
    TRUE_WORDS,
    Kind,
    choice,
    flag,
    integer,
    optional,
    seconds,
    shown,
    size,
    text,
)
from asgi_poller.settings.option import option

Header = tuple[bytes, bytes]

KIB = 1024
MIB = 1024 * 1024

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, 5.5


def _latin1(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be 'Name: value' or (name, value), not {shown(value)}")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"must be Latin-1 text: {shown(value)}") from None


def _header(item: object) -> Header:
    """One header from `Name: value` or a pair, its name in lower case as ASGI wants it."""
    if isinstance(item, str):
        name, colon, value = item.partition(":")
        if not colon:
            raise ValueError(f"must be 'Name: value', not {shown(item)}")
        item = (name, value)
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(f"must be 'Name: value' or (name, value), not {shown(item)}")
    raw_name, raw_value = _latin1(item[0]).strip(), _latin1(item[1]).strip(b" \t")
    if _TOKEN.fullmatch(raw_name) is None:
        raise ValueError(f"has no valid header name: {shown(item[0])}")
    if _NOT_IN_A_VALUE.search(raw_value):
        raise ValueError(f"has control characters in a header's value: {shown(item[1])}")
    return raw_name.lower(), raw_value


def _headers() -> Kind:
    """Headers, kept in order and with repeats (a header may be sent twice)."""

    def check(value: object) -> tuple[Header, ...]:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, Mapping):
            value = list(value.items())
        if not isinstance(value, Iterable):
            raise ValueError(f"must be a list of (name, value), not {shown(value)}")
        return tuple(_header(item) for item in value)

    def parse(text: str) -> tuple[Header, ...]:
        # A header's value may hold commas, so only lines separate headers.
        return check([line for line in text.splitlines() if line.strip()])

    return Kind("NAME:VALUE", parse, check, repeatable=True)


def _deflate() -> Kind:
    """off, on or takeover; true and false as uvicorn has it."""
    modes = choice("off", "on", "takeover")

    def check(value: object) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        word = value.strip().lower() if isinstance(value, str) else None
        if word in TRUE_WORDS:
            return "on"
        if word in FALSE_WORDS:
            return "off"
        mode: str = modes.check(value)
        return mode

    return Kind(modes.metavar, check, check, choices=modes.choices)


@dataclass(frozen=True, kw_only=True, init=False)
class Http:
    """HTTP/1.1."""

    __slots__ = ()

    root_path: str = option(
        "", text("PATH"), "Path that a proxy strips before the application's own.", uvicorn="same"
    )
    headers: tuple[Header, ...] = option(
        (),
        _headers(),
        "Add this header to every response.",
        flag="header",
        uvicorn="same",
    )
    server_header: bool = option(True, flag(), "Send a Server header.", uvicorn="same")
    date_header: bool = option(True, flag(), "Send a Date header.", uvicorn="same")
    timeout_keep_alive: float = option(
        5.0,
        seconds(),
        "Close a connection that has been idle for so many seconds after a response.",
        uvicorn="same",
    )
    timeout_first_octet: float = option(
        60.0,
        seconds(0.001),
        "Seconds in which something must have arrived on a new connection; else it is closed.",
        note="Long, because after an overflow of the kernel's queue it is TCP that sends the first "
        "bytes again, at growing intervals. nginx's client_header_timeout has the same default.",
    )
    timeout_request_header: float = option(
        10.0,
        seconds(0.001),
        "Seconds in which a request's head must have arrived; else 408.",
        note="Counted from its first byte. Ends slow-header attacks (slowloris), so it cannot be "
        "switched off.",
    )
    timeout_request_body: float | None = option(
        60.0,
        optional(seconds(), zero_is_none=True),
        "Seconds that may pass between two bytes of a request's body; then 408.",
        note="0: no limit. Not counted while the application does not take what has come. nginx's "
        "client_body_timeout has the same default.",
    )
    timeout_write: float | None = option(
        60.0,
        optional(seconds(), zero_is_none=True),
        "Seconds in which an HTTP client must take some of what is sent to it; else it is cut off.",
        note="0: no limit. nginx's send_timeout has the same default. WebSockets have "
        "--ws-slow-consumer.",
    )
    underscores_in_headers: bool = option(
        False,
        flag(),
        "Keep header fields with _ in their names from peers that are no proxies of ours.",
        note="X_Forwarded_For looks like X-Forwarded-For to applications that read CGI names. "
        "nginx has an option of the same name.",
    )
    limit_concurrency: int | None = option(
        None,
        optional(integer(1)),
        "Requests and WebSockets at once in each event loop. Further ones get 503.",
        uvicorn="same",
    )
    limit_request_line: int = option(
        16 * KIB,
        size(64),
        "Bytes of a request target. Longer ones get 414.",
        note="Apache's LimitRequestLine, with room for long queries.",
    )
    limit_request_fields: int = option(
        100,
        integer(1),
        "Header fields of a request. More get 431.",
        note="Apache's LimitRequestFields.",
    )
    limit_request_field_size: int = option(
        32 * KIB,
        size(64),
        "Bytes of one header field. Longer ones get 431.",
        note="Apache's LimitRequestFieldSize, with room for the cookies of single sign-on.",
    )
    limit_request_head: int = option(
        64 * KIB,
        size(256),
        "Bytes of a whole request head. Longer ones get 431.",
        note="uvicorn's --h11-max-incomplete-event-size sets it too.",
    )
    limit_request_body: int | None = option(
        None, optional(size()), "Bytes of a request's body. Larger ones get 413."
    )


@dataclass(frozen=True, kw_only=True, init=False)
class WebSockets:
    """WebSockets."""

    __slots__ = ()

    ws: Literal["auto", "wsproto", "none"] = option(
        "auto",
        choice("auto", "wsproto", "none", also=("websockets", "websockets-sansio")),
        "WebSocket implementation. wsproto: every frame through wsproto; none: no WebSockets.",
        uvicorn="same",
    )
    ws_max_size: int = option(
        16 * MIB,
        size(1),
        "Bytes of a message, inflated. Larger ones close the WebSocket with 1009.",
        note="Text is counted in UTF-8 bytes.",
        uvicorn="same",
    )
    ws_max_queue: int = option(
        32,
        integer(1),
        "Messages that may wait for the application; reading pauses beyond.",
        note="Control frames are read and answered all the same.",
        uvicorn="same",
    )
    ws_ping_interval: float | None = option(
        20.0,
        optional(seconds(), zero_is_none=True),
        "Seconds between pings. 0: no pings.",
        uvicorn="same",
    )
    ws_ping_timeout: float | None = option(
        20.0,
        optional(seconds(), zero_is_none=True),
        "Seconds to wait for a pong before the WebSocket is closed. 0: for ever.",
        uvicorn="same",
    )
    ws_per_message_deflate: Literal["off", "on", "takeover"] = option(
        "on",
        _deflate(),
        "Compression. on: each message by itself, no memory while idle; takeover: with context.",
        note="true and false are accepted for on and off. takeover compresses small, similar "
        "messages better and keeps a compressor and a decompressor for each WebSocket.",
        uvicorn="same",
    )
    ws_deflate_threshold: int = option(
        256,
        size(),
        "Messages of fewer bytes are sent uncompressed.",
        note="Small messages hardly shrink, and compressing them costs more than sending them. A "
        "message that does not get smaller is sent as it is; 0: each is sent compressed.",
    )
    ws_close_timeout: float = option(
        10.0,
        seconds(),
        "Seconds to wait for the peer's close frame after ours; then TCP is closed.",
    )
    ws_accept_timeout: float | None = option(
        30.0,
        optional(seconds(), zero_is_none=True),
        "Seconds in which the application must accept or deny a WebSocket; else 500.",
        note="0: no limit.",
    )
    ws_send_limit: int = option(
        64 * KIB,
        size(1),
        "Bytes that may wait to be sent on one WebSocket; beyond, send() waits.",
    )
    ws_slow_consumer: Literal["wait", "close"] = option(
        "wait",
        choice("wait", "close"),
        "What to do with a peer that reads too slowly: wait for it, or close the WebSocket.",
        note="Closed with 1008, and send() raises from then on.",
    )
    ws_slow_consumer_timeout: float = option(
        10.0,
        seconds(),
        "With --ws-slow-consumer close: seconds that a WebSocket may stay above --ws-send-limit.",
    )
    ws_max_lifetime: float | None = option(
        None,
        optional(seconds(), zero_is_none=True),
        "Close a WebSocket after so many seconds (1012), however busy it is.",
    )
    ws_max_lifetime_jitter: float = option(
        0.0, seconds(), "Add up to so many seconds, at random, to --ws-max-lifetime."
    )
    ws_idle_timeout: float | None = option(
        None,
        optional(seconds(), zero_is_none=True),
        "Close a WebSocket on which no message has passed for so many seconds.",
        note="With 1001. Pings and pongs are no messages. Met up to a quarter late.",
    )
