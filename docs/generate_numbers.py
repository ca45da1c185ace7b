"""Writes the numbers of the other pages, which come from the code; with --check it only says which
are wrong.

    python docs/generate_numbers.py [--check]

Two sorts of numbers: the default of an option, wherever a page has it beside the option's name, as
in `--timeout-write` (60 s) or `--timeout-write`, 60 s; and constants, in the sentences of NUMBERS.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from asgi_poller.settings.table import OPTIONS

DOCS = Path(__file__).parent
PAGES = ("behaviour.md", "migrating-from-uvicorn.md", "process-model.md", "threat-model.md")

_BY_SWITCH = {option.switch: option for option in OPTIONS.values()}
_DEFAULT = re.compile(
    r"`(?P<switch>--[a-z0-9-]+)`(?P<between> \(|, )"
    r"(?P<value>-?[0-9][0-9.]*(?P<unit> (?:s|KiB|MiB|bytes)|))(?=[),;]| \||$)",
    re.MULTILINE,
)
_UNITS = {" s": 1, " bytes": 1, " KiB": 1024, " MiB": 1024 * 1024, "": 1}


class Number(NamedTuple):
    """A number in a sentence: `before` and `after` are the text around it, `of` says where the code
    has it (module:constant, or the option whose default it is), `shown` how it is written.
    """

    page: str
    before: str
    after: str
    of: str
    shown: Callable[[Any], str] = "{:g}".format


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g}"


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:g}"


NUMBERS = (
    Number("behaviour.md", "not answered for ", " ms", "handoff.thread_lane:LATE_S", _ms),
    Number("behaviour.md", "discards it for ", " s and", "loops.http_protocol:_DISCARD_S"),
    Number("behaviour.md", " s and ", " MiB at most", "loops.http_protocol:_DISCARD_BYTES", _mib),
    Number(
        "behaviour.md",
        "may inflate to ",
        " MiB",
        "protocols.websocket.permessage_deflate:_FREE_BYTES",
        _mib,
    ),
    Number("design.md", "takes it; 503 after ", " s |", "pollers.lane_monitor:GIVE_UP_S"),
    Number("behaviour.md", "lines in ", " s,", "asgi.refusal_log:WINDOW_S"),
    Number("behaviour.md", "at most every\n  ", " seconds", "handoff.exception_log:_LOG_EVERY_S"),
    Number("process-model.md", "that takes ", " seconds", "supervisor.worker_handle:_END_MARGIN_S"),
    Number("process-model.md", "deaths within ", " s", "supervisor.backoff:_LONG_LIFE_S"),
    Number("process-model.md", "it waits: ", " s", "supervisor.backoff:_FIRST_S"),
    Number("process-model.md", "up to ", " s", "supervisor.backoff:_LAST_S"),
    Number("process-model.md", "503 after ", " s without", "pollers.lane_monitor:GIVE_UP_S"),
    Number("process-model.md", "after ", " ms without", "handoff.thread_lane:LATE_S", _ms),
    Number("process-model.md", "logs it after ", " s", "ipc.heartbeat:NOTICE_S"),
    Number("process-model.md", "requests get ", " seconds", "supervisor.reloader:_RELOAD_GRACE_S"),
    Number("process-model.md", "Pollers run at nice ", " where", "--poller-nice"),
    Number("process-model.md", "workers run at nice ", "\n", "supervisor.poller_host:_WORKER_NICE"),
    Number(
        "threat-model.md", "at most ", " sockets are in a", "pollers.rejector:LINGER_LIMIT_COUNT"
    ),
    Number("threat-model.md", "lingering close, for ", " s at", "pollers.rejector:LINGER_S"),
    Number("threat-model.md", "each reason in ", " s", "asgi.refusal_log:WINDOW_S"),
    Number("threat-model.md", "a send waits ", " s", "system.sd_notify:_SEND_TIMEOUT_S"),
)


def corrected(name: str, text: str) -> str:
    """The page `name`, which holds `text`, with the numbers of the code. Raises LookupError for a
    sentence of NUMBERS that the page does not have, or has twice.
    """
    for number in NUMBERS:
        if number.page == name:
            text = _with_constant(text, number)
    return _DEFAULT.sub(_with_default, text)


def _with_constant(text: str, number: Number) -> str:
    pattern = re.compile(rf"(?<={re.escape(number.before)})-?[0-9.]+(?={re.escape(number.after)})")
    found = pattern.findall(text)
    if len(found) != 1:
        sentence = f"{number.before}N{number.after}"
        raise LookupError(f"{number.page} has {sentence!r} {len(found)} times, not once")
    return pattern.sub(number.shown(_value(number.of)), text)


def _value(of: str) -> Any:
    if of in _BY_SWITCH:
        return _BY_SWITCH[of].default
    module, constant = of.split(":")
    return getattr(import_module(f"asgi_poller.{module}"), constant)


def _with_default(found: re.Match[str]) -> str:
    option = _BY_SWITCH.get(found["switch"])
    if option is None or not isinstance(option.default, (int, float)):
        return found[0]
    if option.kind.metavar == "MODE":
        shown = f"{option.default:o}"
    else:
        shown = f"{option.default / _UNITS[found['unit']]:g}"
    return f"`{found['switch']}`{found['between']}{shown}{found['unit']}"


def main(arguments: list[str]) -> int:
    """Writes the pages; with --check, 1 if one would change."""
    stale = False
    for name in PAGES:
        page = DOCS / name
        current = page.read_text(encoding="utf-8")
        try:
            wanted = corrected(name, current)
        except LookupError as error:
            print(f"{error}: change NUMBERS in docs/generate_numbers.py", file=sys.stderr)
            return 1
        if current == wanted:
            continue
        stale = True
        if "--check" in arguments:
            lines = zip(current.splitlines(), wanted.splitlines(), strict=True)
            for line, (old, new) in enumerate(lines, 1):
                if old != new:
                    print(f"{name}:{line}: the code has other numbers: {new}", file=sys.stderr)
        else:
            page.write_text(wanted, encoding="utf-8")
    if stale and "--check" in arguments:
        print("run python docs/generate_numbers.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
