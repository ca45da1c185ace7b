"""What may be published, and as what; what may be a topic."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_poller.topics.publication import checked_topic, content

NOTHING: Any = object()


def given(**value: Any) -> tuple[str, str | bytes]:
    """As `publish` gives it."""
    names = ("text", "bytes", "json")
    text, data, value_json = (value.get(name, NOTHING) for name in names)
    return content(text, data, value_json, nothing=NOTHING)


def test_one_of_three_forms() -> None:
    assert given(text="é") == ("text", "é")
    assert given(bytes=memoryview(b"ab")) == ("bytes", b"ab")
    assert given(json={"é": [None, 1]}) == ("json", '{"é":[null,1]}')
    assert given(json=None) == ("json", "null")


@pytest.mark.parametrize("value", [{}, {"text": "a", "json": 1}])
def test_not_none_and_not_two_of_them(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one of text, bytes and json"):
        given(**value)


@pytest.mark.parametrize(
    "value",
    [
        {"text": "\ud800"},
        {"json": json.loads('["\\ud800"]')},  # valid JSON, as a client may have sent it
        {"json": json.loads('{"\\udfff": 1}')},
    ],
)
def test_what_utf_8_cannot_hold_is_the_publishers_mistake_and_no_subscribers(
    value: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        given(**value)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity"])
def test_what_no_client_could_parse_is_not_published(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        given(json=json.loads(text))


@pytest.mark.parametrize("value", [{"text": b"a"}, {"bytes": "a"}, {"json": {1}}])
def test_a_value_of_another_type_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        given(**value)


@pytest.mark.parametrize("topic", [None, 1, "", "a" * 256, "é" * 128, "a\n", "\x7f", "\ud800"])
def test_what_is_no_topic(topic: Any) -> None:
    with pytest.raises(ValueError, match="topic"):
        checked_topic(topic)


@pytest.mark.parametrize("topic", ["a", "room:1", "é" * 127, "a b/c.*"])
def test_what_is_a_topic(topic: str) -> None:
    assert checked_topic(topic) == topic
