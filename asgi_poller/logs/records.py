"""The loggers, and the records of the access log.

Three loggers: `asgi_poller.error` (the server's own lines), `asgi_poller.access` (one line for a
request, two for a WebSocket) and `asgi_poller.asgi` (every ASGI message, at level trace). The
access records are made with plain arguments, so that nothing is formatted unless a handler writes
it:

    access.info(ACCESS_HTTP, client, method, path, http_version, status)
    access.info(ACCESS_WEBSOCKET, client, "WebSocket", path, http_version, outcome)

The five arguments are those of uvicorn's access records, for WebSockets too: formatters written for
these go on working. An `outcome` is an Outcome, a number as a status is.
"""

from __future__ import annotations

ERROR_LOGGER = "asgi_poller.error"
ACCESS_LOGGER = "asgi_poller.access"
ASGI_LOGGER = "asgi_poller.asgi"

ACCESS_HTTP = '%s - "%s %s HTTP/%s" %d'
# %.0s shows nothing of the version, which is among the arguments for formatters alone
ACCESS_WEBSOCKET = '%s - "%s %s%.0s" %s'


class Outcome(int):
    """What became of a WebSocket: a number (101, the status that denied it, or its close code) that
    is shown in words.
    """

    words: str

    def __new__(cls, number: int, words: str) -> Outcome:
        """`words` are what str() gives."""
        made = super().__new__(cls, number)
        made.words = words
        return made

    def __str__(self) -> str:
        return self.words

    def __format__(self, form: str) -> str:
        return format(self.words, form)
