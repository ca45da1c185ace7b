"""What the README and the changelog say is what the project does."""

from __future__ import annotations

import json
import re
import tomllib

import yaml
from fastapi import FastAPI, WebSocket
from websockets.sync.client import connect

import asgi_poller
from asgi_poller import topics
from tests.support.processes import ROOT
from tests.support.server import serving
from tests.support.waiting import DEADLINE_S

CHECKS = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_it_leads_with_one_command_to_run_and_one_to_test() -> None:
    run, test = (block.strip() for block in shell_blocks()[:2])
    assert "\n" not in run
    assert "\n" not in test
    assert run.endswith("&& asgi-poller examples.chat:app --pollers 8")
    assert test.endswith("&& pytest -n 3")


def test_the_test_command_is_the_one_of_the_checks() -> None:
    test = shell_blocks()[1].strip()
    assert f'test_command="{test}"' in CHECKS
    assert f"commands = {test.rpartition('&& ')[2]} " in (ROOT / "tox.ini").read_text("utf-8")


def test_the_extras_that_the_commands_install_exist() -> None:
    extras = set(re.findall(r"'\.\[(\w+)\]'", README))
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])


def test_one_message_to_everybody() -> None:
    app = FastAPI()
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {"app": app, "WebSocket": WebSocket})
    with serving(app) as site, connect(site.url("/ws", "ws")) as client:

        def answer(**message: str | None) -> dict[str, object]:
            client.send(json.dumps(message))
            heard: dict[str, object] = json.loads(client.recv(DEADLINE_S))
            return heard

        assert answer(subscribe="news")["subscribed"] is True
        assert answer(subscribe="old")["error"] == "forbidden"
        assert answer(publish="news", text="mine")["error"] == "forbidden"
        topics.publish_threadsafe("news", json={}).result(DEADLINE_S)
        assert json.loads(client.recv(DEADLINE_S))["json"] == {}


def test_versions_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == asgi_poller.__version__ == newest[1]


def test_the_hooks_before_a_commit_are_the_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    assert entries == re.findall(r"^step \.venv/bin/(.+)$", CHECKS, re.MULTILINE)


def test_the_supported_version_is_this_one() -> None:
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    minor = PROJECT["version"].rpartition(".")[0]
    assert f"| {minor} | yes |" in security


def test_links_to_the_repository_are_one_and_lead_to_files() -> None:
    """The project's own address is the same wherever it stands."""
    home = PROJECT["urls"]["Homepage"]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "mkdocs.yml"]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    urls = [url for text in texts for url in re.findall(r"https://github\.com/[^\s)>\"]+", text)]
    urls = [*PROJECT["urls"].values(), *(url for url in urls if "asgi" in url)]
    assert all(url.startswith(home) for url in urls), urls
    files = [url.partition("/blob/main/")[2] for url in urls if "/blob/main/" in url]
    assert [name for name in files if not (ROOT / name).is_file()] == []
