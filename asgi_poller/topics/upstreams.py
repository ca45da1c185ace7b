"""Which service joins the topics of several machines (`--topics`)."""

from __future__ import annotations

import asyncio

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError, OperatorFault
from asgi_poller.settings.service_url import shown_service
from asgi_poller.topics.hub import HistoryRules
from asgi_poller.topics.outbox import ServiceLost
from asgi_poller.topics.upstream import Upstream

_OPTION = "--topics"


def upstream_of(config: Config) -> Upstream | None:
    """For the hub of this machine, on the loop that is to own it; None: there is no other machine.
    Nothing is connected yet. Raises ConfigError for what the URL says wrong, and where the library
    is missing.
    """
    if config.topics is None:
        return None
    try:
        from asgi_poller.topics.redis_upstream import RedisUpstream
    except ImportError:
        raise ConfigError(_OPTION, "needs redis-py: pip install 'asgi-poller[redis]'") from None
    return RedisUpstream(
        config.topics,
        config.topics_prefix,
        HistoryRules.parsed(config.topics_history),
        buffer_count=config.topics_buffer,
    )


def require_service(config: Config) -> None:
    """Before anything is bound. Raises ConfigError as `upstream_of`."""

    async def make() -> None:
        upstream = upstream_of(config)
        if upstream is not None:
            await upstream.close()

    if config.topics is not None:
        asyncio.run(make())


def reached_service(config: Config) -> str:
    """Connect once: what is to be said of it. Raises OperatorFault."""
    assert config.topics is not None

    async def reach() -> str:
        upstream = upstream_of(config)
        assert upstream is not None
        try:
            return await upstream.reach()
        finally:
            await upstream.close()

    service = shown_service(config.topics)
    try:
        return f"{service} answers: {asyncio.run(reach())}"
    except ServiceLost as error:
        raise OperatorFault(f"{_OPTION}: {service} cannot be reached: {error}") from None
