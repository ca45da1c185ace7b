"""Starlette's FileResponse: below /announced as it is, below /read as if pathsend were not there.

The folder is DOWNLOADS' value.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

FOLDER = Path(os.environ["DOWNLOADS"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    _, way, name = scope["path"].split("/")
    if way == "read":
        del scope["extensions"]["http.response.pathsend"]
    await FileResponse(FOLDER / name)(scope, receive, send)
