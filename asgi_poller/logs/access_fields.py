"""What a line of the access log knows, beyond the five arguments of its record: `record.access`.

The one list of the fields, their meanings and which of them are numbers: for JSON, for
`--access-log-format`, and for the page on logging, which a test holds to it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

_QUOTED = str.maketrans({'"': '\\"', "\\": "\\\\"})


class Access(NamedTuple):
    """One request or WebSocket. None: there is no such thing in this line. Texts are a peer's, but
    have no control characters.
    """

    client: str
    method: str
    path: str
    query: str
    http_version: str
    status: int | None = None
    complete: bool | None = None
    duration_s: float | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    received_messages: int | None = None
    received_bytes: int | None = None
    sent_messages: int | None = None
    sent_bytes: int | None = None
    close_code: int | None = None
    closed_by: str | None = None
    request_id: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


#: The fields of Access in their order, as JSON has them and users read of them.
FIELDS = {
    "client": "address and port of the client; of a trusted proxy's client, what the proxy says",
    "method": "method of the request, or `WebSocket`",
    "path": "path, percent-encoded",
    "query": "query string, without the question mark",
    "http_version": "`1.1` or `1.0`",
    "status": "status of the response; 101 when a WebSocket opens",
    "complete": "false if the response broke off, or the client left before it",
    "duration_s": "seconds from the request's head to the last byte of the response handed over; "
    "of a WebSocket, from its opening to its end",
    "request_bytes": "bytes of the request's body that were read",
    "response_bytes": "bytes of the response's body",
    "received_messages": "messages that a WebSocket received",
    "received_bytes": "bytes of frames that it received",
    "sent_messages": "messages that it sent",
    "sent_bytes": "bytes of frames that it sent",
    "close_code": "close code of a WebSocket that has ended (RFC 6455, 7.4.1)",
    "closed_by": "who ended it: `peer`, `application` or `server`",
    "request_id": "id of the request, with `--request-id`",
    "user_agent": "User-Agent of the request",
    "trace_id": "of the request's `traceparent` (W3C Trace Context), if that is valid",
    "span_id": "of the request's `traceparent`: the span of the caller",
}

#: What every line in JSON has.
RECORD_FIELDS = {
    "time": "when the line was made: RFC 3339, UTC, milliseconds",
    "level": "`INFO`, `WARNING`, `ERROR` ...",
    "logger": "`asgi_poller.error`, `asgi_poller.access` or `asgi_poller.asgi`",
    "message": "the line as text",
    "pid": "id of the process",
    "exception": "the traceback, if there is one",
    "request_id": "id of the request that the line is about, with `--request-id`",
}

#: What a format may name besides the fields of Access.
FORMAT_FIELDS = {
    "time": RECORD_FIELDS["time"],
    "level": RECORD_FIELDS["level"],
    "pid": RECORD_FIELDS["pid"],
    "request_line": "method, path with query, and version, as in the default line",
    "duration_ms": "`duration_s` in milliseconds",
}

#: All others are texts, but for `complete`.
NUMBERS = frozenset(
    {
        "pid",
        "status",
        "duration_s",
        "duration_ms",
        "request_bytes",
        "response_bytes",
        "received_messages",
        "received_bytes",
        "sent_messages",
        "sent_bytes",
        "close_code",
    }
)
#: Known only when the response is complete: a line that has one of these is written then.
KNOWN_AT_THE_END = frozenset(
    {"complete", "duration_s", "duration_ms", "request_bytes", "response_bytes"}
)


def rfc3339(created_s: float) -> str:
    """A point in time, in seconds since the epoch, as the log writes it."""
    whole_s, milliseconds = divmod(int(created_s * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole_s))}.{milliseconds:03d}Z"


def quoted(text: str) -> str:
    """For a format that has the field in quotation marks: it can't end them."""
    return text.translate(_QUOTED)
