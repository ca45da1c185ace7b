"""The header fields that every response carries: Date, Server, and what `--header` adds."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from email.utils import formatdate

_DATE = b"date"
_SERVER = b"server"


class DefaultHeaders:
    """Fields and header lines, made once a second. Owned by the loop's thread."""

    __slots__ = (
        "_clock",
        "_encoded",
        "_fields",
        "_has_date",
        "_others",
        "_own",
        "_since",
        "_until",
    )

    def __init__(
        self,
        *,
        server: bytes | None,
        date: bool,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        # --header 'server: mine' replaces ours
        names = {name.lower() for name, _ in headers}
        self._own = [] if server is None or _SERVER in names else [(_SERVER, server)]
        self._has_date = date and _DATE not in names
        self._others = [(name, value) for name, value in headers]
        self._clock = time.time
        self._since = self._until = 0.0
        self._fields: list[tuple[bytes, bytes]] = []
        self._encoded = b""

    def __call__(self, given: Mapping[bytes, bytes]) -> bytes:
        """The lines, without those that the application gives itself (lower-case names)."""
        if given and (_DATE in given or _SERVER in given):
            return _encode(self.fields(given))
        now = self._clock()
        if not self._since <= now < self._until:
            self._renew(now)
        return self._encoded

    def fields(self, given: Collection[bytes]) -> Sequence[tuple[bytes, bytes]]:
        """The same as fields, for versions of HTTP that have no lines."""
        now = self._clock()
        if not self._since <= now < self._until:
            self._renew(now)
        if _DATE in given or _SERVER in given:
            ours = self._fields[: len(self._fields) - len(self._others)]
            return [*(field for field in ours if field[0] not in given), *self._others]
        return self._fields

    def _renew(self, now: float) -> None:
        """It is another second; perhaps an earlier one."""
        # what is kept ends where the clock's second does, so that Date is never behind by more
        # than one
        self._since = float(int(now))
        self._until = self._since + 1.0
        date = [(_DATE, formatdate(now, usegmt=True).encode())] if self._has_date else []
        self._fields = [*date, *self._own, *self._others]
        self._encoded = _encode(self._fields)


def _encode(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields)
