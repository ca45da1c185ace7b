"""Redis, one server or a Cluster, as topics use it: commands, and connections to listen on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlencode, urlunsplit

import redis
import redis.asyncio as redis_asyncio
from redis.asyncio import Connection, Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)

from asgi_poller.errors import ConfigError
from asgi_poller.settings.service_url import UNIX, split_service
from asgi_poller.topics.outage import plain
from asgi_poller.topics.outbox import ServiceLost

Command = Sequence[Any]
_OPTION: Final = "--topics"

#: Seconds for a connection, and for an answer, unless the URL says otherwise.
_TIMEOUT_S: Final = 5.0
_CONNECTION_COUNT: Final = 16

#: What is over by itself, or when somebody has mended the service; the rest is the fault of one
#: command. A replica that is taken for the master (ReadOnlyError) is one after a failover, and
#: RuntimeError is what uvloop raises for a transport that has been closed.
LOST: Final = (
    RuntimeError,
    OSError,
    EOFError,
    asyncio.TimeoutError,
    redis.ConnectionError,
    redis.TimeoutError,
    RedisClusterException,
    ClusterDownError,
    ReadOnlyError,
    AskError,
    TryAgainError,
)


@contextlib.contextmanager
def as_lost() -> Iterator[None]:
    """Raises ServiceLost for all that means it."""
    try:
        yield
    except LOST as error:
        raise ServiceLost(plain(error)) from None


class RedisService(Protocol):
    """Owned by the hub's loop. All raise ServiceLost."""

    kind: str
    publish_command: str
    subscribe_command: str
    unsubscribe_command: str

    async def run(self, groups: Sequence[Sequence[Command]]) -> list[list[Any]]:
        """Run commands; the answers, errors of single commands among them. Those of one group run
        in their order and have keys of one slot.
        """

    async def place(self, channels: Iterable[str]) -> Mapping[Address, list[str]]:
        """Which server has which channels. Looks again if `moved` was called."""

    def moved(self) -> None:
        """Channels may be elsewhere than they were."""

    def connection(self, address: Address) -> Connection:
        """A new one to listen on."""

    async def close(self) -> None: ...


class Address(NamedTuple):
    """Of a server of a Cluster. Empty: the one that the URL says."""

    host: str = ""
    port: int = 0


class _Single:
    kind = "Redis"
    publish_command = "PUBLISH"
    subscribe_command = "SUBSCRIBE"
    unsubscribe_command = "UNSUBSCRIBE"

    def __init__(self, url: str) -> None:
        given = _given(url)
        self._make = given.pop("connection_class", Connection)
        self._given = given
        pool = redis_asyncio.BlockingConnectionPool(
            connection_class=self._make, max_connections=_CONNECTION_COUNT, timeout=None, **given
        )
        self._client = Redis.from_pool(pool)
        self.connection(Address())  # raises TypeError for what it does not know

    async def run(self, groups: Sequence[Sequence[Command]]) -> list[list[Any]]:
        pipeline = self._client.pipeline(transaction=False)
        for group in groups:
            for command in group:
                pipeline.execute_command(*command)
        with as_lost():
            answers = iter(await pipeline.execute(raise_on_error=False))
        found = [[next(answers) for _ in group] for group in groups]
        _raise_lost(found)
        return found

    async def place(self, channels: Iterable[str]) -> Mapping[Address, list[str]]:
        return {Address(): list(channels)}

    def moved(self) -> None:
        pass

    def connection(self, address: Address) -> Connection:
        made: Connection = self._make(**self._given)
        return made

    async def close(self) -> None:
        await self._client.aclose()


class _Cluster:
    kind = "a Redis Cluster"
    publish_command = "SPUBLISH"
    subscribe_command = "SSUBSCRIBE"
    unsubscribe_command = "SUNSUBSCRIBE"

    def __init__(self, url: str) -> None:
        given = _given(url)
        self._make = given.pop("connection_class", Connection)
        self._given = given
        if self._make is not Connection:
            given = {**given, "ssl": True}
        self._client = RedisCluster(**given, max_connections=_CONNECTION_COUNT)
        self._has_moved = True
        self.connection(Address("localhost", 1))  # raises TypeError for what it does not know

    async def run(self, groups: Sequence[Sequence[Command]]) -> list[list[Any]]:
        with as_lost():
            found = await asyncio.gather(*(self._run(group) for group in groups))
        _raise_lost(found)
        return found

    async def _run(self, group: Sequence[Command]) -> list[Any]:
        answers: list[Any] = []
        for command in group:
            try:
                answers.append(await self._client.execute_command(*command))
            except LOST:
                raise
            except AttributeError:
                # after "the cluster is down" the library closes all its connections, and one
                # on which another command is being written then has no stream any more
                raise ServiceLost("a connection to a server of the Cluster was closed") from None
            except RedisError as error:
                answers.append(error)
        return answers

    async def place(self, channels: Iterable[str]) -> Mapping[Address, list[str]]:
        with as_lost():
            if self._has_moved:
                await self._client.initialize()
                await self._client.nodes_manager.initialize()
                self._has_moved = False
            found: dict[Address, list[str]] = {}
            for channel in channels:
                node = self._client.get_node_from_key(channel)
                assert node is not None  # a master
                found.setdefault(Address(str(node.host), int(node.port)), []).append(channel)
            return found

    def moved(self) -> None:
        self._has_moved = True

    def connection(self, address: Address) -> Connection:
        made: Connection = self._make(**{**self._given, **address._asdict()})
        return made

    async def close(self) -> None:
        await self._client.aclose()


def service_of(url: str) -> RedisService:
    """For a URL that split_service takes. Raises ConfigError, without connecting."""
    parts = split_service(url)
    scheme, is_cluster = parts.scheme.removesuffix("+cluster"), parts.scheme.endswith("+cluster")
    query = []
    for name, value in parse_qsl(parts.query):
        if name == "cluster":
            is_cluster = is_cluster or value.lower() in ("1", "true", "yes", "on")
        else:
            query.append((name, value))
    plain_url = urlunsplit(parts._replace(scheme=scheme, query=urlencode(query)))
    if is_cluster and scheme == UNIX:
        raise ConfigError(_OPTION, "a Redis Cluster has no unix socket: give redis+cluster://")
    if is_cluster and parts.path.strip("/") not in ("", "0"):
        raise ConfigError(_OPTION, "a Redis Cluster has no database but 0: leave it out")
    try:
        return _Cluster(plain_url) if is_cluster else _Single(plain_url)
    except (TypeError, ValueError, RedisError, RedisClusterException, OSError):
        # their text may have the password: name the words of the query alone
        names = ", ".join(name for name, _ in query) or "no parameters"
        raise ConfigError(
            _OPTION, f"redis-py does not take what the URL says after the ? ({names})"
        ) from None


def _given(url: str) -> dict[str, Any]:
    """What a connection is made with. The library tries nothing again by itself: who calls it must
    know of every connection that has ended.
    """
    given: dict[str, Any] = {
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        **parse_url(url),
    }
    path = given.get("ssl_ca_certs")
    if path is not None and not os.path.exists(path):
        raise ConfigError(_OPTION, f"ssl_ca_certs: there is no file {path}")
    return {
        **given,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
    }


def _raise_lost(found: Iterable[Iterable[Any]]) -> None:
    for answers in found:
        for answer in answers:
            if isinstance(answer, LOST):
                raise ServiceLost(plain(answer))
