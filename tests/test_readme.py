"""What the README and the changelog say is what the project does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import asgi_poller
from asgi_poller.settings.table import BY_SPELLING

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_it_leads_with_one_command_to_run_and_one_to_test() -> None:
    run, test = (block.strip() for block in shell_blocks()[:2])
    assert "\n" not in run
    assert "\n" not in test
    assert run.endswith("&& asgi-poller examples.chat:app --pollers 8")
    assert test.endswith("&& pytest -n 2")


def test_the_test_command_is_the_one_of_the_checks() -> None:
    test = shell_blocks()[1].strip()
    assert f'test_command="{test}"' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"commands = {test.rpartition('&& ')[2]} " in (ROOT / "tox.ini").read_text("utf-8")


def test_the_extras_that_the_commands_install_exist() -> None:
    extras = set(re.findall(r"'\.\[(\w+)\]'", README))
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])


def options_in(text: str) -> set[str]:
    """Options that are named in full; gunicorn's are not ours."""
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+[a-z])", text))
    return {name for name in named if f"--{name}" not in FOREIGN}


#: Options of other programs that the pages mention, and our command's own.
FOREIGN = {"--config", "--quick", "--help", "--version"}


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_options_are_spelled_as_they_are(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for option in options_in(text):
        assert option.replace("-", "_") in BY_SPELLING, f"--{option} in {page} is no option"


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{page} links to {target}"


def test_versions_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == asgi_poller.__version__ == newest[1]
