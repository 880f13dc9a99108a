"""XEP-0198's counters, by examples and by a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.stream.resume import WRAP, Unconfirmed, after, read_count
from beamish.xmpp.errors import StreamError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("7", 7),
        (" 7\n", 7),
        (str(WRAP - 1), WRAP - 1),
        (str(WRAP), None),
        ("-1", None),
        ("+1", None),
        ("", None),
        ("1.0", None),
        ("٣", None),
        ("0" * 5_000, None),
        (None, None),
    ],
)
def test_a_count_is_an_unsigned_int(text: str | None, count: int | None) -> None:
    assert read_count(text) == count


def test_too_many_confirmed_is_the_stream_error_of_the_specification() -> None:
    queue: Unconfirmed[str] = Unconfirmed()
    queue.add("a", 1)
    with pytest.raises(StreamError) as caught:
        queue.confirm(2)
    assert caught.value.condition.value == "undefined-condition"
    assert caught.value.app == b"<handled-count-too-high xmlns='urn:xmpp:sm:3' h='2' send-count='1'/>"
    assert len(queue) == 1


def test_counters_wrap() -> None:
    queue: Unconfirmed[int] = Unconfirmed(WRAP - 2)
    assert [queue.add(n, 10) for n in range(4)] == [WRAP - 1, 0, 1, 2]
    assert queue.confirm(0) == [0, 1]
    assert (queue.confirmed, queue.bytes) == (0, 20)
    assert queue.confirm(2) == [2, 3]
    with pytest.raises(StreamError):
        queue.confirm(1)


def test_counting_anew_from_the_peers_count() -> None:
    queue: Unconfirmed[str] = Unconfirmed()
    queue.add("a", 1)
    queue.add("b", 1)
    queue.restart(40)
    assert (queue.confirmed, queue.sent) == (40, 42)
    assert queue.confirm(41) == ["a"]


def test_later_counts() -> None:
    assert after(1, 0)
    assert after(0, WRAP - 1)
    assert not after(0, 0)
    assert not after(WRAP - 1, 0)


@given(
    start=st.integers(0, WRAP - 1),
    steps=st.lists(
        st.one_of(st.integers(1, 50).map(lambda size: ("add", size)), st.integers(0, 6).map(lambda n: ("ok", n)))
    ),
)
def test_what_is_confirmed_is_what_was_sent_first(start: int, steps: list[tuple[str, int]]) -> None:
    queue: Unconfirmed[tuple[int, int]] = Unconfirmed(start)
    model: list[tuple[int, int]] = []
    number = 0
    for kind, value in steps:
        if kind == "add":
            model.append((number, value))
            queue.add((number, value), value)
            number += 1
        elif value <= len(model):
            assert queue.confirm((queue.confirmed + value) % WRAP) == model[:value]
            del model[:value]
        else:
            with pytest.raises(StreamError):
                queue.confirm((queue.confirmed + value) % WRAP)
        assert list(queue) == model
        assert queue.bytes == sum(size for _, size in model)
        assert queue.sent == (start + number) % WRAP


@pytest.mark.parametrize("start", [0, WRAP - 3])
def test_what_was_sent_since_a_count(start: int) -> None:
    queue: Unconfirmed[str] = Unconfirmed(start)
    for item in "abcde":
        queue.add(item, 1)
    assert queue.since(start) == list("abcde")
    assert queue.since((start + 3) % WRAP) == ["d", "e"]
    assert queue.since(queue.sent) == []
    queue.confirm((start + 4) % WRAP)
    assert queue.since((start + 2) % WRAP) == ["e"]
