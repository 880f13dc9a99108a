from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.modules.muc.history import MAX_KEPT, MAX_KEPT_BYTES, History, Kept, Subject, Wanted
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import from_bytes

ROOM, WHO = JID("cave@conference.example.org"), JID("romeo@example.org/x")
NOW = 1_700_000_000.0
ALL = Wanted()


def kept(n: int, when: float = 0.0, text: str = "") -> Kept:
    content = f"<body>{text or n}</body>".encode()
    stanza = Stanza.build(MESSAGE, "groupchat", id=f"i{n}", sender=ROOM.with_resource("Nick"), content=content)
    return Kept(f"u{n}", when or NOW + n, stanza, WHO.bare)


def bodies(stanzas: list[Stanza]) -> list[str | None]:
    return [s.text("{jabber:client}body") for s in stanzas]


def replay(history: History, wanted: Wanted = ALL, limit: int = 100, now: float = NOW + 100) -> list[Stanza]:
    return history.replay(wanted, limit, now, WHO)


def test_order_and_stamps() -> None:
    got = replay(History(ROOM, [kept(1), kept(2)]))
    assert bodies(got) == ["1", "2"]
    delay = got[0].child("{urn:xmpp:delay}delay")
    assert delay is not None
    assert (delay.get("from"), delay.get("stamp")) == (ROOM, "2023-11-14T22:13:21.000Z")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(stanzas=2), ["4", "5"]),
        (Wanted(stanzas=0), []),
        (Wanted(chars=0), []),
        (Wanted(seconds=97), ["3", "4", "5"]),
        (Wanted(seconds=0), []),
        (Wanted(since=NOW + 4), ["4", "5"]),
        (Wanted(since=NOW + 2, stanzas=1), ["5"]),
        (Wanted(since=NOW + 2, seconds=96), ["4", "5"]),
        (Wanted(since=NOW + 999), []),
    ],
)
def test_the_least_that_meets_every_wish(wanted: Wanted, expected: list[str]) -> None:
    assert bodies(replay(History(ROOM, [kept(n) for n in range(1, 6)]), wanted)) == expected


def test_the_room_has_the_last_word() -> None:
    assert len(replay(History(ROOM, [kept(n) for n in range(9)]), Wanted(stanzas=8), limit=3)) == 3


@given(st.lists(st.text("ä<&x", min_size=1, max_size=30), max_size=12), st.integers(0, 3000))
def test_characters_are_those_of_whole_stanzas(texts: list[str], chars: int) -> None:
    history = History(ROOM, [kept(n, text=t.replace("&", "&amp;").replace("<", "&lt;")) for n, t in enumerate(texts)])
    got = replay(history, Wanted(chars=chars))
    sizes = [len(s.replace(to=WHO).to_wire().decode()) for s in replay(history)]
    assert sum(len(s.replace(to=WHO).to_wire().decode()) for s in got) <= chars
    if len(got) < len(texts):
        assert sum(sizes[-len(got) - 1 :]) > chars, "one more would have been too much"


def test_bounds() -> None:
    history = History(ROOM)
    for n in range(MAX_KEPT + 50):
        history.add(kept(n), 10_000)
    assert len(history) == MAX_KEPT
    big = History(ROOM)
    for n in range(20):
        big.add(kept(n, text="x" * 100_000), 1000)
    assert sum(len(k.stanza.body) for k in big) <= MAX_KEPT_BYTES
    small = History(ROOM)
    for n in range(5):
        small.add(kept(n), 2)
    assert [k.uid for k in small] == ["u3", "u4"]
    none = History(ROOM)
    none.add(kept(1), 0)
    assert len(none) == 0


def test_find_and_remove() -> None:
    history = History(ROOM, [kept(1), kept(2)])
    history.remove("u1")
    history.remove("u7")
    assert history.find("u1") is None
    assert bodies(replay(history)) == ["2"]


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ("<history maxchars='0'/>", Wanted(chars=0)),
        ("<history maxstanzas='20' seconds='180'/>", Wanted(stanzas=20, seconds=180)),
        ("<history since='1970-01-01T00:00:10Z'/>", Wanted(since=10.0)),
        ("<history since='yesterday' maxchars='-3' seconds='1e3' maxstanzas='9999999999999'/>", Wanted()),
        ("", Wanted()),
    ],
)
def test_wishes(xml: str, expected: Wanted) -> None:
    assert Wanted.from_xml(from_bytes(f"<x xmlns='http://jabber.org/protocol/muc'>{xml}</x>".encode())) == expected


def test_subject() -> None:
    nothing = Subject().to_stanza(ROOM)
    assert (nothing.sender, nothing.body) == (ROOM, b"><subject/></message>")
    by = ROOM.with_resource("Nick")
    told = Subject(
        b"<subject>Hi</subject>", by, b"<occupant-id xmlns='urn:xmpp:occupant-id:0' id='1'/>", NOW
    ).to_stanza(ROOM)
    assert told.sender == by
    assert told.child("{urn:xmpp:delay}delay") is not None
