"""Request ids (`--request-id`): a trusted proxy's X-Request-ID, or one that is made here.

It is in the scope twice, as the header field `x-request-id` and in the extension
`asgi_poller.request_id`; in the response; and in the log, beside the trace context that the caller
sends (W3C Trace Context, `traceparent`).
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from asgi_poller.asgi.types import Scope
from asgi_poller.protocols.http1.parser import RequestHead

HEADER = b"x-request-id"
EXTENSION = "asgi_poller.request_id"

_RANDOM_BYTES = 16  # as many as a UUID has
_SANE = re.compile(rb"[!-~]{1,128}")  # visible ASCII: it goes into logs, and on to other services
# W3C Trace Context, 3.2: version, trace-id, parent-id, flags; later versions may add fields
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NO_VERSION = b"ff"
_FIRST_VERSION = b"00"


def identify(head: RequestHead, *, is_trusted: bool) -> bytes:
    """The id of a request, which is its only X-Request-ID from now on. `is_trusted`: its peer is a
    proxy whose id is taken, if it is sane.
    """
    given = [value for name, value in head.headers if name == HEADER]
    if is_trusted and len(given) == 1 and _SANE.fullmatch(given[0]):
        request_id = given[0]
    else:
        request_id = secrets.token_hex(_RANDOM_BYTES).encode()
    if given:
        head.headers[:] = [field for field in head.headers if field[0] != HEADER]
    head.headers.append((HEADER, request_id))
    head.request_id = request_id
    return request_id


def note_in(scope: dict[str, Any], request_id: bytes) -> None:
    """Put the id into the scope's extensions."""
    scope.setdefault("extensions", {})[EXTENSION] = {"id": request_id.decode("ascii")}


def request_id_of(scope: Scope) -> str | None:
    """The id in a scope, which may be the application's by now. Never raises."""
    try:
        request_id = scope["extensions"][EXTENSION]["id"]
    except (KeyError, TypeError):
        return None
    return request_id if isinstance(request_id, str) else None


def log_extra(scope: Scope) -> dict[str, str] | None:
    """For a log line about a request: what `extra` is to be."""
    request_id = request_id_of(scope)
    return None if request_id is None else {"request_id": request_id}


def parsed_traceparent(value: bytes) -> tuple[str, str] | None:
    """Trace id and span id of the caller, as hexadecimal digits; None if the field is not valid
    (W3C Trace Context, 3.2.2).
    """
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, more = found.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and more is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return trace_id.decode(), span_id.decode()
