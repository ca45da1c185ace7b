"""What an event loop and the hub of several processes say to each other."""

from __future__ import annotations

from typing import NamedTuple

from asgi_poller.topics.publication import Publication


class WireFault(Exception):
    """The other end says what cannot be: its link is of no use any more."""


class Join(NamedTuple):
    """Give me `topic`, and what I missed `since`."""

    request: int
    topic: str
    since: str | None


class Leave(NamedTuple):
    """Nothing more of `topic`."""

    topic: str


class Publish(NamedTuple):
    """`data` is UTF-8 where the form is text or JSON."""

    request: int
    topic: str
    form: str
    data: bytes


class Count(NamedTuple):
    """How many subscribers has `topic`?"""

    request: int
    topic: str


class Counted(NamedTuple):
    """The answer to Ask: so many here."""

    request: int
    here: int


class Welcome(NamedTuple):
    """The hub serves this link."""

    version: int


class Taken(NamedTuple):
    """The answer to Publish."""

    request: int
    id: str


class Refused(NamedTuple):
    """The answer to Publish, Join or Count: it is not possible now."""

    request: int
    problem: str


class MissedBegin(NamedTuple):
    """The publications up to Joined are the answer to a Join."""

    request: int


class Joined(NamedTuple):
    """The end of the answer to Join."""

    request: int
    is_complete: bool
    position: str


class Gap(NamedTuple):
    """Publications of `topic` are lost; those that come next are behind `position`."""

    topic: str
    position: str


class Ask(NamedTuple):
    """How many subscribers of `topic` do you have?"""

    request: int
    topic: str


class Counts(NamedTuple):
    """The answer to Count: of this machine, and of all."""

    request: int
    here: int
    everywhere: int


Message = (
    Join
    | Leave
    | Publish
    | Count
    | Counted
    | Welcome
    | Publication
    | Taken
    | Refused
    | MissedBegin
    | Joined
    | Gap
    | Ask
    | Counts
)
