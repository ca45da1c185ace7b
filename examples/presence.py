"""Who is here: joins and leaves over all workers, without a database.

Run it from the directory above this one, and open http://127.0.0.1:8000/?name=Ann in one window and
with another name in the next:

    asgi-poller examples.presence:app --workers 2

Each worker says every second, on a topic, who is connected to it, and hears what the others say. Of
one that is silent for some seconds (it was killed) nobody is here any more. A page that comes back
within two seconds, as after a restart of its worker, has never been away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse

from asgi_poller import topics

WORKERS = "presence"  # the topic on which workers tell each other
BEAT_S = 1.0  # between two statements of a worker
SILENT_S = 3.5  # after which it is gone
AWAY_S = 2.0  # for so long somebody without a connection is still here


class Presence:
    """Who is here, as one worker knows it. What its own pages are told goes by a topic too, which
    is of this worker alone: one message for all of them.
    """

    def __init__(self) -> None:
        self.name = secrets.token_hex(4)
        self.topic = f"here:{self.name}"
        self.mine: Counter[str] = Counter()  # connections of each, on this worker
        self.others: dict[str, tuple[frozenset[str], float]] = {}  # by worker, and when it said so
        self.told: list[str] = []

    @property
    def here(self) -> list[str]:
        """Everybody, in the order of the alphabet."""
        return sorted(set(self.mine).union(*(names for names, _ in self.others.values())))

    @contextlib.asynccontextmanager
    async def enter(self, name: str) -> AsyncIterator[None]:
        """Be here while the block runs, and a little longer."""
        self.mine[name] += 1
        await self.say()
        try:
            yield
        finally:
            asyncio.get_running_loop().call_later(AWAY_S, self._leave, name)

    def _leave(self, name: str) -> None:
        self.mine[name] -= 1
        self.mine += Counter()  # without those who have no connection: the next beat says so

    async def say(self) -> None:
        """Tell the workers who is here, and the pages if that is news."""
        with contextlib.suppress(topics.TopicsUnavailable):  # said again at the next beat
            await topics.publish(WORKERS, json={"worker": self.name, "names": list(self.mine)})
        await self.tell()

    async def tell(self) -> None:
        """Tell the pages of this worker, if there is news."""
        if self.here != self.told:
            self.told = self.here
            try:
                await topics.publish(self.topic, json=self.told)
            except topics.TopicsUnavailable:
                self.told = []  # told at the next beat

    async def beat(self) -> None:
        """Say it again and again; forget who does not."""
        while True:
            oldest = time.monotonic() - SILENT_S
            self.others = {name: said for name, said in self.others.items() if said[1] > oldest}
            await self.say()
            await asyncio.sleep(BEAT_S)

    async def listen(self) -> None:
        """Hear what the other workers say."""
        async with topics.reading(WORKERS) as messages:
            async for message in messages:
                said = message.json()
                if said["worker"] != self.name:
                    self.others[said["worker"]] = frozenset(said["names"]), time.monotonic()
                    await self.tell()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    presence = Presence()
    tasks = [asyncio.create_task(presence.listen()), asyncio.create_task(presence.beat())]
    yield {"presence": presence}
    for task in tasks:
        task.cancel()


app = FastAPI(title="Who is here", lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("presence.html"))


@app.websocket("/here")
async def here(websocket: WebSocket, name: str = "Somebody") -> None:
    """Sends the list of names whenever it changes. Who somebody is, a real application knows."""
    presence: Presence = websocket.state.presence
    await websocket.accept()
    async with presence.enter(name[:40]):
        await topics.subscribe(websocket, presence.topic)
        await websocket.send_text(json.dumps(presence.here))
        async for _ in websocket.iter_text():
            pass
