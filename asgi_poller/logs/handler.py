"""The handler of the default configuration: a StreamHandler that waits for no stream."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from asgi_poller.logs import writer
from asgi_poller.logs.records import ACCESS_LOGGER, ERROR_LOGGER
from asgi_poller.logs.stream import LogStream

# Unit: seconds. There are two of them, and a process ends within a second of its last line.
_FLUSH_S = 0.5


class QueuedStreamHandler(logging.StreamHandler[TextIO]):
    """A logging.StreamHandler whose lines the process's log writer writes (`writer.py`), in order.
    It waits for nothing and raises nothing. Any thread.

    A stream that is no file (a StringIO, a notebook's cell) is written to at once.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._begin()

    def _begin(self) -> None:
        try:
            self.stream.fileno()
        except (AttributeError, OSError, ValueError):  # None under pythonw; or not a real file
            self._output: _QueuedOutput | None = None
            return
        self._output = _QueuedOutput(self, LogStream(self.stream))
        writer.know(self._output)

    def setStream(self, stream: TextIO) -> TextIO | None:
        """Write to another one from now on; the old one."""
        old = super().setStream(stream)
        if old is not None:
            if self._output is not None:
                writer.forget(self._output)
            self._begin()
        return old

    def handle(self, record: logging.LogRecord) -> Any:
        """Without a lock: the queue needs none."""
        if self.filters or self._output is None:
            return super().handle(record)
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written."""
        output = self._output
        if output is None:
            super().emit(record)
        elif record.name == ACCESS_LOGGER and not record.exc_info:
            writer.put(output, record)  # its arguments cannot change: the writer makes the text
        else:
            text = output.text_of(record)
            if text is not None:
                writer.put(output, text)

    def flush(self) -> None:
        """Wait for what was logged, as long as a process that ends may wait."""
        if self._output is None:
            super().flush()
        else:
            writer.flush(_FLUSH_S)

    def close(self) -> None:
        """Nothing more will be logged."""
        if self._output is not None:
            self.flush()
            writer.forget(self._output)
        super().close()


class _QueuedOutput:
    """See writer.Output."""

    def __init__(self, handler: QueuedStreamHandler, stream: LogStream) -> None:
        self._handler = handler
        self.stream = stream

    def text_of(self, item: object) -> str | None:
        if isinstance(item, str):
            return item
        assert isinstance(item, logging.LogRecord)
        try:
            return self._handler.format(item)
        except Exception:  # a record whose arguments do not fit, as logging treats it
            if sys.stderr is not None:
                self._handler.handleError(item)
            return None

    def length_of(self, item: object) -> int:
        if isinstance(item, str):
            return len(item)
        assert isinstance(item, logging.LogRecord)
        return sum(len(each) for each in item.args or () if isinstance(each, str))

    def text_of_loss(self, count: int) -> str | None:
        words = "%d log lines were lost: they could not be written."
        record = logging.LogRecord(
            ERROR_LOGGER, logging.WARNING, __file__, 0, words, (count,), None
        )
        return self.text_of(record)
