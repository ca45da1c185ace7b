"""Topics in Redis: the names of their keys, and what is asked of them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from asgi_poller.errors import TopicsUnavailable
from asgi_poller.topics.hub import Keep
from asgi_poller.topics.outage import Outage, plain
from asgi_poller.topics.outbox import ServiceLost
from asgi_poller.topics.redis_scripts import MISSED
from asgi_poller.topics.redis_service import Command, RedisService
from asgi_poller.topics.upstream_message import Place

#: Seconds that the numbers of a topic outlive its last use: who listens renews it in time.
STATE_S: Final = 86400
#: Publications of one answer about what was missed.
_MISSED_COUNT: Final = 500


@dataclass(frozen=True, slots=True)
class Found:
    """Of a stream: what comes after a place, with places. Not `is_complete`: something between is
    not kept any more. `behind` is the place behind all of this, `has_more` whether there is more.
    """

    is_complete: bool
    behind: Place
    has_more: bool
    bodies: tuple[tuple[Place, bytes], ...]


class RedisStore:
    """Owned by the hub's loop."""

    def __init__(self, service: RedisService, prefix: str, outage: Outage) -> None:
        self.service = service
        self._prefix = prefix
        self._outage = outage

    # Names: all of a topic are in one slot of a Cluster, which what is in braces decides

    def channel(self, topic: str) -> str:
        """Where it is published."""
        return self.key(topic, "live")

    def key(self, topic: str, what: str) -> str:
        """Of something about a topic."""
        name = topic.replace("%", "%25").replace("}", "%7D")
        return f"{self._prefix}:{{{name}}}:{what}"

    def script(self, script: str, topic: str, keep: Keep, *given: Any) -> Command:
        """The command that runs it; `given` are its ARGV from the fourth on."""
        stream, state = self.key(topic, "stream"), self.key(topic, "state")
        age_ms, state_s = int(keep.seconds * 1000), int(keep.seconds) + STATE_S
        epoch = secrets.token_hex(4)
        return ("EVAL", script, 2, stream, state, age_ms, state_s, epoch, *given)

    async def ask(self, command: Command) -> Any:
        """Run it. Raises TopicsUnavailable, also where Redis refuses the command."""
        try:
            answer = (await self.service.run([[command]]))[0][0]
        except ServiceLost as error:
            raise TopicsUnavailable(f"{self._outage.reason}: {error}") from None
        if isinstance(answer, Exception):
            raise TopicsUnavailable(f"topics: Redis refuses: {plain(answer)}")
        return answer

    async def after(self, topic: str, keep: Keep, since: Place | None) -> Found:
        """What was published after `since`; None: nothing, only the place. Raises
        TopicsUnavailable.
        """
        place = ("", 0, 0) if since is None else (since.epoch, since.ms, since.number)
        command = self.script(MISSED, topic, keep, *place, _MISSED_COUNT)
        is_complete, id, has_more, pairs = await self.ask(command)
        behind = Place.from_words(id)
        bodies = tuple(
            (Place.from_stream(behind.epoch, pairs[i]), pairs[i + 1])
            for i in range(0, len(pairs), 2)
        )
        return Found(bool(is_complete), behind, bool(has_more), bodies)
