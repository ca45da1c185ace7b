"""Runs of the load tester for its tests: in this process as a fleet, or as the command a person
types.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from asgi_poller.storm.fleet import Fleet
from asgi_poller.storm.plan import Plan, loopback_sources, parse_url
from asgi_poller.storm.summary import document
from tests.support.waiting import DEADLINE_S


def plan_for(port: int, *, tls: bool = False, **fields: Any) -> Plan:
    """A short plan against a local port."""
    target = parse_url(f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/x?y=1")
    sources = loopback_sources(target["family"], target["address"])
    fields = {"connections": 20, "burst": 7, "interval_s": 0.001, "timeout_s": DEADLINE_S} | fields
    return Plan(**target, sources=sources, **fields)


def run(port: int, *, tls: bool = False, **fields: Any) -> dict[str, Any]:
    """Run a plan; the JSON document, whose first promise is checked here for every test."""
    found = document(Fleet(plan_for(port, tls=tls, **fields)).run())
    check_balance(found)
    return found


def check_balance(found: dict[str, Any]) -> None:
    """Every attempt is in exactly one place."""
    causes = {name: count for name, count in found["failed"].items() if name != "total"}
    assert sum(causes.values()) == found["failed"]["total"]
    assert found["attempted"] == found["opened"] + found["failed"]["total"]
    assert sum(found["http_statuses"].values()) == causes["status"]
    assert found["open_ms"]["count"] == found["opened"]


def causes(found: dict[str, Any]) -> dict[str, int]:
    """The causes that occurred."""
    return {name: count for name, count in found["failed"].items() if count and name != "total"}


def command(*words: str, **more: Any) -> subprocess.Popen[str]:
    """`asgi-poller-storm` as a process with its output piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "asgi_poller.storm", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any] | None, str]:
    """Exit code, the JSON document if stdout has one, and stderr."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, json.loads(out) if out.strip() else None, err
