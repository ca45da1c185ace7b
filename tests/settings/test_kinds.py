"""How values are written: every kind in text and as an object, and what a refusal says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_poller.settings import kinds
from asgi_poller.settings.table import OPTIONS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512", 512),
        ("64k", 64 * 1024),
        ("64K", 64 * 1024),
        ("64kb", 64 * 1024),
        ("64 KiB", 64 * 1024),
        ("16MiB", 16 * 1024**2),
        ("1.5m", 3 * 512 * 1024),
        ("9007199254740993", 2**53 + 1),
        ("2g", 2 * 1024**3),
        ("1TiB", 1024**4),
    ],
)
def test_sizes_are_bytes_in_units_of_1024(text: str, expected: int) -> None:
    assert kinds.size().parse(text) == expected
    assert kinds.size().check(text) == expected, "TOML and Python may write sizes as text too"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("2.5", 2.5),
        ("50ms", 0.05),
        ("250us", 0.00025),
        ("5s", 5.0),
        ("2m", 120.0),
        ("2min", 120.0),
        ("1h", 3600.0),
        ("1D", 86400.0),
        (" 10 s ", 10.0),
    ],
)
def test_durations_are_seconds(text: str, expected: float) -> None:
    assert kinds.seconds().parse(text) == pytest.approx(expected)
    assert kinds.seconds().check(text) == pytest.approx(expected)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("read", "values", "message"),
    [
        (
            kinds.size().parse,
            ["", "x", "1x", "-1", "1 2", "k", "0.0001k", "1e3", "16 MiBs"],
            "must be",
        ),
        (
            kinds.seconds().parse,
            ["", "x", "5 parsecs", "-1", "nan", "inf", "1e400", "5s5"],
            "must be",
        ),
        (kinds.seconds().check, [True, None, [], NAN, INFINITY, -1, object()], "must be seconds"),
        (kinds.integer(0).check, [True, 1.0, "1.0", None, b"1"], "must be a whole number"),
        (kinds.integer(0).parse, ["one", "1.5", ""], "must be a whole number, not"),
        (kinds.number(0).check, [True, "fast", "nan", NAN], "must be a number"),
        (kinds.number(0).parse, ["fast"], "must be a number, not 'fast'"),
        (kinds.flag().parse, ["maybe"], "must be true or false, not 'maybe'"),
        (kinds.flag().check, [1], "must be true or false, not 1"),
    ],
)
def test_what_is_none_of_its_kind_is_refused(
    read: Callable[[Any], object], values: list[object], message: str
) -> None:
    for value in values:
        with pytest.raises(ValueError, match=message):
            read(value)


def test_a_bound_is_named_in_the_refusal() -> None:
    with pytest.raises(ValueError, match="from 0 to 65535, not 65536"):
        kinds.integer(0, 65535).check(65536)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        kinds.integer(1).parse("0")
    with pytest.raises(ValueError, match=r"at least 0, not -0\.5"):
        kinds.number(0).parse("-0.5")


def test_text_may_stand_for_a_number() -> None:
    """What a program takes out of os.environ."""
    assert kinds.integer(0).check("8001") == 8001
    assert kinds.number(0).check("2.5") == 2.5
    assert kinds.integer_or("auto", 1).check("4") == 4
    assert kinds.optional(kinds.integer(1)).check("100") == 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("Off", False)],
)
def test_flags_in_text(text: str, expected: bool) -> None:
    assert kinds.flag().parse(text) is expected


def test_choices_ignore_case_and_list_the_words() -> None:
    kind = kinds.choice("auto", "on", "off", also=("legacy",))
    assert kind.parse("AUTO") == "auto"
    assert kind.check("legacy") == "legacy"
    with pytest.raises(ValueError, match="must be one of auto, on, off, not 'x'"):
        kind.check("x")
    with pytest.raises(ValueError, match="must be one of"):
        kind.check(["auto"])


def test_a_number_or_a_word() -> None:
    kind = kinds.integer_or("auto", 1)
    assert kind.parse("AUTO") == "auto"
    assert kind.parse("4") == 4
    for bad in ("x", "0", "-3", "--3", "1.5", "9" * 5000):
        with pytest.raises(ValueError, match="at least 1, or 'auto'"):
            kind.parse(bad)
    with pytest.raises(ValueError, match="or 'auto'"):
        kind.check(True)


def test_text_takes_paths_and_refuses_control_characters() -> None:
    assert kinds.text().check(Path("a") / "b") == str(Path("a") / "b")
    with pytest.raises(ValueError, match="control characters"):
        kinds.text().check("a\nb")
    with pytest.raises(ValueError, match="must be text, not 3"):
        kinds.text().check(3)


def test_a_secret_is_not_repeated_in_the_refusal() -> None:
    with pytest.raises(ValueError) as refusal:
        kinds.text(secret=True).check(31337)
    assert "31337" not in str(refusal.value)


def test_lists_of_text_lose_repeats_and_keep_their_order() -> None:
    kind = kinds.texts()
    assert kind.check(["b", "a", "b"]) == ("b", "a")
    assert kind.check("one, two") == ("one, two",), "a comma may be part of a path"
    assert kind.parse("b, a,,b") == ("b", "a"), "the environment separates by commas"
    assert kinds.texts(commas=True).check(["a,b", "c"]) == ("a", "b", "c")
    with pytest.raises(ValueError, match="list of texts"):
        kind.check(3)
    with pytest.raises(ValueError, match="must be text"):
        kinds.texts(commas=True).check([3])


def test_none_is_a_value_only_of_optional_kinds() -> None:
    kind = kinds.optional(kinds.seconds(), zero_is_none=True)
    assert kind.check(None) is None
    assert kind.parse("None") is None
    assert kind.parse("0") is None
    assert kind.check(0) is None
    assert kind.parse("3") == 3.0
    with pytest.raises(ValueError):
        kinds.seconds().check(None)


def test_long_values_are_shortened_in_refusals() -> None:
    with pytest.raises(ValueError) as refusal:
        kinds.integer(0).parse("9" * 50 + "x" * 1000)
    assert len(str(refusal.value)) < 120


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.one_of(st.text(), st.integers(), st.tuples(st.text(), st.text()))),
    st.dictionaries(st.text(), st.text()),
)


def refusal_or_value(read: Callable[[Any], Any], given: object) -> tuple[str | None, Any]:
    """What `read` says against it, or what it makes of it. Other errors are failures."""
    try:
        return None, read(given)
    except ValueError as refusal:
        return str(refusal), None


@given(st.sampled_from(sorted(OPTIONS)), ANYTHING)
def test_any_object_has_a_normal_form_or_a_refusal(name: str, value: object) -> None:
    check = OPTIONS[name].kind.check
    refusal, normal = refusal_or_value(check, value)
    if refusal is None:
        assert check(normal) == normal
    else:
        assert "\n" not in refusal


@given(st.sampled_from(sorted(OPTIONS)), st.text())
def test_any_text_has_a_normal_form_or_a_refusal(name: str, text: str) -> None:
    kind = OPTIONS[name].kind
    refusal, normal = refusal_or_value(kind.parse, text)
    if refusal is None:
        assert kind.check(normal) == normal
    else:
        assert "\n" not in refusal


def test_every_default_is_a_value_of_its_option() -> None:
    for option in OPTIONS.values():
        assert option.default is None or option.kind.check(option.default) == option.default
        assert option.default is not None or option.kind.nullable, option.name
