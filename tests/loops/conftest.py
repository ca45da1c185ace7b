"""Both event loops."""

from __future__ import annotations

import pytest

from tests.support.server import LOOPS


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """`--loop` asyncio and uvloop."""
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop")
    return name
