"""Which program this is: its version, and whether its hot modules are compiled."""

from __future__ import annotations

from importlib.machinery import ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

_PROGRAM = "asgi-poller"
_HOT_MODULE = "asgi_poller.protocols.http1.parser"  # of those that a build may compile


def our_version() -> str:
    """The installed version; empty for a source tree that is not installed."""
    try:
        return version(_PROGRAM)
    except PackageNotFoundError:
        return ""


def build_kind() -> str:
    """Whether the hot modules are compiled (hatch_build.py): "compiled" or "pure"."""
    spec = find_spec(_HOT_MODULE)
    is_compiled = spec is not None and isinstance(spec.loader, ExtensionFileLoader)
    return "compiled" if is_compiled else "pure"
