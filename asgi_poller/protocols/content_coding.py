"""Which of a file's codings a client gets (RFC 9110, 12.5.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST_BYTES = 1024  # of a field; what is longer no client means
_ITEM = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*[qQ]=([01](?:\.[0-9]{0,3})?))?")
_ALIASES = {b"x-gzip": b"gzip"}  # RFC 9110, 8.4.1.3


def preferred(accepted: bytes | None, available: Sequence[bytes]) -> bytes | None:
    """The one of the codings in `available` (ours first where the client has no preference) that
    `accepted`, an Accept-Encoding field, wants most; None for the file as it is, which a client
    that refuses everything gets, too.
    """
    if not accepted or not available or len(accepted) > _LONGEST_BYTES:
        return None
    weights: dict[bytes, float] = {}
    for item in accepted.split(b","):
        found = _ITEM.fullmatch(item.strip())
        if found is not None:
            name = found[1].lower()
            weight = min(1.0, float(found[2])) if found[2] else 1.0
            weights.setdefault(_ALIASES.get(name, name), weight)
    best, best_weight = None, 0.0
    for coding in available:
        weight = weights.get(coding, weights.get(b"*", 0.0))
        if weight > best_weight:
            best, best_weight = coding, weight
    if weights.get(b"identity", 0.0) > best_weight:
        return None
    return best
