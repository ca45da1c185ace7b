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
COMPILED = f"{OURS}, compiled"
DIRECT = f"{OURS}, direct handshake"
LOOPS, WORKERS = f"{OURS}, 2 loops", f"{OURS}, 2 workers"
# What the applications import, whichever server runs them.
COMMON_PACKAGES = ("fastapi",)

# What a scenario may need of a server that not every server has.
WEBSOCKETS, SEVERAL_WORKERS = "websockets", "workers"


@dataclass(frozen=True, slots=True)
class Peer:
    """One server, set up one way. `command` words may hold {bin}, {app}, {port} and {workers},
    `extra_environ` values {bin}.

    `environment` names the venv (peers that differ in options share one), `packages` what is
    installed in it, `shown` the packages whose versions a reader wants. `cannot` says, for what a
    scenario may need, why this server does not have it. A peer with `only`, shell patterns, takes
    part in these scenarios and in no other. `compiled` is our own package, built from the working
    tree. `source`, one of the applications in C, is compiled into {bin}; nothing else is there.
    Every peer gets uvloop where it can use it, no access log, and the largest backlog it lets one
    ask for.
    """

    name: str
    environment: str
    packages: tuple[str, ...]
    shown: tuple[str, ...]
    command: str
    extra_environ: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    compiled: bool = False
    source: str = ""

    def words(self, *, bin_folder: Path, app: str, port: int, workers: int) -> list[str]:
        """The command line."""
        given = {"bin": str(bin_folder), "app": app, "port": port, "workers": workers}
        return [word.format(**given) for word in self.command.split()]

    def takes_part(self, scenario: str) -> bool:
        """Whether it is meant for a scenario of this name."""
        return not self.only or any(fnmatch(scenario, pattern) for pattern in self.only)

    @property
    def can_workers(self) -> bool:
        """Whether it runs several processes."""
        return SEVERAL_WORKERS not in self.cannot

    @property
    def is_ours(self) -> bool:
        """Whether it is this project's server, whose command line takes our options."""
        return is_ours(self.name)


def is_ours(name: str) -> bool:
    """Whether a name is that of this project's server, in any form."""
    return name.partition(",")[0] == OURS


def _own_packages() -> tuple[str, ...]:
    """What the working tree says it needs; the package itself is imported from the tree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return (*project["dependencies"], *project["optional-dependencies"]["http2"])


def ours(
    name: str = OURS, more: str = "", *, tree: Path = ROOT, only: tuple[str, ...] = ()
) -> Peer:
    """Our server as pure Python, imported from a tree."""
    workers = "" if "--workers" in more else " --workers {workers}"
    return Peer(
        name,
        OURS,
        _own_packages(),
        ("uvloop", "httptools", "websockets", "wsproto"),
        "{bin}/python -m asgi_poller {app} --port {port}"
        f"{workers} --log-level warning --no-access-log {more}",
        {"PYTHONPATH": str(tree)},
        only=only,
    )


def _uvicorn(name: str, websockets: str) -> Peer:
    return Peer(
        name,
        "uvicorn",
        ("uvicorn[standard]", "wsproto"),
        ("uvicorn", "uvloop", "httptools", "websockets", "wsproto"),
        "{bin}/python -m uvicorn {app} --port {port} --workers {workers} --log-level warning"
        f" --no-access-log --backlog 65535 --loop uvloop --http httptools --ws {websockets}",
    )


def _granian(name: str, more: str = "", *, only: tuple[str, ...] = ()) -> Peer:
    workers = "" if "--workers" in more else " --workers {workers}"
    return Peer(
        name,
        "granian",
        ("granian", "uvloop"),
        ("granian", "uvloop"),
        f"{{bin}}/granian --interface asgi --host 127.0.0.1 --port {{port}}{workers}"
        f" --loop uvloop --log-level warning --no-access-log --backlog 65535 {more} {{app}}",
        only=only,
    )


def _peregrine(name: str, more: str = "", *, only: tuple[str, ...] = ()) -> Peer:
    workers = "" if "--workers" in more else " --workers {workers}"
    return Peer(
        name,
        "peregrine",
        ("peregrine-server", "uvloop"),
        ("peregrine-server", "uvloop"),
        f"{{bin}}/peregrine --host 127.0.0.1 --port {{port}}{workers} --log-level error"
        f" --backlog 65535 --max-connections 100000 --ws-compress {more} {{app}}",
        only=only,
    )


_COMPUTING = ("computing-*",)
_TOPICS = ("topics",)

PEERS = (
    ours(),
    Peer(
        COMPILED,
        COMPILED.replace(", ", "-"),
        (str(ROOT), "h2>=4.3"),
        ("uvloop", "httptools", "websockets", "wsproto"),
        "{bin}/asgi-poller {app} --port {port} --workers {workers} --log-level warning"
        " --no-access-log",
        compiled=True,
    ),
    ours(DIRECT, "--direct-handshake", only=("opens*",)),
    ours(LOOPS, "--loops 2", only=_COMPUTING),
    ours(WORKERS, "--workers 2", only=_COMPUTING),
    _peregrine("peregrine"),
    _peregrine("peregrine, 2 threads", "--free-threaded --workers 2", only=_COMPUTING),
    Peer(
        "h2corn",
        "h2corn",
        ("h2corn", "uvloop"),
        ("h2corn", "uvloop"),
        "{bin}/h2corn --bind 127.0.0.1:{port} --workers {workers} --no-access-log"
        " --backlog 65535 --loop uvloop {app}",
    ),
    _uvicorn("uvicorn", "websockets-sansio"),
    _uvicorn("uvicorn, websockets", "websockets"),
    _uvicorn("uvicorn, wsproto", "wsproto"),
    _granian("granian"),
    _granian("granian, threads", "--runtime-mode mt --runtime-threads 2"),
    _granian("granian, 2 workers", "--workers 2", only=_COMPUTING),
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
        cannot={SEVERAL_WORKERS: "has one process"},
    ),
    Peer(
        "gunicorn asgi",
        "gunicorn",
        ("gunicorn>=27", "uvloop"),
        ("gunicorn", "uvloop"),
        "{bin}/python -m gunicorn {app} -k asgi --bind 127.0.0.1:{port} --workers {workers}"
        " --log-level warning --backlog 65535 --worker-connections 1000000",
    ),
    Peer(
        "socketify",
        "socketify",
        ("socketify",),
        ("socketify",),
        "{bin}/python -m socketify {app} --host 127.0.0.1 --port {port} --workers {workers}"
        " --interface asgi --disable-listen-log",
    ),
    Peer(
        "websockets, broadcast",
        "websockets",
        ("websockets", "uvloop"),
        ("websockets", "uvloop"),
        "{bin}/python -m serve_broadcast {port}",
        only=_TOPICS,
    ),
    Peer(
        "socketify, topics",
        "socketify",
        ("socketify",),
        ("socketify",),
        "{bin}/python -m serve_socketify {port}",
        only=_TOPICS,
    ),
    Peer(
        "C, only writes",
        "c",
        (),
        (),
        "{bin}/fan_out {port}",
        only=_TOPICS,
        source="fan_out.c",
    ),
    Peer(
        "m0serve",
        "m0serve",
        ("m0serve", "uvloop"),
        ("m0serve", "uvloop"),
        "{bin}/m0serve --host 127.0.0.1 --port {port} --workers {workers} --protocol asgi"
        " --max-keepalive-requests 0 {app}",
        {"PATH": "{bin}:/usr/bin:/bin"},  # it takes the first python3
    ),
    Peer(
        "aethonan",
        "aethonan",
        ("aethonan", "uvloop"),
        ("aethonan", "uvloop"),
        "{bin}/aethonan --interface asgi --host 127.0.0.1 --port {port} --workers {workers}"
        " --loop uvloop --log-level warning --no-access-log --backlog 65535 {app}",
    ),
    Peer(
        "palfrey",
        "palfrey",
        ("palfrey", "uvloop", "httptools", "websockets"),
        ("palfrey", "uvloop", "httptools", "websockets"),
        "{bin}/palfrey {app} --port {port} --workers {workers} --log-level warning"
        " --no-access-log --backlog 65535",
    ),
    Peer(
        "tigrcorn",
        "tigrcorn",
        ("tigrcorn", "uvloop"),
        ("tigrcorn", "uvloop"),
        "{bin}/tigrcorn {app} --bind 127.0.0.1:{port} --workers {workers} --runtime uvloop"
        " --log-level warning --no-access-log --backlog 65535 --protocol http1",
        cannot={WEBSOCKETS: "answers 426 to WebSockets, also with --protocol websocket"},
    ),
    Peer(
        "freastal",
        "freastal",
        ("freastal", "uvloop"),
        ("freastal", "uvloop"),
        "{bin}/python -m serve_freastal {app} {port} {workers}",
        cannot={WEBSOCKETS: "has no WebSockets"},
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
