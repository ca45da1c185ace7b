"""`python -m serve_broadcast PORT`: each message goes to all by `websockets.broadcast`."""

from __future__ import annotations

import http
import sys

import uvloop
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.http11 import Request, Response


async def main() -> None:
    """Serve until it is killed."""
    servers: list[Server] = []

    async def fan(connection: ServerConnection) -> None:
        async for message in connection:
            broadcast(servers[0].connections, message)

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        return connection.respond(http.HTTPStatus.OK, "ready")

    async with serve(
        fan,
        "127.0.0.1",
        int(sys.argv[1]),
        process_request=answer,
        ping_interval=None,
        backlog=65535,
    ) as server:
        servers.append(server)
        await server.serve_forever()


uvloop.run(main())
