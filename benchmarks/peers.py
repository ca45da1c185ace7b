"""The servers that are compared, each as a command line and the packages it needs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APPLICATIONS = ROOT / "benchmarks" / "applications"
OURS = "asgi-poller"
# What the applications import, whichever server runs them.
COMMON_PACKAGES = ("fastapi",)


@dataclass(frozen=True, slots=True)
class Peer:
    """One server, set up one way. `command` words may hold {bin}, {app}, {port} and {workers}.

    `environment` names the venv (peers that differ in options share one), `packages` what is
    installed in it, `shown` the packages whose versions a reader wants. Every peer gets uvloop
    where it can use it, no access log, and the largest backlog it lets one ask for.
    """

    name: str
    environment: str
    packages: tuple[str, ...]
    shown: tuple[str, ...]
    command: str
    extra_environ: Mapping[str, str] = field(default_factory=dict)
    can_deflate: bool = True
    can_workers: bool = True

    def words(self, *, bin_folder: Path, app: str, port: int, workers: int) -> list[str]:
        """The command line."""
        given = {"bin": str(bin_folder), "app": app, "port": port, "workers": workers}
        return [word.format(**given) for word in self.command.split()]


def _own_packages() -> tuple[str, ...]:
    """What the working tree says it needs; the package itself is imported from the tree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return tuple(project["dependencies"])


def _uvicorn(name: str, websockets: str) -> Peer:
    return Peer(
        name,
        "uvicorn",
        ("uvicorn[standard]", "wsproto"),
        ("uvicorn", "uvloop", "httptools", "websockets", "wsproto"),
        "{bin}/python -m uvicorn {app} --port {port} --workers {workers} --log-level warning"
        f" --no-access-log --backlog 65535 --loop uvloop --http httptools --ws {websockets}",
    )


PEERS = (
    Peer(
        OURS,
        OURS,
        _own_packages(),
        ("uvloop", "httptools", "websockets", "wsproto"),
        "{bin}/python -m asgi_poller {app} --port {port} --workers {workers} --log-level warning"
        " --no-access-log",
        {"PYTHONPATH": str(ROOT)},
    ),
    _uvicorn("uvicorn", "websockets-sansio"),
    _uvicorn("uvicorn, websockets", "websockets"),
    _uvicorn("uvicorn, wsproto", "wsproto"),
    Peer(
        "hypercorn",
        "hypercorn",
        ("hypercorn[uvloop]",),
        ("hypercorn", "uvloop", "wsproto", "h11"),
        "{bin}/python -m hypercorn {app} --bind 127.0.0.1:{port} --workers {workers}"
        " --worker-class uvloop --log-level WARNING --backlog 65535",
    ),
    Peer(
        "daphne",
        "daphne",
        ("daphne",),
        ("daphne", "autobahn", "twisted"),
        "{bin}/python -m daphne -b 127.0.0.1 -p {port} -v 0 {app}",
        can_deflate=False,
        can_workers=False,
    ),
    Peer(
        "granian",
        "granian",
        ("granian", "uvloop"),
        ("granian", "uvloop"),
        "{bin}/granian --interface asgi --host 127.0.0.1 --port {port} --workers {workers}"
        " --loop uvloop --log-level warning --no-access-log --backlog 65535 {app}",
        can_deflate=False,
    ),
    Peer(
        "gunicorn asgi",
        "gunicorn",
        ("gunicorn>=27", "uvloop"),
        ("gunicorn", "uvloop"),
        "{bin}/python -m gunicorn {app} -k asgi --bind 127.0.0.1:{port} --workers {workers}"
        " --log-level warning --backlog 65535 --worker-connections 1000000",
        can_deflate=False,
    ),
    Peer(
        "socketify",
        "socketify",
        ("socketify",),
        ("socketify",),
        "{bin}/python -m socketify {app} --host 127.0.0.1 --port {port} --workers {workers}"
        " --interface asgi --disable-listen-log",
        can_deflate=False,
    ),
)


def chosen(names: tuple[str, ...]) -> tuple[Peer, ...]:
    """The peers that match one of `names`, shell patterns; all where none is given. Raises
    KeyError.
    """
    for name in names:
        if not any(fnmatch(peer.name, name) for peer in PEERS):
            raise KeyError(name)
    return tuple(
        peer for peer in PEERS if not names or any(fnmatch(peer.name, name) for name in names)
    )
