"""Whether an application ended because its peer had gone, or because of a mistake."""

from __future__ import annotations

import asyncio

from asgi_poller.errors import ClientDisconnected


def stems_from_disconnect(error: BaseException) -> bool:
    """Whether `error` is, or was raised because of, a ClientDisconnected: frameworks raise errors
    of their own from it. Of a group each exception must be. One that came while a mistake was being
    handled, as when a 500 is sent for it, does not hide the mistake.
    """
    return _stems(error, set())


def _stems(error: BaseException, seen: set[int]) -> bool:
    """`seen` are the ids of those that were asked: an error that was taken out of its group and
    raised has that group in its context.
    """
    at: BaseException | None = error
    found = False
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, ClientDisconnected):
            found = True
        elif isinstance(at, BaseExceptionGroup):
            members = [one for one in at.exceptions if id(one) not in seen]
            if members:
                found = all(_stems(one, seen) for one in members)
        elif found and not isinstance(at, asyncio.CancelledError):
            found = False  # a mistake, and the disconnect came while it was handled
        at = at.__cause__ or at.__context__
    return found
