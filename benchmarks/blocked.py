"""How long clients wait beside a blocked loop: python -m benchmarks.blocked [FORM ...]

Two event loops, one of which an application blocks for 8 s, as workers, as loops of one process and
as workers of gunicorn. Meanwhile 40 WebSockets are opened and 8 clients make 20 requests a second
each, all on connections of their own. The promise is that none waits for more than 250 ms; the exit
code says whether it was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

FORMS = {
    "workers": ["-m", "asgi_poller", "--workers", "2"],
    "loops": ["-m", "asgi_poller", "--loops", "2"],
    "gunicorn": ["-m", "gunicorn", "-k", "asgi_poller.gunicorn.PollerWorker", "-w", "2"],
}
HOST, PORT = "127.0.0.1", 18677
BLOCK_S = 8.0
PROMISE_S = 0.25
CHANNELS, CLIENTS, PERIOD_S = 40, 8, 0.05

_APPLICATIONS = Path(__file__).parent / "applications"
_START_S = 20.0
_GET = "GET {} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
_UPGRADE = (
    "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


@contextlib.asynccontextmanager
async def served(form: str) -> AsyncIterator[None]:
    """A server of this form, on PORT, meanwhile."""
    where = ["-b", f"{HOST}:{PORT}"] if form == "gunicorn" else ["--port", str(PORT)]
    command = [sys.executable, *FORMS[form], *where, "blocking:app"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, cwd=_APPLICATIONS, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(OSError):
                    await request(_GET.format("/"))
                    break
                await asyncio.sleep(0.1)
        await asyncio.sleep(2.0)  # the second loop is up, too
        yield
    finally:
        server.kill() if form != "gunicorn" else server.terminate()
        server.wait()


async def request(head: str) -> float:
    """Connect, ask, wait for the head of the answer; seconds it took."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, PORT)
    try:
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        return time.perf_counter() - start
    finally:
        writer.close()


async def ask_on(until: float) -> list[float]:
    """One client's requests, until `until`; seconds that each took."""
    waits = []
    while time.perf_counter() < until:
        waits.append(await request(_GET.format("/")))
        await asyncio.sleep(PERIOD_S)
    return waits


async def measure(form: str) -> tuple[float, float, int]:
    """The longest wait of a WebSocket and of a request, in seconds, and how many requests."""
    async with served(form):
        reader, writer = await asyncio.open_connection(HOST, PORT)
        writer.write(_GET.format(f"/block?{BLOCK_S}").encode())
        await reader.readuntil(b"blocked")
        await asyncio.sleep(0.3)
        end = time.perf_counter() + BLOCK_S - 1.0
        channels = asyncio.gather(*(request(_UPGRADE) for _ in range(CHANNELS)))
        requests = asyncio.gather(*(ask_on(end) for _ in range(CLIENTS)))
        opened = await channels
        answered = [wait for each in await requests for wait in each]
        writer.close()
        return max(opened), max(answered), len(answered)


def main() -> int:
    """Measure the forms that are named, or all; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", metavar="FORM", help=", ".join(FORMS))
    forms = parser.parse_args().forms or list(FORMS)
    kept = True
    for form in forms:
        channel_s, request_s, count = asyncio.run(measure(form))
        kept = kept and max(channel_s, request_s) <= PROMISE_S
        print(
            f"{form}: the longest wait of {CHANNELS} WebSockets {channel_s * 1000:.0f} ms, "
            f"of {count} requests {request_s * 1000:.0f} ms",
            flush=True,
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
