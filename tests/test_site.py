"""The site of the pages: it builds without a warning, loads nothing from other hosts, and its
diagrams and figures are those of the pages.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.command import run_python
from tests.support.processes import ROOT

DOCS = ROOT / "docs"
#: Attributes by which a page makes a browser load something, by the element.
LOADING = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
    "use": "href",
}


class Page(HTMLParser):
    """What a page loads, and the classes and data-attributes of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.components: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        address = found.get(LOADING.get(tag, ""))
        if address and not (tag == "link" and found.get("rel") == "canonical"):
            self.loads.append(address)
        self.components.add(found.get("data-md-component") or "")
        self.classes |= set((found.get("class") or "").split())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as a reader of mkdocs.yml would."""
    pytest.importorskip("material", reason="pip install 'asgi-poller[docs]'")
    target = tmp_path_factory.mktemp("site")
    done = run_python("-m", "mkdocs", "build", "--strict", "-q", "-d", str(target))
    assert done.returncode == 0, done.stderr
    return target


def pages_of(site: Path) -> dict[str, Page]:
    paths = sorted(site.rglob("*.html"))
    return {str(path.relative_to(site)): Page(path.read_text(encoding="utf-8")) for path in paths}


def test_every_page_is_in_it(site: Path) -> None:
    for page in DOCS.glob("*.md"):
        name = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (site / name).is_file(), page.name
    assert list(site.rglob("*.py")) == []


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = pages_of(site)
    assert len(pages) > 10
    elsewhere = {
        (name, address)
        for name, page in pages.items()
        for address in page.loads
        if re.match(r"(https?:)?//", address)
    }
    assert elsewhere == set()
    assert sum(len(page.loads) for page in pages.values()) > 50, "what is loaded is seen"


def test_no_style_does_either(site: Path) -> None:
    for path in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*", text)
        assert found == [], path


def test_no_script_of_the_theme_is_led_to_another_host(site: Path) -> None:
    """It would ask GitHub for the stars of a repository link, and a CDN for mermaid."""
    for name, page in pages_of(site).items():
        assert "source" not in page.components, name
        assert "mermaid" not in page.classes, name
    index = (site / "index.html").read_text(encoding="utf-8")
    assert 'class="md-source"' in index, "the link is there all the same"


def test_the_front_page_shows_what_it_is(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    for part in (
        "charts/idle-memory-deflate.svg",
        "images/dashboard-light.png",
        "images/logo.svg",
        'href="compared/"',
    ):
        assert part in text, part
    assert "asgi-poller main:app --workers auto" in re.sub(r"<[^>]+>", "", text)


def test_options_in_tables_do_not_break(site: Path) -> None:
    style = (site / "stylesheets" / "site.css").read_text(encoding="utf-8")
    assert re.search(r"table[^{]* code \{\s*white-space: nowrap", style)
    text = (site / "settings" / "index.html").read_text(encoding="utf-8")
    assert "stylesheets/site.css" in text


# Diagrams


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_diagram_has_its_picture_and_no_other_is_there() -> None:
    done = run_python(str(DOCS / "generate_diagrams.py"), "--check")
    assert (done.returncode, done.stderr) == (0, "")
    module = hooks()
    sources = [
        source
        for page in DOCS.glob("*.md")
        for source in module.BLOCK.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(sources) >= 6
    for source in sources:
        picture = module.diagram_path(source).read_text(encoding="utf-8")
        words = set(re.findall(r"\b[A-Z]{4,}\b", re.sub(r"SCM_RIGHTS", "", source)))
        assert [word for word in words if word not in picture] == []
        assert "foreignObject" not in picture, "pictures draw no HTML"


def test_a_diagram_that_has_changed_is_noticed(tmp_path: Path) -> None:
    docs = shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("charts"))
    page = docs / "design.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("SILENT --> HEAD", "SILENT --> HEADS"), encoding="utf-8")
    done = run_python(str(docs / "generate_diagrams.py"), "--check")
    assert done.returncode == 1
    assert "generate_diagrams.py" in done.stderr


# Figures


def test_the_figures_of_the_comparison_are_those_of_the_measurements() -> None:
    compared = (DOCS / "compared.md").read_text(encoding="utf-8")
    measured = (DOCS / "performance.md").read_text(encoding="utf-8")
    header, _, *rows = re.findall(r"^\| .*|^\|-.*", compared.partition("<!-- figures")[2], re.M)
    servers = [cell.strip() for cell in header.split("|")[2:-1]]
    assert len(rows) >= 3
    for row in rows:
        title, *figures = (cell.strip() for cell in row.split("|")[1:-1])
        section = measured.partition(f"### {title}\n")[2].partition("\n### ")[0]
        for server, figure in zip(servers, figures, strict=True):
            found = re.search(rf"^\| {server} \|.* ([\d.]+) \|$", section, re.MULTILINE)
            assert found is not None, (title, server)
            assert found[1] == figure, (title, server)
