"""`--log-format json`: one object a line, whatever is logged."""

from __future__ import annotations

import json
import logging
import os

from asgi_poller.logs.access_fields import Access, rfc3339


class JsonFormatter(logging.Formatter):
    """Lines with the fields of RECORD_FIELDS, and those of Access in the access log; what a line
    does not know is not in it. ASCII, so that no reader depends on an encoding. Any thread.
    """

    has_fields = True
    is_measured = True

    def __init__(self, use_colors: bool | None = None) -> None:
        """`use_colors` is for the sake of configurations: there are none."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """The object, without a line's end."""
        line: dict[str, object] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process or os.getpid(),
        }
        access = getattr(record, "access", None)
        if isinstance(access, Access):
            known = access._asdict().items()
            line |= {name: value for name, value in known if value is not None}
        exception = record.exc_text
        if record.exc_info and not exception:
            exception = self.formatException(record.exc_info)
        request_id = getattr(record, "request_id", None)
        if isinstance(request_id, str):
            line["request_id"] = request_id
        if exception:
            line["exception"] = exception
        return json.dumps(line)
