"""The smaller values: options, events on the wire, summaries, digests, bookmarks in two forms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.modules.pubsub.bookmarks import same, to_legacy, to_native
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.digests import MESSAGE_BYTES, joined
from beamish.modules.pubsub.model import Item, Node, Subscription
from beamish.modules.pubsub.names import EVENT, State
from beamish.modules.pubsub.options import SHOW_VALUES, Options
from beamish.modules.pubsub.personal import INTERESTS, interests
from beamish.modules.pubsub.summary import MOST, summary
from beamish.modules.pubsub.wire import event, item, items, payload, retractions
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import from_bytes


@given(
    st.builds(
        Options,
        deliver=st.booleans(),
        digest=st.booleans(),
        frequency=st.integers(1000, 10**8),
        expire=st.none() | st.just("presence") | st.floats(0, 1e10),
        include_body=st.booleans(),
        show_values=st.lists(st.sampled_from(SHOW_VALUES), unique=True).map(tuple),
        type=st.sampled_from(("items", "nodes")),
        depth=st.sampled_from(("1", "all")),
    )
)
def test_options_survive_storage(options: Options) -> None:
    assert Options.from_json(options.to_json()) == options


def test_options_of_another_version() -> None:
    assert Options.from_json('{"digest": true, "future": 1}') == Options(digest=True)


@pytest.mark.parametrize(
    ("options", "shows", "wanted"),
    [
        (Options(), None, True),
        (Options(), [], True),
        (Options(deliver=False), ["online"], False),
        (Options(show_values=("chat",)), None, False),
        (Options(show_values=("chat",)), ["away"], False),
        (Options(show_values=("chat",)), ["away", "chat"], True),
        (Options(show_values=()), ["online"], False),
    ],
)
def test_who_is_reached(options: Options, shows: list[str] | None, wanted: bool) -> None:
    assert options.wants(shows) is wanted


def test_payload_loses_only_what_it_does_not_use() -> None:
    outer = from_bytes(
        b"<a xmlns='jabber:client' xmlns:u='urn:used' xmlns:v='urn:value' xmlns:n='urn:unused'>"
        b"<b xmlns='urn:b' t='v:name'><u:c/></b></a>"
    )
    got = payload(outer[0])
    assert b"unused" not in got
    assert b"urn:used" in got and b"urn:value" in got
    assert from_bytes(got)[0].tag == "{urn:used}c"


def test_events_on_the_wire() -> None:
    one = Item("i'<", b"<x xmlns='urn:x'/>", JID.parse("a@example.org"), 0.0)
    assert item(one) == b"<item id='i&apos;&lt;'><x xmlns='urn:x'/></item>"
    assert item(one, payload=False, publisher="a@b") == b"<item id='i&apos;&lt;' publisher='a@b'/>"
    assert items("n", []) == b"<items node='n'/>"
    assert event(items("n", [retractions(["a"])])).startswith(b"<event xmlns=")


ATOM = "http://www.w3.org/2005/Atom"


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (f"<entry xmlns='{ATOM}'><title>T</title><content>C <b>bold</b></content></entry>", "T\nC bold"),
        (f"<entry xmlns='{ATOM}'><id>x</id></entry>", ""),
        (
            "<tune xmlns='http://jabber.org/protocol/tune'><artist>Yes</artist><title>Roundabout</title></tune>",
            "Yes\nRoundabout",
        ),
        ("<mood xmlns='http://jabber.org/protocol/mood'><in_love/></mood>", "in love"),
        ("<mood xmlns='http://jabber.org/protocol/mood'><sad/><text>oh</text></mood>", "oh"),
        ("<nick xmlns='http://jabber.org/protocol/nick'>Ishmael</nick>", "Ishmael"),
        ("<mood xmlns='http://jabber.org/protocol/mood'/>", ""),
        ("<x xmlns='urn:x'>text</x>", ""),
        (f"<nick xmlns='http://jabber.org/protocol/nick'>{'x' * 5000}</nick>", "x" * MOST),
        ("", ""),
        ("<broken", ""),
    ],
)
def test_summaries(xml: str, expected: str) -> None:
    assert summary(xml.encode()) == expected


def test_digests_join_neighbours_and_stay_small() -> None:
    def one(id_: str, size: int = 1) -> bytes:
        it = Item(id_, f"<x xmlns='urn:x'>{'y' * size}</x>".encode(), JID.parse("a@example.org"), 0.0)
        return event(items("n", [item(it)]))

    purge = event("<purge node='n'/>")
    got = [from_bytes(data) for data in joined([one("a"), one("b"), purge, one("c")])]
    assert [[str(el.tag).rpartition("}")[2] for el in e] for e in got] == [["items"], ["purge"], ["items"]]
    assert [i.get("id") for i in got[0].iter(f"{{{EVENT}}}item")] == ["a", "b"]
    large = list(joined([one(str(n), MESSAGE_BYTES // 2) for n in range(4)]))
    assert len(large) == 4
    assert list(joined([])) == []


def test_interests_are_bounded() -> None:
    assert interests(None) == frozenset()
    assert interests({"a+notify", "b", "c+notify"}) == {"a", "c"}
    assert len(interests(f"n{n}+notify" for n in range(5000))) == INTERESTS


NATIVE = {
    "a@rooms.example": b"<conference xmlns='urn:xmpp:bookmarks:1' name='A' autojoin='true'><nick>N</nick>"
    b"<extensions><x xmlns='urn:x'/></extensions></conference>",
    "b@rooms.example": b"<conference xmlns='urn:xmpp:bookmarks:1'/>",
}


def test_bookmarks_survive_both_ways() -> None:
    url = b"<storage xmlns='storage:bookmarks'><url name='U' url='http://example.org/'/></storage>"
    legacy = to_legacy(NATIVE, url)
    el = from_bytes(legacy)
    rooms = [(c.get("jid"), c.get("name"), c.get("autojoin")) for c in el.findall("{storage:bookmarks}conference")]
    assert rooms == [("a@rooms.example", "A", "true"), ("b@rooms.example", None, None)]
    assert el.findtext("{storage:bookmarks}conference/{storage:bookmarks}nick") == "N"
    assert el.find("{storage:bookmarks}url") is not None
    back = to_native(legacy, NATIVE)
    assert all(same(back[id_], NATIVE[id_]) for id_ in NATIVE)
    assert same(to_legacy(back, legacy), legacy)


def test_bookmarks_without_a_room_are_left_out() -> None:
    broken = b"<storage xmlns='storage:bookmarks'><conference/><conference jid='a@b@c'/></storage>"
    assert to_native(broken, {}) == {}
    assert to_native(b"not xml", {}) == {}
    assert to_legacy({"x": b"<other xmlns='urn:x'/>"}, None) == b'<storage xmlns="storage:bookmarks"/>'


class _Unsearched(dict[str, Subscription]):
    """A dictionary that nobody walks through."""

    def __iter__(self) -> Any:
        raise AssertionError("all subscriptions are looked at for one")

    keys = values = items = __iter__  # type: ignore[assignment]


def test_nobody_is_searched_among_all_subscribers() -> None:
    node = Node(1, "n", JID.parse("a@b"), 0.0, NodeConfig(), subscriptions=_Unsearched())
    mine = [Subscription(JID.parse(f"c@d{r}"), f"s{r}", State.SUBSCRIBED) for r in ("", "/1", "/2")]
    others = [Subscription(JID.parse(f"c{n}@d"), str(n), State.SUBSCRIBED) for n in range(50)]
    for s in (*mine, *others):
        node.enter(s)
    assert node.of(JID.parse("c@d/1")) == mine[1:2]
    assert node.of_entity(JID.parse("c@d")) == mine
    assert node.is_subscriber(JID.parse("c7@d"), 0.0)
    node.leave(mine[1])
    node.leave(mine[1])
    assert node.of_entity(JID.parse("c@d")) == [mine[0], mine[2]]
    for s in (mine[0], mine[2]):
        node.leave(s)
    assert JID.parse("c@d") not in node.entities
    assert len(node.subscriptions) == len(others)
