"""What mkdocs does besides: diagrams are pictures that are in the repository, so that the site
loads no script for them. GitHub draws the same blocks itself.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

DIAGRAMS = Path(__file__).parent / "diagrams"
BLOCK = re.compile(r"```mermaid\n(.*?)```\n?", re.DOTALL)


def diagram_path(source: str) -> Path:
    """The picture of a diagram. Its name is the hash of the source: a changed one has none yet."""
    return DIAGRAMS / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.svg"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts the picture in the place of each mermaid block. Raises where there is none."""

    def picture(block: re.Match[str]) -> str:
        path = diagram_path(block[1])
        if not path.exists():
            raise FileNotFoundError(f"{page.file.src_path}: run python docs/generate_diagrams.py")
        before = block.string[: block.start()]
        heading = re.findall(r"^#+ (.+)$", before, re.MULTILINE)[-1]
        return f"![{heading}]({DIAGRAMS.name}/{path.name}){{ .diagram }}\n"

    return BLOCK.sub(picture, markdown)
