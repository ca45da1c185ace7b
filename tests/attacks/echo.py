"""The attacked application for a server in a process of its own; it keeps no record."""

from __future__ import annotations

from typing import Any

from tests.attacks.site import Record, application


class Forgetful(list[Any]):
    """Grows no longer, however much is appended."""

    def append(self, item: Any) -> None:
        """Nobody asks for it."""


app = application(Record(Forgetful(), Forgetful(), Forgetful()))
