"""What the README and the changelog say is what the project does."""

from __future__ import annotations

import re
import tomllib

import asgi_poller
from tests.support.processes import ROOT

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


def test_versions_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == asgi_poller.__version__ == newest[1]
