"""The stack of the blocked thread is found in what faulthandler writes."""

from __future__ import annotations

from asgi_poller.ipc.stack_dump import stack_of

_DUMP = """\
Thread 0x00007f0000000a00 (most recent call first):
  File "idle.py", line 1 in wait

Current thread 0x00007f0000000b00 [MainThread] (most recent call first):
  File "main.py", line 7 in block
"""


def test_the_stack_of_one_thread_is_found() -> None:
    assert "line 7 in block" in stack_of(0x7F0000000B00, _DUMP)
    assert "idle.py" not in stack_of(0x7F0000000B00, _DUMP)
    assert stack_of(0x7F0000000A00, _DUMP).endswith("line 1 in wait")
    assert stack_of(1, _DUMP) == _DUMP.strip(), "all of it rather than nothing"
