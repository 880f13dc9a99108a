from beamish.net.s2s_presence import RemotePresence
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza


def presence(sender: str, to: str, kind: str = "") -> Stanza:
    return Stanza.build("presence", kind, sender=JID.parse(sender), to=JID.parse(to))


def test_what_was_told_is_taken_back() -> None:
    book = RemotePresence(10)
    book.note(presence("j@b.example/y", "r@a.example"))
    book.note(presence("j@b.example/y", "r@a.example"))
    book.note(presence("j@b.example/z", "room@conference.a.example/n"))
    book.note(presence("k@c.example/z", "r@a.example"))
    book.note(presence("j@b.example", "r@a.example", "subscribe"))
    assert (len(book), book.of("b.example")) == (3, 2)
    assert [stanza.to_wire() for stanza in book.lost("b.example")] == [
        b"<presence type='unavailable' from='j@b.example/y' to='r@a.example'/>",
        b"<presence type='unavailable' from='j@b.example/z' to='room@conference.a.example/n'/>",
    ]
    assert (len(book), book.of("b.example"), book.lost("b.example")) == (1, 0, [])


def test_a_goodbye_ends_it() -> None:
    book = RemotePresence(10)
    book.note(presence("j@b.example/y", "r@a.example"))
    book.note(presence("j@b.example/y", "r@a.example", "unavailable"))
    book.note(presence("j@b.example/y", "r@a.example", "unavailable"))
    assert (len(book), book.lost("b.example")) == (0, [])


def test_the_oldest_are_forgotten() -> None:
    book = RemotePresence(3)
    for n in range(10):
        book.note(presence(f"u{n}@b{n % 2}.example/x", "r@a.example"))
    assert len(book) == 3
    assert len(book.lost("b0.example")) + len(book.lost("b1.example")) == 3
