"""Conditions and ranges of a request for a file, against RFC 9110, 13 and 14."""

from __future__ import annotations

import pytest

from asgi_poller.protocols.preconditions import Selected, Validators, http_date, select

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE, AFTER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"
DATE_S = 784111777
STRONG = Validators(b'"a"', DATE_S, True)
WEAK = Validators(b'W/"a"', DATE_S, False)
SIZE = 1000
WHOLE = Selected(200, 0, SIZE)


def selected(
    *fields: tuple[str, str], method: str = "GET", of: Validators = STRONG, size: int = SIZE
) -> Selected:
    headers = [(name.encode(), value.encode()) for name, value in fields]
    return select(method, headers, of, size)


def test_without_conditions_it_is_the_whole() -> None:
    assert selected() == WHOLE
    assert selected(("accept", "*/*")) == WHOLE


@pytest.mark.parametrize(
    "text", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", f" {DATE} "]
)
def test_the_three_forms_of_a_date(text: str) -> None:
    assert http_date(text.encode()) == DATE_S


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Xyz 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        f"{DATE}, {DATE}",
    ],
)
def test_what_is_no_date_is_ignored(text: str) -> None:
    assert http_date(text.encode()) is None
    assert selected(("if-modified-since", text)) == WHOLE
    assert selected(("if-unmodified-since", text)) == WHOLE


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("if-match", '"a"')], 200),
        ([("if-match", '"b", "a"')], 200),
        ([("if-match", '"b"'), ("if-match", '"a"')], 200),
        ([("if-match", "*")], 200),
        ([("if-match", '"b"')], 412),
        ([("if-match", 'W/"a"')], 412),  # the strong comparison
        ([("if-match", "a")], 412),
        ([("if-unmodified-since", DATE)], 200),
        ([("if-unmodified-since", BEFORE)], 412),
        ([("if-match", '"a"'), ("if-unmodified-since", BEFORE)], 200),  # the second is not read
        ([("if-none-match", '"a"')], 304),
        ([("if-none-match", 'W/"a"')], 304),
        ([("if-none-match", '"b","c" , "a"')], 304),
        ([("if-none-match", "*")], 304),
        ([("if-none-match", '"b"')], 200),
        ([("if-none-match", '"A"')], 200),
        ([("if-none-match", "a")], 200),
        ([("if-modified-since", DATE)], 304),
        ([("if-modified-since", AFTER)], 304),
        ([("if-modified-since", BEFORE)], 200),
        ([("if-none-match", '"b"'), ("if-modified-since", AFTER)], 200),
        ([("if-match", '"b"'), ("if-none-match", '"a"')], 412),
        ([("if-match", '"a"'), ("if-none-match", '"a"')], 304),
        ([("if-none-match", '"a"'), ("range", "bytes=0-1")], 304),
        ([("if-none-match", '"b"'), ("range", "bytes=0-1")], 206),
        ([("if-match", '"b"'), ("range", "bytes=5000-")], 412),
    ],
)
def test_conditions_in_their_order(fields: list[tuple[str, str]], status: int) -> None:
    assert selected(*fields).status == status
    if status != 206:
        assert selected(*fields, method="HEAD").status == status


def test_a_weak_tag_is_good_for_asking_whether_something_is_new_and_for_nothing_else() -> None:
    assert selected(("if-none-match", 'W/"a"'), of=WEAK).status == 304
    assert selected(("if-none-match", '"a"'), of=WEAK).status == 304
    assert selected(("if-match", 'W/"a"'), of=WEAK).status == 412
    assert selected(("range", "bytes=0-1"), ("if-range", 'W/"a"'), of=WEAK) == WHOLE
    assert selected(("range", "bytes=0-1"), ("if-range", DATE), of=WEAK) == WHOLE


def test_without_a_date_dates_do_not_count() -> None:
    dateless = Validators(b'"a"', None, False)
    assert selected(("if-modified-since", AFTER), of=dateless) == WHOLE
    assert selected(("if-unmodified-since", BEFORE), of=dateless) == WHOLE


@pytest.mark.parametrize(
    ("value", "first", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 1000),
        ("bytes=999-", 999, 1),
        ("bytes=10-19", 10, 10),
        ("bytes=990-5000", 990, 10),
        ("bytes=-1", 999, 1),
        ("bytes=-5000", 0, 1000),
        ("Bytes= 0-0 ", 0, 1),
        ("bytes=0-" + "9" * 5000, 0, 1000),
        ("bytes=" + "0" * 5000 + "1-2", 1, 2),
    ],
)
def test_a_range(value: str, first: int, length: int) -> None:
    assert selected(("range", value)) == (206, first, length)
    assert selected(("range", value), method="HEAD") == WHOLE


@pytest.mark.parametrize(
    "value", ["bytes=1000-", "bytes=-0", "bytes=5000-6000", "bytes=" + "9" * 5000 + "-"]
)
def test_a_range_beyond_the_file(value: str) -> None:
    assert selected(("range", value)).status == 416


def test_no_range_of_an_empty_file_can_be_satisfied() -> None:
    for value in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        assert selected(("range", value), size=0).status == 416
    assert selected(size=0) == (200, 0, 0)


@pytest.mark.parametrize(
    "value",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=5-1", "bytes=a-b", "bytes=0-1,5-6", "lines=0-1"),
        *("bytes=+1-2", "bytes=1--2", "bytes=0x1-2", "bytes=٣-٤", "bytes=0-1,"),
    ],
)
def test_other_ranges_are_answered_with_the_whole(value: str) -> None:
    assert selected(("range", value)) == WHOLE
    assert selected(("range", "bytes=0-1"), ("range", value)) == WHOLE


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"a"', 206),
        (DATE, 206),
        ('"b"', 200),
        (BEFORE, 200),
        (AFTER, 200),
        ('W/"a"', 200),
        ("", 200),
    ],
)
def test_if_range(value: str, status: int) -> None:
    assert selected(("range", "bytes=0-1"), ("if-range", value)).status == status
    assert selected(("if-range", value)) == WHOLE, "without a range it means nothing"
