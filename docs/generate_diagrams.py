"""Draws the mermaid diagrams of the pages, for the site; with --check it only says what is missing.

    python docs/generate_diagrams.py [--check]

Needs mermaid's command (`npm install -g @mermaid-js/mermaid-cli`) and Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from site_hooks import BLOCK, DIAGRAMS, diagram_path  # beside this file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOOK = {
    "theme": "neutral",
    "fontFamily": "system-ui, sans-serif",
    "htmlLabels": False,  # labels of HTML are not drawn in pictures
    "flowchart": {"htmlLabels": False},
}


def sources() -> dict[Path, str]:
    """Each diagram of the pages, by the path of its picture."""
    texts = [page.read_text(encoding="utf-8") for page in sorted(DIAGRAMS.parent.glob("*.md"))]
    return {diagram_path(source): source for text in texts for source in BLOCK.findall(text)}


def draw(source: str, path: Path) -> None:
    """Raises CalledProcessError for a diagram that mermaid does not understand."""
    command = shutil.which("mmdc")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if command is None or browser is None:
        sys.exit("needs mmdc (npm install -g @mermaid-js/mermaid-cli) and Chromium on the path")
    with tempfile.TemporaryDirectory() as name:
        files = {
            "diagram.mmd": source,
            "look.json": json.dumps(LOOK),
            "browser.json": json.dumps({"executablePath": browser, "args": ["--no-sandbox"]}),
        }
        for file, text in files.items():
            Path(name, file).write_text(text, encoding="utf-8")
        subprocess.run(
            [
                *(command, "-q", "-b", "transparent", "-i", "diagram.mmd", "-o", "out.svg"),
                *("-c", "look.json", "-p", "browser.json"),
            ],
            cwd=name,
            check=True,
            env={**os.environ, "PUPPETEER_SKIP_DOWNLOAD": "1"},
        )
        shutil.copy(Path(name, "out.svg"), path)


def main(arguments: list[str]) -> int:
    """Draws what is missing and removes what is no longer used."""
    wanted = sources()
    there = set(DIAGRAMS.glob("*.svg"))
    if "--check" in arguments:
        stale = sorted(path.name for path in there ^ set(wanted))
        if stale:
            print(f"run python docs/generate_diagrams.py: {', '.join(stale)}", file=sys.stderr)
        return 1 if stale else 0
    DIAGRAMS.mkdir(exist_ok=True)
    for path in there - set(wanted):
        path.unlink()
    for path in set(wanted) - there:
        draw(wanted[path], path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
