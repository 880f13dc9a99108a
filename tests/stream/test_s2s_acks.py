import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.stream.s2s_acks import WRAP, Acks, PingAcks, read_count
from beamish.xmpp.errors import StreamError
from beamish.xmpp.stanza import Stanza


def message(n: int = 0) -> Stanza:
    return Stanza.build("message", "chat", id=str(n), content=b"<body>Hi</body>")


@given(st.lists(st.integers(0, 5), max_size=50), st.integers(0, WRAP - 1))
def test_what_is_pending_is_what_was_not_confirmed(steps: list[int], start: int) -> None:
    acks = Acks()
    acks.sent = start
    expected: list[int] = []
    for n, confirmed in enumerate(steps):
        acks.count_sent(message(n), b"12345")
        expected.append(n)
        confirmed = min(confirmed, len(expected))
        acks.confirm((acks.sent - len(expected) + confirmed) % WRAP)
        expected = expected[confirmed:]
        assert [int(stanza.id) for stanza, *_ in acks.pending] == expected
        assert acks.bytes == 5 * len(expected)


@pytest.mark.parametrize("h", [3, WRAP - 1])
def test_more_than_was_sent_cannot_be_confirmed(h: int) -> None:
    acks = Acks()
    acks.count_sent(message(), b"")
    acks.count_sent(message(), b"")
    with pytest.raises(StreamError) as caught:
        acks.confirm(h)
    assert f"<handled-count-too-high xmlns='urn:xmpp:sm:3' h='{h}' send-count='2'/>".encode() in caught.value.to_bytes()


@pytest.mark.parametrize("text", [None, "", "-1", "x", "4294967296", "１"])
def test_counts_that_are_none(text: str | None) -> None:
    with pytest.raises(StreamError):
        read_count(text)


def test_pings_confirm_what_went_before_them() -> None:
    pings = PingAcks()
    for n in range(3):
        pings.sent(message(n), 1.0)
    assert pings.due
    number = pings.ping()
    assert not pings.due
    pings.sent(message(3), 2.0)
    pings.answered(number)
    assert [stanza.id for stanza, _ in pings.lost(100.0)[0]] == ["3"]


def test_of_a_peer_that_never_answers_only_the_last_seconds_are_in_doubt() -> None:
    pings = PingAcks(grace=5.0)
    pings.sent(message(0), 0.0)
    pings.ping()
    pings.sent(message(1), 8.0)
    assert [stanza.id for stanza, _ in pings.lost(10.0)[0]] == ["1"]


def test_what_nobody_can_be_told_about_is_not_kept() -> None:
    pings = PingAcks(limit=2)
    pings.sent(Stanza.build("iq", "result", id="r"), 0.0)
    pings.sent(Stanza.build("message", "error", id="e"), 0.0)
    assert not pings.due
    for n in range(5):
        pings.sent(message(n), 0.0)
    assert [stanza.id for stanza, _ in pings.lost(0.0)[0]] == ["3", "4"]


def test_one_that_is_longer_than_all_that_may_be_kept_is_in_doubt_all_the_same() -> None:
    pings = PingAcks(limit_bytes=10)
    assert pings.sent(message(0), 0.0, row=1) == []
    assert pings.sent(message(1), 1.0, row=2) == [1]
    assert [row for _, row in pings.lost(1.0)[0]] == [2]


def stored(*numbers: int) -> list[tuple[int, Stanza, bytes, int]]:
    return [(number, message(number), b"x", 100 + at) for at, number in enumerate(numbers)]


@pytest.mark.parametrize(
    ("numbers", "h", "left", "rows"),
    [
        ((3, 5, 6), 0, [3, 5, 6], []),
        ((3, 5, 6), 4, [5, 6], [100]),  # the fourth was something that is not kept
        ((3, 5, 6), 6, [], [100, 101, 102]),
        ((3, 5, 6), 9, [], [100, 101, 102]),  # things that are not kept came behind
        ((WRAP - 2, WRAP - 1, 0, 1), WRAP - 1, [0, 1], [100, 101]),
    ],
)
def test_after_a_crash_the_peer_tells_where_we_were(
    numbers: tuple[int, ...], h: int, left: list[int], rows: list[int]
) -> None:
    acks = Acks.restored("id", 7, 12, stored(*numbers))
    assert not acks.exact and acks.unconfirmed == len(numbers) and acks.handled == 12
    assert acks.confirm(h) == rows
    assert acks.exact
    assert [int(stanza.id) for stanza, *_ in acks.pending] == left
    assert acks.sent == (h + len(left)) % WRAP
    assert acks.bytes == len(left)
    assert acks.confirm(acks.sent) == [row for *_, row in stored(*numbers) if row not in rows]


def test_what_is_left_of_a_stream_is_taken_once() -> None:
    acks = Acks.restored("id", 7, 0, stored(1, 2))
    assert [(stanza.id, row) for stanza, row in acks.take_rest()] == [("1", 100), ("2", 101)]
    assert acks.settled and not acks.take_rest() and not acks.unconfirmed


def test_what_is_taken_back_was_never_sent() -> None:
    acks = Acks("id")
    for n in range(4):
        acks.count_sent(message(n), b"12345", n + 1)
    assert acks.confirm(1) == [1]
    assert [row for _, row in acks.take_back()] == [2, 3, 4]
    assert (acks.sent, acks.bytes, acks.unconfirmed) == (1, 0, 0)
    acks.count_sent(message(9), b"1")
    assert acks.confirm(2) == []


def test_rows_of_what_pings_confirm() -> None:
    pings = PingAcks(limit=3)
    assert pings.room
    for n in range(3):
        assert pings.sent(message(n), 1.0, row=n + 1) == []
    number = pings.ping()
    pings.sent(message(3), 1.0)
    assert pings.room  # no answer so far: it is not waited for
    assert pings.answered(number) == [2, 3]  # the oldest had to go
    for n in range(2):
        pings.sent(message(n), 1.0, row=10 + n)
    assert not pings.room
    assert pings.closed() == [10, 11]


def test_rows_of_what_is_not_waited_for_any_longer() -> None:
    pings = PingAcks(grace=5.0)
    pings.sent(message(0), 0.0, row=1)
    assert pings.sent(message(1), 8.0, row=2) == [1]
    pings.sent(message(2), 9.0, row=3)
    doubtful, believed = pings.lost(13.5)
    assert ([row for _, row in doubtful], believed) == ([3], [2])


def test_an_error_that_is_on_disk_is_kept() -> None:
    pings = PingAcks()
    pings.sent(Stanza.build("message", "error", id="e"), 0.0, row=5)
    assert pings.due


@given(
    st.lists(st.sampled_from(["sent", "lost", "row", "none"]), max_size=20),
    st.integers(0, WRAP - 1),
    st.integers(0, 20),
)
def test_what_is_withdrawn_was_never_counted(kinds: list[str], start: int, confirmed: int) -> None:
    """Stanzas that went out come first: nothing of those has a row that is refused."""
    kinds.sort(key=lambda kind: kind != "sent")
    acks, plain = Acks(), Acks()
    acks.sent = plain.sent = start
    rows = {n for n, kind in enumerate(kinds, 1) if kind == "lost"}
    for n, kind in enumerate(kinds, 1):
        acks.count_sent(message(n), b"12345", 0 if kind == "none" else n)
        if kind != "lost":
            plain.count_sent(message(n), b"12345", 0 if kind == "none" else n)
    for each in (acks, plain):
        each.confirm((start + min(confirmed, kinds.count("sent"))) % WRAP)
    taken, behind = acks.withdraw(rows)
    assert [row for _, row in taken] == sorted(rows)
    assert (acks.sent, acks.bytes) == (plain.sent, plain.bytes)
    assert [s.id for s, *_ in acks.pending] == [s.id for s, *_ in plain.pending]
    first = (plain.sent - len(plain.pending)) % WRAP
    numbers = {row: (first + at) % WRAP for at, (_, _, row) in enumerate(plain.pending, 1) if row}
    assert {row: number for number, _, row in behind} == {
        row: number for row, number in numbers.items() if rows and row > min(rows)
    }


def test_pings_ask_about_nothing_that_is_withdrawn() -> None:
    pings = PingAcks()
    for row in (1, 0, 2):
        pings.sent(message(row), 0.0, row)
    assert [row for _, row in pings.withdraw({2, 7})] == [2]
    assert [row for _, row in pings.lost(0.0)[0]] == [1, 0]
