"""The application of `site.py` for a server in a process of its own."""

from __future__ import annotations

from tests.attacks.site import Record, application

app = application(Record())
