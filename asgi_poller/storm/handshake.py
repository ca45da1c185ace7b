"""The opening handshake, client side (RFC 6455, 4.1): one request for the whole run, and the
verdict on each answer.
"""

from __future__ import annotations

import base64
import hashlib

from asgi_poller.storm.plan import Plan

# RFC 6455, 1.3. One key for all: a load tester has no cache to protect itself from, and the right
# answer is then one constant.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ACCEPT = base64.b64encode(hashlib.sha1(KEY + GUID).digest())

# No context takeover on either side (RFC 7692, 7.1.1): every message of a run then costs the same
# and is the same.
DEFLATE_OFFER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

# Answers that are longer have no end we would wait for.
ANSWER_LIMIT_OCTETS = 64 << 10

# Heads that were judged right are remembered: servers send the same octets to everyone for as long
# as their Date holds.
VERIFIED_LIMIT_COUNT = 64


def request(plan: Plan) -> bytes:
    """The octets that every connection of the run sends first."""
    default_port = 443 if plan.tls else 80
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    fields = [
        ("Host", host if plan.port == default_port else f"{host}:{plan.port}"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY.decode()),
        ("Sec-WebSocket-Version", "13"),
    ]
    if plan.deflate:
        fields.append(("Sec-WebSocket-Extensions", DEFLATE_OFFER))
    given = {name.lower() for name, _ in plan.headers}
    fields = [field for field in fields if field[0].lower() not in given] + list(plan.headers)
    lines = [f"GET {plan.target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class AnswerBroken(Exception):
    """What came is not an answer to an opening handshake; the text says why."""


class AnswerRefused(Exception):
    """An HTTP answer other than 101; `status` is its code."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Judge:
    """Judges answers, one client process's. Owned by that process's only thread."""

    __slots__ = ("_deflate_offered", "_verified", "deflated")

    def __init__(self, *, deflate_offered: bool) -> None:
        self._deflate_offered = deflate_offered
        self._verified: dict[bytes, bool] = {}
        self.deflated = False
        """Whether the answer judged last agreed to permessage-deflate."""

    def verdict(self, received: bytes) -> bytes | None:
        """None: the head is not complete, come back with more. Else the octets after the head: the
        channel is open.

        Raises AnswerRefused for another status than 101, AnswerBroken for anything else that is
        wrong.
        """
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end:
            if len(received) > ANSWER_LIMIT_OCTETS:
                raise AnswerBroken("no end of the answer's head")
            if len(received) >= 5 and not received.startswith(b"HTTP/"):
                raise AnswerBroken("not an HTTP answer")
            return None
        known = self._verified.get(head)
        if known is None:
            known = _agreed_deflate(head, offered=self._deflate_offered)
            if len(self._verified) >= VERIFIED_LIMIT_COUNT:
                self._verified.clear()
            self._verified[head] = known
        self.deflated = known
        return rest


def _agreed_deflate(head: bytes, *, offered: bool) -> bool:
    """Check a complete head by the steps of RFC 6455, 4.1; True where it agrees to
    permessage-deflate.
    """
    status_line, *lines = head.split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise AnswerBroken("not an HTTP answer")
    status = int(rest[:3])
    if status != 101:
        raise AnswerRefused(status)
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise AnswerBroken("a header line without a colon")
        fields[name.strip().lower()] = value.strip()
    if fields.get(b"upgrade", b"").lower() != b"websocket":
        raise AnswerBroken("101 without Upgrade: websocket")
    if b"upgrade" not in fields.get(b"connection", b"").lower():
        raise AnswerBroken("101 without Connection: Upgrade")
    if fields.get(b"sec-websocket-accept") != ACCEPT:
        raise AnswerBroken("a wrong Sec-WebSocket-Accept")
    extension = fields.get(b"sec-websocket-extensions", b"")
    if extension and not (offered and extension.lower().startswith(b"permessage-deflate")):
        raise AnswerBroken("an extension that was not offered")
    return bool(extension)
