"""Which service joins the topics of several machines (`--topics`)."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import parse_qsl, urlunsplit

from asgi_poller.config import Config
from asgi_poller.errors import ConfigError, OperatorFault
from asgi_poller.settings.service_url import NATS_SCHEMES, shown_service, split_service
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
    rules = HistoryRules.parsed(config.topics_history)
    if split_service(config.topics).scheme in NATS_SCHEMES:
        return _nats(config, rules)
    try:
        from asgi_poller.topics.redis_upstream import RedisUpstream
    except ImportError:
        raise ConfigError(_OPTION, "needs redis-py: pip install 'asgi-poller[redis]'") from None
    return RedisUpstream(
        config.topics, config.topics_prefix, rules, buffer_count=config.topics_buffer
    )


def _nats(config: Config, rules: HistoryRules) -> Upstream:
    try:
        from asgi_poller.topics.nats_upstream import NatsUpstream
    except ImportError:
        raise ConfigError(_OPTION, "needs nats-py: pip install 'asgi-poller[nats]'") from None
    if rules.patterns:
        raise ConfigError(
            "--topics-history", "NATS keeps as much of each topic: give COUNT,AGE without TOPIC="
        )
    assert config.topics is not None
    parts = split_service(config.topics)
    query = dict(parse_qsl(parts.query))
    unknown = query.keys() - {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
    if unknown:
        raise ConfigError(
            _OPTION, f"does not know what the URL says after the ? ({', '.join(sorted(unknown))})"
        )
    tls = None
    if query or parts.scheme == "tls":
        try:
            tls = ssl.create_default_context(cafile=query.get("ssl_ca_certs"))
            if "ssl_certfile" in query:
                tls.load_cert_chain(query["ssl_certfile"], query.get("ssl_keyfile"))
        except OSError as error:
            raise ConfigError(_OPTION, f"a certificate or key cannot be read: {error}") from None
    return NatsUpstream(
        urlunsplit(parts._replace(query="")),
        shown_service(config.topics),
        prefix=config.topics_prefix,
        rules=rules,
        buffer_count=config.topics_buffer,
        tls=tls,
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
