"""What a hub keeps, and what it says somebody has missed."""

from __future__ import annotations

import pytest

from asgi_poller.topics.hub import HistoryRules, Hub, Keep


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> Hub[str]:
    return Hub(HistoryRules(Keep(3, 60.0)), clock=clock)


def published(hub: Hub[str], count: int, topic: str = "a") -> list[str]:
    return [hub.publish(topic, "text", str(number)).id for number in range(count)]


def missed(hub: Hub[str], since: str, topic: str = "a") -> list[str | bytes] | None:
    """None: it is not complete."""
    answer = hub.missed(topic, since)
    assert answer.is_complete or not answer.publications
    return [each.data for each in answer.publications] if answer.is_complete else None


def test_what_was_published_after_an_id_is_missed(hub: Hub[str]) -> None:
    ids = published(hub, 3)
    assert missed(hub, ids[0]) == ["1", "2"]
    assert missed(hub, ids[2]) == []


def test_more_than_is_kept_is_too_old(hub: Hub[str]) -> None:
    ids = published(hub, 5)
    assert missed(hub, ids[0]) is None
    assert missed(hub, ids[1]) == ["2", "3", "4"]  # that one is gone, and nothing behind it


def test_what_is_older_than_the_rule_is_too_old(hub: Hub[str], clock: Clock) -> None:
    hub.join("a", "link")
    ids = published(hub, 2)
    clock.now += 61.0
    assert missed(hub, ids[0]) is None
    assert missed(hub, ids[1]) == []


def test_a_place_without_a_message_is_one_to_resume_from(hub: Hub[str]) -> None:
    hub.join("a", "link")
    position = hub.missed("a", None).position
    hub.leave("a", "link")
    published(hub, 2)
    assert missed(hub, position) == ["0", "1"]


def test_a_topic_that_is_forgotten_knows_nothing_of_before(hub: Hub[str], clock: Clock) -> None:
    position = hub.missed("a", None).position
    published(hub, 2)
    clock.now += 100.0
    published(hub, 600, "other")  # so many that quiet topics are looked at
    assert len(hub) == 1
    assert missed(hub, position) is None
    published(hub, 1)
    assert missed(hub, position) is None


@pytest.mark.parametrize(
    "since", ["", "-", "x-1", "1", "{}-99", "{}--1", "{}-1x", "{}-" + "9" * 99]
)
def test_an_id_that_is_none_is_too_old(hub: Hub[str], since: str) -> None:
    name = published(hub, 1)[0].partition("-")[0]
    assert missed(hub, since.format(name)) is None


def test_another_hub_knows_that_it_does_not_know(hub: Hub[str]) -> None:
    ids = published(hub, 1)
    assert missed(Hub(HistoryRules(Keep(3, 60.0))), ids[0]) is None


def test_without_a_history_nothing_is_kept_and_nothing_missed_is_known() -> None:
    hub: Hub[str] = Hub()
    hub.join("a", "link")
    ids = published(hub, 2)
    assert missed(hub, ids[1]) == []
    assert missed(hub, ids[0]) is None
    assert hub.kept_bytes == 0
    hub.leave("a", "link")
    published(hub, 1)
    assert len(hub) == 0


def test_histories_have_a_bound_together() -> None:
    hub: Hub[str] = Hub(HistoryRules(Keep(1000, 60.0)), history_bytes=10_000)
    for number in range(1000):
        hub.publish(f"topic {number % 7}", "text", "x" * 100)
        assert hub.kept_bytes <= 10_000


def test_rules_are_by_name() -> None:
    rules = HistoryRules.parsed(["10,60s", "room:*=5,1m", "price:*=0,0"])
    assert rules.of("room:1") == Keep(5, 60.0)
    assert rules.of("else") == Keep(10, 60.0)
    assert rules.of("price:a").count == 0


def test_who_has_ended_wants_nothing(hub: Hub[str]) -> None:
    hub.join("a", "one")
    hub.join("a", "two")
    hub.join("b", "one")
    assert hub.links("a") == ("one", "two")
    assert hub.forget("one") == ["b"]
    assert hub.links("a") == ("two",)
