"""When a worker is to be replaced: its age, its memory."""

from __future__ import annotations

import os

from asgi_poller.config import Config
from asgi_poller.supervisor import health_monitor


def test_reasons_to_recycle() -> None:
    config = Config("main:app", worker_max_lifetime=10, worker_max_memory="1MiB")
    assert "it has served for 10 s" in str(
        health_monitor.reason_to_recycle(config, pid=os.getpid(), age_s=10.0)
    )
    assert "(--worker-max-memory)" in str(
        health_monitor.reason_to_recycle(config, pid=os.getpid(), age_s=1.0)
    )
    assert health_monitor.reason_to_recycle(Config("main:app"), pid=1, age_s=1e9) is None
