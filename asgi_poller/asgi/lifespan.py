"""The lifespan of an application on one event loop (ASGI: Lifespan Protocol)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from enum import Enum
from typing import Any

from asgi_poller.asgi.types import ASGI_VERSION, LIFESPAN_SPEC_VERSION, Application, Message
from asgi_poller.errors import ApplicationFault, StartupError

_log = logging.getLogger("asgi_poller.error")


class _Phase(Enum):
    STARTING = 1  # startup was sent, not answered
    RUNNING = 2
    STOPPING = 3  # shutdown was sent, not answered
    OVER = 4  # answered, failed, or the application does not take part


class Lifespan:
    """Runs one application's lifespan in a task of its own. Owned by the loop's thread.

    `mode` is `auto` (an application that raises at once is taken not to support it), `on` (that is
    a start-up failure) or `off`. It runs in `context`. `state` is what the application left for its
    connections.
    """

    def __init__(
        self, application: Application, mode: str, context: contextvars.Context | None = None
    ) -> None:
        self._application = application
        self._mode = mode
        self._phase = _Phase.OVER
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._answer: asyncio.Future[str | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._context = context
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        """Raises StartupError if the application said that it failed, or could not run in mode
        `on`.
        """
        if self._mode == "off":
            return
        problem = await self._ask(_Phase.STARTING, "lifespan.startup")
        if problem is not None:
            raise StartupError(problem)

    async def shutdown(self) -> bool:
        """Whether the application shut down cleanly; it is logged if not."""
        if self._phase is not _Phase.RUNNING:
            return True
        problem = await self._ask(_Phase.STOPPING, "lifespan.shutdown")
        if problem is not None:
            _log.error("Application shutdown failed. %s", problem)
        return problem is None

    async def _ask(self, phase: _Phase, message_type: str) -> str | None:
        self._phase = phase
        self._answer = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait({"type": message_type})
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), context=self._context)
        return await self._answer

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": ASGI_VERSION, "spec_version": LIFESPAN_SPEC_VERSION},
            "state": self.state,
        }
        try:
            await self._application(scope, self._inbox.get, self._send)
        except Exception as error:
            self._failed(error)
        except SystemExit as error:  # it ends the lifespan, not the loop
            self._settle(f"the application called sys.exit({error.code!r}) in its lifespan")
        except KeyboardInterrupt:
            self._settle("the application raised KeyboardInterrupt in its lifespan")
        except asyncio.CancelledError:  # a caller that waits for an answer must not wait for ever
            self._settle("the application's lifespan was cancelled")
            raise
        else:
            if self._phase is _Phase.STARTING and self._mode == "on":
                self._settle("the application returned from its lifespan without an answer")
            self._settle(None)
        finally:
            self._phase = _Phase.OVER

    def _failed(self, error: Exception) -> None:
        if self._phase is _Phase.STARTING and self._mode == "auto":
            _log.info("ASGI 'lifespan' protocol appears unsupported.")
            _log.debug("The application raised in it: %r", error)
            self._settle(None)
            return
        if self._phase is not _Phase.OVER:  # else the application has said what went wrong
            _log.error("Exception in 'lifespan' protocol", exc_info=error)
        self._settle(f"the application raised {type(error).__name__} in its lifespan")

    def _settle(self, problem: str | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(problem)

    async def _send(self, message: Message) -> None:
        match self._phase, message["type"]:
            case _Phase.STARTING, "lifespan.startup.complete":
                self._phase = _Phase.RUNNING
                self._settle(None)
            case (_Phase.STARTING, "lifespan.startup.failed") | (
                _Phase.STOPPING,
                "lifespan.shutdown.failed",
            ):
                self._phase = _Phase.OVER
                if message.get("message"):
                    _log.error("%s", message["message"])
                self._settle("the application's lifespan said that it failed")
            case _Phase.STOPPING, "lifespan.shutdown.complete":
                self._phase = _Phase.OVER
                self._settle(None)
            case phase, kind:
                raise ApplicationFault(
                    f"{kind!r} cannot be sent while the lifespan is {phase.name}"
                )
