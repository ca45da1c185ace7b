"""A directory of files, served at /static before an application that notes what it is asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asgi_poller.asgi.types import Receive, Scope, Send
from asgi_poller.serve.server import Server
from tests.support.apps import answer, converse
from tests.support.client import Response, get
from tests.support.server import Site, serving

LONG_AGO_NS = 1_600_000_000_000_000_000
SECRET = b"not for everybody"


class StaticSite(Site):
    """`root` is what is served; `asked` are the paths that the application has seen."""

    def __init__(self, server: Server, root: Path, asked: list[str]) -> None:
        super().__init__(server)
        self.root = root
        self.asked = asked

    def get(self, path: str, *headers: str, method: str = "GET") -> Response:
        """One response, on a connection of its own."""
        with self.connect() as client:
            client.sendall(get(path, *headers, method=method))
            return client.response(has_body=method != "HEAD")


def write(path: Path, data: bytes, *, at_ns: int = LONG_AGO_NS) -> None:
    """A file with a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(at_ns, at_ns))


@contextlib.contextmanager
def static_site(root: Path, *, prefix: str = "/static", **options: Any) -> Iterator[StaticSite]:
    """Served meanwhile, in this process."""
    asked: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        if scope["type"] == "websocket":
            await converse(receive, send)
        else:
            await answer(send, b"the application")

    mounts = options.pop("static_path_mount", [f"{prefix}:{root}"])
    given: dict[str, Any] = {"lifespan": "off", "log_config": None, **options}
    with serving(application, static_path_mount=mounts, **given) as site:
        yield StaticSite(site.server, root, asked)
