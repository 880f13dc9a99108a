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
    with pytest.raises(StreamError):
        acks.confirm(h)


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
