import pytest

from beamish.core.sessions import PER_STANZA, Session, SessionTable
from beamish.xmpp.errors import StreamError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza


class Taken:
    """An outlet that keeps what it is given."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        self.got.append(data)
        return True

    def close(self, error: StreamError | None, reason: str) -> None: ...

    def survives(self, link: object, reason: str) -> bool:
        return False


def session(address: str) -> Session:
    return Session(JID.parse(address), Taken())


A, B, C = "romeo@example.org/a", "romeo@example.org/b", "juliet@example.org/a"


def test_what_is_for_many_counts_for_more_than_one() -> None:
    one = session(A)
    for many in (0, 1, PER_STANZA - 1):
        one.charge(many)
    assert one.owed == 0
    one.charge(PER_STANZA)
    one.charge(3 * PER_STANZA + 1)
    assert one.owed == 4


def test_sessions_are_found_by_full_and_bare_address() -> None:
    table = SessionTable()
    a, b, c = (session(address) for address in (A, B, C))
    for one in (a, b, c):
        table.add(one)
    assert len(table) == 3
    assert set(table) == {a, b, c}
    assert table.get(JID.parse(A)) is a
    assert table.get(JID.parse("romeo@example.org/x")) is None
    assert table.of(a.bare).all == (a, b)
    assert table.of(JID.parse("nobody@example.org")).all == ()


def test_an_address_is_held_once() -> None:
    table = SessionTable()
    table.add(session(A))
    with pytest.raises(ValueError, match="bound already"):
        table.add(session(A))


def test_a_session_is_removed_once_and_only_itself() -> None:
    table = SessionTable()
    old, new = session(A), session(A)
    table.add(old)
    assert table.remove(old)
    assert not table.remove(old)
    table.add(new)
    assert not table.remove(old)
    assert table.get(new.jid) is new
    assert table.remove(new)
    assert table.of(new.bare).all == ()
    assert not table.by_user


def test_tuples_may_be_kept_while_sessions_come_and_go() -> None:
    table = SessionTable()
    a, b = session(A), session(B)
    table.add(a)
    before = table.of(a.bare).all
    table.add(b)
    assert before == (a,)


def test_presence_decides_who_is_routable() -> None:
    table = SessionTable()
    a, b = session(A), session(B)
    table.add(a)
    table.add(b)
    user = table.of(a.bare)
    assert (user.available, user.routable) == ((), ())
    presence = Stanza.build("presence")
    table.presence_changed(a, -1, presence)
    table.presence_changed(b, 0, presence)
    assert (user.available, user.routable) == ((a, b), (b,))
    assert a.available
    table.presence_changed(b, None, None)
    assert (user.available, user.routable) == ((a,), ())
    table.remove(a)
    table.presence_changed(a, 5, presence)
    assert user.routable == ()


def test_notes_and_delivery() -> None:
    a = session(A)
    assert a.note("x.y") is None
    a.notes["x.y"] = 1
    assert a.note("x.y") == 1
    assert a.send(Stanza.build("message", to=a.jid))
    assert isinstance(a.outlet, Taken)
    assert a.outlet.got == [b"<message to='romeo@example.org/a'/>"]
    assert A in repr(a)
