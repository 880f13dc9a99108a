"""What a remote server told of its users' presence: kept within bounds that are fair, taken back when it dies."""

from hypothesis import given
from hypothesis import strategies as st

from beamish.net.s2s_presence import RemotePresence, sign_off
from beamish.testing.world import World
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
    assert (len(book), book.of("b.example"), list(book.lost("b.example"))) == (1, 0, [])


def test_a_goodbye_ends_it() -> None:
    book = RemotePresence(10)
    book.note(presence("j@b.example/y", "r@a.example"))
    book.note(presence("j@b.example/y", "r@a.example", "unavailable"))
    book.note(presence("j@b.example/y", "r@a.example", "unavailable"))
    assert (len(book), list(book.lost("b.example"))) == (0, [])


def test_the_oldest_of_the_largest_domain_are_forgotten() -> None:
    book = RemotePresence(3)
    for n in range(10):
        book.note(presence(f"u{n}@b.example/x", "r@a.example"))
    assert [str(stanza.sender) for stanza in book.lost("b.example")] == [f"u{n}@b.example/x" for n in (7, 8, 9)]
    assert len(book) == 0


def test_one_domain_cannot_push_out_the_others() -> None:
    book = RemotePresence(100)
    for domain in ("b", "c", "d"):
        for n in range(10):
            book.note(presence(f"u{n}@{domain}.example/x", "r@a.example"))
    for n in range(5_000):
        book.note(presence(f"u{n}@flood.example/x", "r@a.example"))
    assert [book.of(f"{domain}.example") for domain in ("b", "c", "d", "flood")] == [10, 10, 10, 70]
    # whoever comes later gets a share of what the largest has taken
    for n in range(20):
        book.note(presence(f"u{n}@late.example/x", "r@a.example"))
    assert [book.of(f"{domain}.example") for domain in ("b", "c", "d", "flood", "late")] == [10, 10, 10, 50, 20]
    assert len(book) == 100


def test_many_domains_together_cannot_push_out_one_with_its_share() -> None:
    book = RemotePresence(100)
    for n in range(10):
        book.note(presence(f"u{n}@b.example/x", "r@a.example"))
    for n in range(2_000):
        book.note(presence(f"u{n}@x{n % 9}.example/x", "r@a.example"))
    assert book.of("b.example") == 10
    assert [book.of(f"x{n}.example") for n in range(9)] == [10] * 9


def test_long_addresses_count_for_what_they_take() -> None:
    """200,000 pairs of addresses of 2000 bytes each were more than two gigabytes, and one domain may tell of them."""
    book = RemotePresence(1_000)
    for n in range(10):
        book.note(presence(f"u{n}@b.example/x", "r@a.example"))
    long = "x" * 990
    for n in range(1_000):
        book.note(presence(f"{n:04}{long}@flood.example/{long}", f"{n:04}{long}@a.example/{long}"))
    assert book.of("b.example") == 10
    assert book.of("flood.example") == 990 // 16
    for n in range(1_000):
        book.note(presence(f"{n:04}{long}@flood.example/{long}", f"{n:04}{long}@a.example/{long}", "unavailable"))
    assert len(book) == 10
    for n in range(1_000):
        book.note(presence(f"u{n}@c.example/x", "r@a.example"))
    assert (book.of("b.example"), book.of("c.example")) == (10, 990)
    list(book.lost("c.example"))
    assert (len(book), book._count, book._weights) == (10, 10, {"b.example": 10})


class Book:
    """What `RemotePresence` does, written down plainly."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pairs: dict[str, list[tuple[str, str]]] = {}

    def note(self, stanza: Stanza) -> None:
        assert stanza.sender is not None and stanza.to is not None
        pairs = self.pairs.setdefault(stanza.sender.domain, [])
        key = (str(stanza.sender), str(stanza.to))
        if stanza.type == "unavailable":
            if key in pairs:
                pairs.remove(key)
        elif key not in pairs:
            pairs.append(key)

    @property
    def size(self) -> int:
        return sum(map(len, self.pairs.values()))


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("bcd"), st.sampled_from(["", "", "", "unavailable", "lost"])),
        max_size=80,
    ),
    st.integers(1, 8),
)
def test_the_counts_are_always_right(steps: list[tuple[int, str, str]], limit: int) -> None:
    book, plain = RemotePresence(limit), Book(limit)
    for user, domain, kind in steps:
        if kind == "lost":
            book.lost(f"{domain}.example")
            plain.pairs.pop(f"{domain}.example", None)
        else:
            stanza = presence(f"u{user}@{domain}.example/x", "r@a.example", kind)
            before = {name: book.of(name) for name in ("b.example", "c.example", "d.example")}
            known = book.of(f"{domain}.example")
            book.note(stanza)
            plain.note(stanza)
            if plain.size > limit:
                after = {name: book.of(name) for name in before}
                # the one that made room is one of those that had most, with the new pair counted
                [gone] = [name for name in plain.pairs if len(plain.pairs[name]) > after.get(name, 0)]
                assert len(plain.pairs[gone]) == max(map(len, plain.pairs.values()))
                assert known <= after[f"{domain}.example"] + 1
                plain.pairs[gone].pop(0)
        assert len(book) == plain.size <= limit
        for name in ("b.example", "c.example", "d.example"):
            assert book.of(name) == len(plain.pairs.get(name, ()))


async def test_of_many_goodbyes_some_go_out_in_each_turn_of_the_loop(world: World) -> None:
    """A large server is gone; whoever is back before its turn has come stays online."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    book = RemotePresence(1_000)
    for n in range(120):
        book.note(presence(f"u{n}@b.example/x", "romeo@example.org/orchard"))
    sign_off(world.kernel, book, "b.example", "gone")
    book.note(presence("u100@b.example/x", "romeo@example.org/orchard"))
    await world.settle()
    assert [el.get("from") for el in romeo.inbox] == [f"u{n}@b.example/x" for n in range(50)]
    await world.pass_time(0.1)
    assert [el.get("from") for el in romeo.inbox] == [f"u{n}@b.example/x" for n in range(120) if n != 100]
