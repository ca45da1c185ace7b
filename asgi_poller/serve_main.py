"""From a Config to an exit code: which kind of server runs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from asgi_poller import platform
from asgi_poller.asgi.static_files import static_mounts
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from asgi_poller.logs import configure_logging, let_go_of_stalled_outputs, log_notices
from asgi_poller.serve.runner import end_process_soon
from asgi_poller.serve.server import Server
from asgi_poller.supervisor.reloader import Reloader
from asgi_poller.supervisor.supervisor import Supervisor
from asgi_poller.topics.upstreams import require_service


def _role(config: Config) -> str:
    if config.reload:
        return "reloader"
    return "supervisor" if config.workers > 1 else "server"


def serve(
    config: Config,
    *,
    owns_process: bool = False,
    sockets: Iterable[socket.socket] | None = None,
) -> int:
    """Serve until the end; the process's exit code. Raises OperatorFault for what the operator must
    change. `owns_process`: nothing is to come after this, the process ends within seconds.
    `sockets`: bound by the caller, instead of those of the options; for one process.

    Start-up failures end with 3 and everything else that is orderly with 0, as uvicorn does it. A
    signal that ended the server in one process is raised again once it has, so that the shell sees
    it; a supervisor ends with 0.
    """
    if sockets and (config.reload or config.workers > 1):
        option = "--reload" if config.reload else "--workers"
        raise ConfigError(option, "cannot be used with sockets=: give the descriptor with fd=")
    try:
        return _serve(config, owns_process, sockets)
    finally:
        if owns_process:
            let_go_of_stalled_outputs()


def _serve(config: Config, owns_process: bool, sockets: Iterable[socket.socket] | None) -> int:
    configure_logging(config)
    log_notices(config)
    require_service(config)
    static_mounts(config)
    if owns_process:
        platform.name_process(_role(config))
    if config.reload:
        return Reloader(config).run()
    if config.workers > 1:
        return Supervisor(config).run()
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):  # SIGINT, raised again after an orderly end
        server.run(sockets)
    if owns_process:
        end_process_soon(0)
    return 0
