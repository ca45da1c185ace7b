"""Where fuzzing begins: one good or nearly good example of everything."""

from __future__ import annotations

from tests.protocols.http1.smuggling import BROKEN, UNSUPPORTED
from tests.support import http2_frames as http2
from tests.support.client import handshake
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, deflated, frame

OPENED = http2.settings() + http2.frame(http2.SETTINGS, http2.ACK)
CONNECT = [
    *((":method", "CONNECT"), (":protocol", "websocket"), *http2.GET[1:]),
    ("sec-websocket-version", "13"),
]
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(range(12))

SEEDS: dict[str, list[bytes]] = {
    "http1": [
        b"\x03" + data
        for data in (
            *BROKEN.values(),
            *(data for data, _ in UNSUPPORTED.values()),
            handshake() + b"\x81\x80abcd",
            # llhttp takes it for an upgrade, and stops behind it
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n"
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
            b"Content-Length: 2\r\n\r\nxyGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            # an upgrade that is not offered, on a connection that ends; and one behind it
            b"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nxy"
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        )
    ],
    "http2": [
        b"\x03" + http2.PREFACE + data
        for data in (
            OPENED + http2.headers(1) + http2.headers(3) + http2.reset(3),
            OPENED
            + http2.headers(1, http2.POST, http2.END_HEADERS)
            + http2.frame(http2.DATA, 0, 1, b"body")
            + http2.frame(http2.DATA, http2.END_STREAM | http2.PADDED, 1, b"\x02ab\0\0"),
            OPENED
            + http2.frame(http2.HEADERS, http2.END_STREAM, 1, http2.block()[:20])
            + http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, http2.block()[20:]),
            OPENED
            + http2.headers(1, http2.POST, http2.END_HEADERS)
            + http2.headers(1, [("trailer", "1")]),
            OPENED + http2.headers(1, [*http2.GET, ("cookie", "a"), ("cookie", "b")]),
            OPENED + http2.headers(1, http2.GET[:2]) + http2.headers(3, [("a", "b")]),
            OPENED
            + http2.headers(1, CONNECT, http2.END_HEADERS)
            + http2.frame(http2.DATA, 0, 1, frame(TEXT, b"hello")),
            OPENED
            + http2.window(0, 5)
            + http2.headers(1)
            + http2.window(1, 2**31 - 1)
            + http2.frame(http2.PING, 0, 0, b"12345678")
            + http2.frame(http2.PRIORITY, 0, 5, b"\0\0\0\1\x10")
            + http2.frame(http2.GOAWAY, 0, 0, bytes(8))
            + http2.frame(0x77, 0, 0, b"new"),
            http2.settings((4, 0), (5, 20000), (1, 0)) + http2.headers(1),
            # indexed, into the table, and out of it (RFC 7541, 6)
            OPENED
            + http2.frame(http2.HEADERS, 5, 1, b"\x82\x86\x84\x41\x01a\x40\x01x\x01y")
            + http2.frame(http2.HEADERS, 5, 3, b"\x82\x86\x84\xbf\xbe"),
        )
    ],
    "websocket": [
        b"\x02" + frame(TEXT, b"hello") + frame(BINARY, bytes(300)) + frame(PING, b"x"),
        b"\x02" + frame(TEXT, b"a", fin=False) + frame(PING) + frame(CONTINUATION, b"b"),
        b"\x82" + frame(BINARY, deflated(b"hello" * 100), rsv=4) + frame(CLOSE, b"\x03\xe8bye"),
        b"\x82" + frame(TEXT, deflated(b"a" * 5000), rsv=4),
        b"\x82"
        + frame(TEXT, deflated(b"abc")[:3], fin=False, rsv=4)
        + frame(CONTINUATION, deflated(b"abc")[3:]),
        b"\x01" + frame(TEXT, b"\xc3") + frame(CLOSE, b"\x03"),
        b"\x01" + frame(BINARY, bytes(70000)),
    ],
    "deflate": [
        deflated(b"hello"),
        deflated(bytes(10000)),
        b"permessage-deflate; client_max_window_bits=15; server_no_context_takeover",
        b'permessage-deflate; server_max_window_bits="10", permessage-deflate',
    ],
    "frames": [b"\x03\xe8bye", b"\x03", b"\x03\xed", b""],
    "proxy_protocol": [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\nGET",
        b"PROXY TCP6 ::1 ::ffff:1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWN x\r\n",
        V2,
        V2[:13] + b"\x21\x00\x24" + bytes(36),
        V2[:14] + b"\x00\x13" + bytes(12) + b"\x03\x00\x04abcd",
    ],
    "origin": [b"https://a.example.org\nexample.com:80", b"null\n[::1]", b"http://x:1\nx:1"],
    "fields": [b"x-y: z", b"content-length:5", b"X: a\r\nb: c"],
    "files": [
        b'bytes=0-99\n"a"\nW/"b", "c"\nSun, 06 Nov 1994 08:49:37 GMT\n*',
        b"bytes=-5\nSunday, 06-Nov-94 08:49:37 GMT",
        b"bytes=5-\nSun Nov  6 08:49:37 1994",
        b'bytes=0-0,-1\n\n"a"',
        b"br;q=0.5, gzip;q=1.0, *;q=0, identity",
    ],
}
