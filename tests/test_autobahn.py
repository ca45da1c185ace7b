"""Autobahn's 517 cases, by kosoku, against an application that echoes, compression included.

None may fail, and none may be left unfinished. NON-STRICT ("acceptable, but not as the test suite
would have it") is allowed for these:

- 3.2, 3.3, 3.4, 4.1.3 to 4.1.5, 4.2.3 to 4.2.5, 5.15: a good message and a frame that breaks the
  rules come in one read. The suite would like to see the good message echoed first. The application
  is given it, but its echo comes too late: a connection is failed at once (RFC 6455, 7.1.7).
- 6.4.3, 6.4.4: text that is not UTF-8, in one frame whose bytes come bit by bit. The suite would
  like the connection to fail before the frame is complete. The fast lane looks at a frame when it
  is all there; in `--ws wsproto` these are OK.

INFORMATIONAL are 7.1.6 and 7.13.*, for which the suite has no right answer.

Messages of 131,072 octets take most of the time: all sizes are in the long run, but these for one
kind of data and one set of parameters only; the others are in the slow run.

The server compresses every message (`--ws-deflate-threshold 0`): kosoku's cases take an echo that
is not compressed for an error of their own.

Over HTTP/2 run 327 of them, through a bridge that leaves the frames as they are.
"""

from __future__ import annotations

import json

import pytest

from tests.support.apps import echo
from tests.support.command import run_python
from tests.support.http2_bridge import bridged
from tests.support.server import serving
from tests.support.waiting import wait_until

pytest.importorskip("kosoku", reason="the test suite is kosoku's: pip install kosoku")

LIMIT_S = 400
CASES = 517
# compression: kinds of data, then parameters; each with 18 sizes of messages and fragments
COMPRESSION = [f"12.{number}" for number in range(1, 6)] + [
    f"13.{number}" for number in range(1, 8)
]
# those with messages of 131,072 octets
LARGE = (10, 15, 16, 17, 18)
LARGE_IN_THE_LONG_RUN = ("12.1", "13.7")
# globs, how many cases they are, how many of them side by side
GROUPS: dict[str, tuple[list[str], int, int]] = {
    "9": (["9.*"], 54, 4),
    "1-7": ([f"{number}.*" for number in range(1, 8)], 246, 16),
    "10": (["10.*"], 1, 1),
    **{
        f"{group} large": ([f"{group}.{number}" for number in LARGE], len(LARGE), 1)
        for group in COMPRESSION
    },
    **{
        group: ([f"{group}.{number}" for number in range(1, 19) if number not in LARGE], 13, 1)
        for group in COMPRESSION
    },
}
NON_STRICT = {
    *("3.2", "3.3", "3.4", "5.15", "6.4.3", "6.4.4"),
    *("4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5"),
}
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

# In a process of its own: kosoku's cases are Python, and would share our lock.
CLIENT = """
import asyncio, json, os, sys
import kosoku

async def main():
    address, side_by_side, *cases = sys.argv[1:]
    try:
        results = await kosoku.run_fuzzingclient(address, cases, concurrency=int(side_by_side))
    except kosoku.FailureError as failure:
        results = failure.results
    print(json.dumps([
        [each.case_id, each.behavior.value, each.behavior_close.value, str(each.result)]
        for each in results
    ]), flush=True)
    os._exit(0)  # all is said; what its libraries do at the end has aborted the process before

asyncio.run(main())
"""


def results_of(port: int, cases: list[str], side_by_side: int) -> dict[str, list[str]]:
    """Behaviour, behaviour of the close, and words, by case."""
    address = f"127.0.0.1:{port}"
    client = run_python("-c", CLIENT, address, str(side_by_side), *cases, timeout=LIMIT_S)
    assert client.returncode == 0, client.stderr
    return {case: result for case, *result in json.loads(client.stdout)}


def test_every_case_is_in_a_group() -> None:
    assert sum(count for _, count, _ in GROUPS.values()) == CASES


def run_of(group: str) -> pytest.MarkDecorator:
    """The mark of the run that a group is in."""
    name, _, size = group.partition(" ")
    is_slow = size == "large" and name not in LARGE_IN_THE_LONG_RUN
    return pytest.mark.slow if is_slow else pytest.mark.long


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize(
    ("group", "ws"),
    [
        *(pytest.param(group, "auto", marks=run_of(group)) for group in GROUPS),
        pytest.param("1-7", "wsproto", marks=pytest.mark.long),
        pytest.param("10", "wsproto", marks=pytest.mark.long),
    ],
)
def test_autobahn(group: str, ws: str) -> None:
    cases, count, side_by_side = GROUPS[group]
    options = {"ws": ws, "ws_max_size": "32MiB", "ws_deflate_threshold": 0}
    with serving(echo, **options) as site:
        results = results_of(site.port, cases, side_by_side)
    assert len(results) == count
    bad = {case: result for case, result in results.items() if not is_acceptable(case, *result[:2])}
    assert bad == {}


# Over HTTP/2 frames come out of DATA instead of a socket: these look at all that is done with them.
# The other sizes and parameters of compression differ in nothing that a stream could change.
OVER_HTTP2 = ("1-7", "9", "10", "12.1", "13.7")


@pytest.mark.long
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("group", OVER_HTTP2)
def test_autobahn_over_http2(group: str) -> None:
    """Through a bridge, all of a group's WebSockets on one connection (RFC 8441)."""
    cases, count, side_by_side = GROUPS[group]
    options = {"ws_max_size": "32MiB", "ws_deflate_threshold": 0}
    with serving(echo, **options) as site, bridged(site.port) as port:
        results = results_of(port, cases, side_by_side)
        wait_until(lambda: site.connections() == 1, "each has left; one is the bridge's")
    assert len(results) == count
    bad = {case: result for case, result in results.items() if not is_acceptable(case, *result[:2])}
    assert bad == {}


def is_acceptable(case: str, behaviour: str, close: str) -> bool:
    if close not in ("OK", "INFORMATIONAL"):
        return False
    return (
        behaviour == "OK"
        or (behaviour == "NON-STRICT" and case in NON_STRICT)
        or (behaviour == "INFORMATIONAL" and case in INFORMATIONAL)
    )
