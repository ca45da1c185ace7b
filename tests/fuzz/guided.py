"""Coverage-guided fuzzing with atheris, which is not among the development dependencies:

    pip install atheris
    python -m tests.fuzz.guided http1 -max_total_time=600 corpus/

What follows the target goes to libFuzzer. An input that breaks a promise is written to a file
`crash-...`, whose bytes belong into `seeds.py` once the bug is mended.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    import atheris  # type: ignore[import-untyped]  # it comes without types

    name, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=["asgi_poller.protocols", "wsproto"]):
        from tests.fuzz.seeds import SEEDS
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(SEEDS[name]):
            (Path(directory) / str(number)).write_bytes(seed)
        target = TARGETS[name]
        atheris.Setup([sys.argv[0], *arguments, directory], lambda data: target(bytes(data)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
