"""Prices that tick, to any number of subscribers: whoever has a price sends it to any worker.

Run it from the directory above this one, and open http://127.0.0.1:8000/:

    asgi-poller examples.prices:app --workers 2

Then let prices tick, and 10,000 subscribers wait for them beside you (`ulimit -n` must allow the
server as many connections); each second it says how long deliveries took:

    python -m examples.prices --subscribers 10000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse
from pydantic import BaseModel
from websockets.asyncio.client import connect

from asgi_poller import topics

SYMBOLS = ("ANT", "BEE", "CAT", "DOG")


class Price(BaseModel):
    """`at` is when the feed had it, in seconds since 1970."""

    price: float
    at: float


app = FastAPI(title="Prices")


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("prices.html"))


@app.get("/topics.js")
async def script() -> FileResponse:
    return FileResponse(topics.CLIENT_JS)


@app.put("/prices/{symbol}")
async def tick(symbol: str, price: Price) -> dict[str, str]:
    """For the feed. Where strangers can reach it, it wants a password."""
    return {"id": await topics.publish(f"price:{symbol}", json=price.model_dump())}


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await topics.serve(websocket, may=may)


def may(websocket: WebSocket, action: str, topic: str) -> bool:
    """Everybody may see prices, and nobody make them here."""
    return action == "subscribe" and topic.startswith("price:")


class Watchers:
    """Subscribers to the first symbol, and how long what they got was on its way."""

    def __init__(self) -> None:
        self.joined_count = 0
        self.delays_s: list[float] = []

    async def watch(self, url: str) -> None:
        """One of them, until it is cancelled."""
        async with connect(f"ws{url.removeprefix('http')}/ws", compression=None) as websocket:
            await websocket.send(json.dumps({"subscribe": f"price:{SYMBOLS[0]}", "since": None}))
            async for text in websocket:
                message = json.loads(text)
                if "json" in message:
                    self.delays_s.append(time.time() - message["json"]["at"])
                else:
                    self.joined_count += 1

    def told(self) -> str:
        """A line about the time since the last one."""
        delays_s, self.delays_s = sorted(self.delays_s), []
        if len(delays_s) < 2:
            return f"{self.joined_count} subscribers"
        p99_s = statistics.quantiles(delays_s, n=100)[98]
        return (
            f"{self.joined_count} subscribers, {len(delays_s)} deliveries, "
            f"p50 {statistics.median(delays_s) * 1000:.0f} ms, p99 {p99_s * 1000:.0f} ms"
        )


def put(url: str, symbol: str, price: float) -> None:
    """Say a price to whichever worker there is."""
    body = json.dumps({"price": price, "at": time.time()}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/prices/{symbol}", body, headers, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


async def feed(url: str, watchers: Watchers) -> None:
    """Let prices walk, all of them once a second, until this is cancelled."""
    prices = dict.fromkeys(SYMBOLS, 100.0)
    while True:
        for symbol in SYMBOLS:
            prices[symbol] = round(prices[symbol] * random.uniform(0.99, 1.01), 2)
            with contextlib.suppress(OSError):  # a worker may end at this moment
                await asyncio.to_thread(put, url, symbol, prices[symbol])
        await asyncio.sleep(1)
        print(watchers.told(), flush=True)


def allow_connections(count: int) -> None:
    """As many descriptors as that takes, if the system permits it."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        count = min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Let prices tick, and watch them.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--subscribers", type=int, default=0)
    options = parser.parse_args(arguments)
    allow_connections(options.subscribers + 100)
    watchers = Watchers()
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(options.url, watchers))
        for number in range(options.subscribers):
            group.create_task(watchers.watch(options.url))
            if number % 100 == 99:
                await asyncio.sleep(0.1)  # so that they do not all connect at once


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
