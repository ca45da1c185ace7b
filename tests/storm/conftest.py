"""The load tester drives its sockets with epoll: nothing of it runs elsewhere."""

from __future__ import annotations

import select

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where there is no epoll."""
    if not hasattr(select, "epoll"):
        for item in items:
            if "storm" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="asgi-poller-storm needs Linux's epoll"))
