"""The header fields that every response carries: Date, Server, and what `--header` adds."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from email.utils import formatdate

_DATE = b"date"
_SERVER = b"server"


class DefaultHeaders:
    """Whole header lines, made once a second. Owned by the loop's thread."""

    __slots__ = ("_clock", "_encoded", "_has_date", "_others", "_server", "_since", "_until")

    def __init__(
        self,
        *,
        server: bytes | None,
        date: bool,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        # --header 'server: mine' replaces ours
        names = {name.lower() for name, _ in headers}
        self._server = None if _SERVER in names else server
        self._has_date = date and _DATE not in names
        self._others = [(name, value) for name, value in headers]
        self._clock = time.time
        self._since = self._until = 0.0
        self._encoded = b""

    def __call__(self, given: Mapping[bytes, bytes]) -> bytes:
        """The lines, without those that the application gives itself (lower-case names)."""
        if given and (_DATE in given or _SERVER in given):
            return self._encode(given)
        now = self._clock()
        if not self._since <= now < self._until:  # another second; perhaps an earlier one
            # the cached second ends where the clock's does, so that Date is never behind by more
            # than one
            self._since = float(int(now))
            self._until = self._since + 1.0
            self._encoded = self._encode({})
        return self._encoded

    def fields(self, given: Collection[bytes]) -> list[tuple[bytes, bytes]]:
        """The same as fields, for versions of HTTP that have no lines."""
        fields = []
        if self._has_date and _DATE not in given:
            fields.append((_DATE, formatdate(usegmt=True).encode()))
        if self._server is not None and _SERVER not in given:
            fields.append((_SERVER, self._server))
        fields += self._others
        return fields

    def _encode(self, given: Collection[bytes]) -> bytes:
        return b"".join(name + b": " + value + b"\r\n" for name, value in self.fields(given))
