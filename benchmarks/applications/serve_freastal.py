"""Starts freastal, which has no command line: python -m serve_freastal MODULE:NAME PORT WORKERS."""

from __future__ import annotations

import sys
from importlib import import_module

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    application = getattr(import_module(module), name)
    import_module("freastal").serve_asgi(
        application, host="127.0.0.1", port=int(sys.argv[2]), workers=int(sys.argv[3])
    )
