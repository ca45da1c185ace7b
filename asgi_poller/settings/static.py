"""Options: files that the server sends without the application."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from asgi_poller.settings.kinds import Kind, optional, seconds, shown, text, texts
from asgi_poller.settings.option import option

_NOT_IN_PREFIX = frozenset("%?#\\:*,;")


def mount_parts(mount: str) -> tuple[str, str]:
    """Prefix and directory of PREFIX:DIR; the prefix without a slash at its end."""
    prefix, _, directory = mount.partition(":")
    return prefix.rstrip("/"), directory


def _check_mount(value: object) -> str:
    if not isinstance(value, str) or ":" not in value:
        raise ValueError(f"must be PREFIX:DIR such as /static:web/static, not {shown(value)}")
    if any(character < " " for character in value):
        raise ValueError("must not contain control characters")
    prefix, directory = mount_parts(value)
    if not value.startswith("/"):
        raise ValueError(f"the prefix must begin with /, as in /{value}")
    if not prefix:
        raise ValueError("/ would leave nothing to the application: give a prefix such as /static")
    names = prefix.split("/")[1:]
    if any(not name or name.startswith(".") for name in names) or _NOT_IN_PREFIX & set(prefix):
        raise ValueError(f"the prefix must be a plain path such as /static, not {shown(prefix)}")
    if not prefix.isascii() or " " in prefix:
        raise ValueError(f"the prefix must be ASCII without spaces, not {shown(prefix)}")
    if not directory:
        raise ValueError(f"the directory is missing: give {prefix}:DIR")
    return f"{prefix}:{directory}"


def _mounts() -> Kind:
    """PREFIX:DIR, each prefix once."""
    many = texts("PREFIX:DIR", one=_check_mount)

    def check(value: object) -> tuple[str, ...]:
        mounts: tuple[str, ...] = many.check(value)
        prefixes = [mount_parts(mount)[0] for mount in mounts]
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise ValueError(f"the prefix {prefix} is given twice: give each one directory")
        return mounts

    def parse(text: str) -> Any:
        return check(many.parse(text))

    return replace(many, check=check, parse=parse)


def _file_name() -> Kind:
    plain = text("FILE")

    def check(value: object) -> str:
        name: str = plain.check(value)
        if not name or "/" in name or "\\" in name or name.startswith("."):
            raise ValueError(f"must be a file's name such as index.html, not {shown(name)}")
        return name

    return Kind("FILE", check, check)


@dataclass(frozen=True, kw_only=True, init=False)
class Static:
    """Static files."""

    __slots__ = ()

    static_path_mount: tuple[str, ...] = option(
        (),
        _mounts(),
        "Send the files below DIR for paths below PREFIX (/static:web/static).",
        note="The application is not asked. [Static files](static-files.md) has the rules.",
    )
    static_path_dir_to_file: str | None = option(
        "index.html",
        optional(_file_name()),
        "Static files: what a directory is answered with. none: 404.",
    )
    static_path_expires: float = option(
        86400.0,
        seconds(),
        "Static files: seconds for which clients may keep them without asking. 0: they always ask.",
    )
