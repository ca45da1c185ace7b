"""Request smuggling through a real nginx and a real HAProxy: whatever they let through, we and they
read as the same requests.

The proof: each connection to the proxy carries the suspect bytes, and others come after it. If
proxy and server disagreed about where one request ends, the server would see a request that nobody
asked the proxy for (`/smuggled`), or answers would come in the wrong places.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.attacks.proxies import Front, haproxy, nginx
from tests.attacks.site import Target, under_attack
from tests.protocols.http1.smuggling import BROKEN, UNSUPPORTED

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: a\r\n"

PAIRS = {
    "length and chunked": POST
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED))
    + SMUGGLED,
    "chunked and length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "a coding that one of them may not see": POST
    + b"Content-Length: %d\r\nTransfer-Encoding: xchunked\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
    "a coding behind a blank": POST
    + b"Content-Length: %d\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED))
    + SMUGGLED,
    "a coding behind a tab": POST
    + b"Content-Length: %d\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED))
    + SMUGGLED,
    "a folded coding": POST
    + b"Content-Length: %d\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED))
    + SMUGGLED,
    "two codings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "a length in two ways": POST
    + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
    "a length with a sign": POST + b"Content-Length: +%d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a body on GET": b"GET /first HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
    "a chunk size that overflows": POST
    + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n"
    + SMUGGLED,
    "a chunk extension with a bare LF": POST
    + b"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n%x\r\n0\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
    "a chunk that ends in a bare LF": POST
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n"
    + SMUGGLED,
    "an upgrade with a body": b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "an upgrade to h2c": b"GET /first HTTP/1.1\r\nHost: a\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "expectation": POST
    + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
}
# What a proxy itself may take for a request of its own, since for it there is no body before it.
SEEN_BY_PROXY = re.compile(rb"HTTP/1\.[01] (\d\d\d)")


def in_front(program: str, site: Target, directory: Path) -> AbstractContextManager[Front]:
    if program == "nginx":
        return nginx(directory, site.port)
    return haproxy(directory, f"server s 127.0.0.1:{site.port}\n http-reuse always")


@pytest.mark.tools
@pytest.mark.parametrize("direct", [False, True], ids=["core", "poller"])
@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_one_reading_of_every_stream(program: str, tmp_path: Path, direct: bool) -> None:
    suspects = {
        **PAIRS,
        **{name: data + SMUGGLED for name, data in BROKEN.items() if b"chunk" not in data},
        **{name: data + SMUGGLED for name, (data, _) in UNSUPPORTED.items()},
        "HTTP/0.9": b"",  # for which nginx has an answer without a status
    }
    with under_attack(direct_handshake=direct) as site, in_front(program, site, tmp_path) as front:
        for name, data in suspects.items():
            before = len(site.record.requests)
            answer = front.ask(data)
            answered = len(SEEN_BY_PROXY.findall(answer))
            served = site.record.requests[before:]
            # each request that we served was asked of the proxy, and answered by it
            assert len(served) <= answered, (name, served, answer)
            # and nobody else's connection has been poisoned
            for _ in range(3):
                reply = front.ask(b"GET /honest HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert reply.startswith(b"HTTP/1.1 200 "), (name, reply)
                assert site.record.requests[-1]["path"] == "/honest", name
