"""Writes docs/settings.md from the table of options; with --check it only says if it is stale.

python docs/generate_settings.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from asgi_poller.settings.option import Option
from asgi_poller.settings.table import GROUPS, OPTIONS, UVICORN_GROUP

PAGE = Path(__file__).with_name("settings.md")

INTRODUCTION = """\
<!-- Made by docs/generate_settings.py from asgi_poller/settings: change it there. -->

# Settings

Every setting has one name, in four places:

| | `--ws-max-size` |
|---|---|
| command line | `asgi-poller main:app --ws-max-size 1MiB` |
| environment | `ASGI_POLLER_WS_MAX_SIZE=1MiB` |
| TOML file (`--config FILE`, `ASGI_POLLER_CONFIG`) | `ws_max_size = "1MiB"` (or `ws-max-size`) |
| Python | `asgi_poller.run("main:app", ws_max_size="1MiB")` |

The command line goes before the environment, the environment before the file, the file before the
default. Arguments of `asgi_poller.run` count as the command line does. A name that is no setting is
an error that suggests the nearest one; an unknown `ASGI_POLLER_` variable is a warning.

- **Durations** are seconds, or text with a unit: `50ms`, `5s`, `2m`, `1h`, `1d`.
- **Sizes** are bytes, or text with a unit of 1024s: `64k`, `16MiB`, `1g`.
- **none** takes a limit off where the default is `none`, or where it is said below. In Python it is
  `None`; for the other settings `None` means "not given". In TOML it is the text `"none"`.
- **Settings that may be repeated** are lists in TOML and Python, and in the environment one text
  with commas (`--header`: with line ends).
- A **TOML file** may name the application too: `app = "main:app"`.

`asgi-poller config` prints what is in force, and where each value comes from; with `--all` the
defaults too, with `--format toml` as a file for `--config`. `asgi-poller check` says whether the
server could start. Both take every option of serving.

The column *uvicorn* says whether uvicorn has the setting: **same** name and default, another
default, or an empty cell for what only asgi-poller has.
"""

UVICORN_INTRODUCTION = """\
Options of uvicorn's that are no settings here. They are accepted where they say what happens anyway
or can be turned into a setting; otherwise the error says what to do instead. `--ws websockets` and
`--ws websockets-sansio` mean `auto`, `--loop none` means `asyncio`; a start-up warning says so. Of
the keywords of `uvicorn.run`, `ssl_context_factory` and `callback_notify` are refused.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title in [*(title for title, _ in GROUPS), UVICORN_GROUP]:
        parts.append(f"## {title}\n")
        if title == UVICORN_GROUP:
            parts.append(UVICORN_INTRODUCTION)
        rows = [_row(option) for option in OPTIONS.values() if option.group == title]
        parts.append("\n".join(["| | default | uvicorn | |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _row(option: Option) -> str:
    typed = f"`{option.switch}`"
    if option.kind.flag:
        typed += f"<br>`--no-{option.flag}`"
    elif option.kind.choices:
        typed += "<br>" + ", ".join(f"`{word}`" for word in option.kind.choices)
    else:
        typed += f" `{option.kind.metavar}`"
    text = option.help
    if option.kind.repeatable:
        text += " May be repeated."
    if option.note:
        text += f" {option.note}"
    default = option.shown_default
    shown = '`""`' if default == "empty" else f"`{default}`"
    uvicorn = f"**{option.uvicorn}**" if option.uvicorn == "same" else option.uvicorn
    others = [f"`{name}`" for name in option.spellings if name != option.flag.replace("-", "_")]
    if others:
        text += f" In Python also {', '.join(others)}."
    return f"| {_cell(typed)} | {_cell(shown)} | {uvicorn} | {_cell(_prose(text))} |"


def _cell(text: str) -> str:
    """Text that cannot end its cell."""
    return text.replace("|", "\\|")


def _prose(text: str) -> str:
    """Text whose asterisks are asterisks, and whose options look like options."""
    text = text.replace("*", "\\*")
    return re.sub(r"(?<![\w`-])--[a-z0-9][a-z0-9-]*", lambda found: f"`{found[0]}`", text)


def main(arguments: list[str]) -> int:
    """Writes the page; with --check, 1 if it would change."""
    wanted = page()
    if "--check" in arguments:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current == wanted:
            return 0
        print(f"{PAGE.name} is out of date: run python -m docs.generate_settings", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
