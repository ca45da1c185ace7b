"""Where a running server's status is, and how it is read from there."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from asgi_poller.errors import StatusError
from asgi_poller.monitor.advertisement import Advertised, advertised

TIMEOUT_S = 5.0
LARGEST_BYTES = 64 * 1024 * 1024
_LONGEST_NUMBER = 20  # digits; int() refuses thousands of them
_TURN_ON = "start the server with --metrics PORT"
_ADDRESS = re.compile(r"(?:(?P<host>[^:/]+|\[[^\]/]+\]):|:)?(?P<port>\d{1,5})")
_PATH = "/status.json"


class Place(NamedTuple):
    """What is asked: `path` begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str = _PATH

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def find(target: str | None) -> Place:
    """The place of the server that `target` means. Raises StatusError."""
    if target is None:
        return _only(advertised())
    if "://" in target:
        return _place_of_url(target)
    # A pid that is no port's number, and a port that is no pid, are most of them.
    if target.isdecimal() and len(target) <= _LONGEST_NUMBER:
        number = int(target)
        named = [each for each in advertised() if number in (each.pid, each.port)]
        if len(named) > 1:
            raise StatusError(f"{target} is a process and a port: write :{target} for the port")
        if named:
            return _place(named[0])
        if _runs(number) and number > 0xFFFF:
            raise _silent(number)
    address = _ADDRESS.fullmatch(target)
    if address is not None and int(address["port"]) <= 0xFFFF:
        return Place("http", (address["host"] or "127.0.0.1").strip("[]"), int(address["port"]))
    return _place_of_pid_file(target)


def _only(found: list[Advertised]) -> Place:
    ours = [each for each in found if each.uid == os.geteuid()]
    if len(ours) == 1:
        return _place(ours[0])
    if ours:
        raise StatusError(f"more than one asgi-poller runs: name one of {_listed(ours)}")
    others = f"; other users': {_listed(found)}" if found else ""
    raise StatusError(
        f"no asgi-poller of yours that shows its status was found: {_TURN_ON},"
        f" or name its port or pid file{others}"
    )


def _listed(found: list[Advertised]) -> str:
    return ", ".join(f"{each.pid} (at {each.host}:{each.port})" for each in found)


def _place(found: Advertised) -> Place:
    return Place("http", found.host.strip("[]"), found.port)


def _place_of_url(url: str) -> Place:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise StatusError(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StatusError(f"{url}: must be http://HOST:PORT or https://HOST")
    path = parts.path.removesuffix(_PATH).rstrip("/")
    default = 443 if parts.scheme == "https" else 80
    return Place(parts.scheme, parts.hostname, port or default, path + _PATH)


def _place_of_pid_file(path: str) -> Place:
    try:
        pid = int(Path(path).read_text(encoding="ascii", errors="replace")[:32])
    except OSError as error:
        raise StatusError(
            f"{path} is no process, no [HOST:]PORT, and no pid file: {error.strerror}"
        ) from None
    except ValueError:
        raise StatusError(f"{path} holds no process id") from None
    for each in advertised():
        if each.pid == pid:
            return _place(each)
    if not _runs(pid):
        raise StatusError(f"process {pid} of {path} does not run")
    raise _silent(pid)


def _silent(pid: int) -> StatusError:
    return StatusError(
        f"process {pid} does not say where its status is: {_TURN_ON};"
        " or it is another user's, or not on this Linux: then name its port"
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it does, and is not ours
    return True


class Asker:
    """Reads the status of one server again and again."""

    def __init__(self, place: Place, token: str | None) -> None:
        self.place = place
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._has_token = bool(token)

    def ask(self) -> Any:
        """What its /status.json has now. Raises StatusError."""
        place = self.place
        kind: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if place.scheme == "https":
            kind = http.client.HTTPSConnection
        connection = kind(place.host, place.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", place.path, headers=self._headers)
            response = connection.getresponse()
            body = response.read(LARGEST_BYTES)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            raise StatusError(f"no answer from {place}: {error or type(error).__name__}") from None
        finally:
            connection.close()
        return self._checked(response.status, body)

    def _checked(self, status: int, body: bytes) -> Any:
        if status == 401:
            wrong = "this token is wrong" if self._has_token else "it wants a token"
            raise StatusError(f"{self.place}: {wrong}: give --token or ASGI_POLLER_METRICS_TOKEN")
        if status == 403:
            line = body.decode(errors="replace").partition("\n")[0][:200]
            raise StatusError(f"{self.place} refuses: {line}")
        try:
            if status == 200:
                return json.loads(body)
        except ValueError:
            pass
        raise StatusError(f"{self.place} is not the port of --metrics: no status is there")
