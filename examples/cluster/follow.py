"""Follows a room of the feed: comes back when the connection ends, and misses nothing.

python -m examples.cluster.follow ws://127.0.0.1:8000/rooms/tea
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

FIRST_WAIT_S = 0.5  # before the first attempt to come back, at most; then twice as much each time
LONGEST_WAIT_S = 20.0


async def follow(url: str, since: str | None = None) -> AsyncGenerator[dict[str, Any]]:
    """The messages of a room as docs/topics.md has them, without end.

    One with `"subscribed": true` comes with each connection. If it has `"complete": false`, more
    was posted meanwhile than is kept: what the caller knows of the room has to be fetched anew.
    """
    attempts = 0
    while True:
        query = "" if since is None else f"?since={quote(since)}"
        # what goes wrong between here and there is no news: we come back
        with contextlib.suppress(OSError, TimeoutError, WebSocketException):
            async with connect(url + query) as websocket:
                async for text in websocket:
                    message = json.loads(text)
                    if "lost" in message:  # we were too slow: ask for what is missing
                        break
                    attempts, since = 0, message["id"]
                    yield message
        # a random time, so that those who were cut off together do not come back together
        longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempts)
        await asyncio.sleep(random.uniform(0, longest_s))
        attempts += 1


async def show(url: str) -> None:
    async for message in follow(url):
        print(json.dumps(message, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(show(sys.argv[1]))
