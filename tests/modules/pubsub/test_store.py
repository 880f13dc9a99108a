"""Items in the database: order, trimming, paging, and that a restart changes nothing."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamish.modules.pubsub import store
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Host, Item, Node, Subscription
from beamish.modules.pubsub.names import Affiliation, State
from beamish.modules.pubsub.options import Options
from beamish.storage.api import Cursor
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.rsm import Request

ROMEO = JID.parse("romeo@example.org")
JULIET = JID.parse("juliet@example.org")
EVER = float("-inf")


def item(id_: str, size: int = 1, publisher: JID = ROMEO, at: float = 1.0) -> Item:
    return Item(id_, b"x" * size, publisher, at)


async def database() -> MemoryDatabase:
    db = MemoryDatabase()
    await migrate(db, "pubsub", store.MIGRATIONS)
    return db


async def node(db: MemoryDatabase, name: str = "n") -> Node:
    made = Node(0, name, ROMEO, 1.0, NodeConfig(), {ROMEO: Affiliation.OWNER})
    made.id = await db.write("t", lambda c: store.create_node(c, "h", made))
    return made


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from("abcdefg"), st.integers(1, 9)),
        st.tuples(st.just("retract"), st.sampled_from("abcdefg"), st.just(0)),
        st.tuples(st.just("trim"), st.just(""), st.integers(1, 5)),
        st.tuples(st.just("restart"), st.just(""), st.just(0)),
        st.tuples(st.just("purge"), st.just(""), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, keep=st.integers(1, 5))
async def test_publish_retract_trim_restart(steps: list[tuple[str, str, int]], keep: int) -> None:
    """The database says what a dictionary in the order of publication says, whatever happens."""
    db = await database()
    made = await node(db)
    model: OrderedDict[str, int] = OrderedDict()
    stored = 0
    for what, id_, number in steps:
        if what == "publish":
            model.pop(id_, None)
            model[id_] = number
            expected = [model.popitem(last=False)[0] for _ in range(len(model) - keep)]
            gone, grown = await db.write(
                "t", lambda c, id_=id_, n=number, keep=keep: store.put_items(c, made.id, [item(id_, n)], keep)
            )
            assert gone == expected
            stored += grown
        elif what == "retract":
            try:
                stored -= await db.write("t", lambda c, id_=id_: store.retract(c, made.id, [id_], None))
                del model[id_]
            except StanzaError:
                assert id_ not in model
        elif what == "trim":
            keep = number
            expected = [model.popitem(last=False)[0] for _ in range(len(model) - keep)]
            gone, shrunk = await db.write("t", lambda c, keep=keep: store.trim(c, made.id, keep))
            assert gone == expected
            stored -= shrunk
        elif what == "purge":
            stored -= await db.write("t", lambda c: store.purge(c, made.id))
            model.clear()
        else:
            host = Host(JID.parse("h"), account=False)
            await db.read("t", lambda c, host=host: store.load(c, host))
            assert host.stored == stored
            assert list(host.nodes) == ["n"]
    found, cut = await db.read("t", lambda c: store.latest(c, made.id, 100, EVER, 10**6))
    assert [(i.id, len(i.payload)) for i in found] == list(model.items())
    assert not cut
    assert stored == sum(model.values())
    last = await db.read("t", lambda c: store.last_item(c, made.id))
    assert (last.id if last else None) == (next(reversed(model)) if model else None)
    await db.close()


@settings(max_examples=40, deadline=None)
@given(total=st.integers(0, 12), size=st.integers(1, 5), backwards=st.booleans())
async def test_pages_meet_every_item_once(total: int, size: int, backwards: bool) -> None:
    db = await database()
    made = await node(db)
    ids = [f"i{n}" for n in range(total)]
    await db.write("t", lambda c: store.put_items(c, made.id, [item(id_) for id_ in ids], 100))
    request = Request(size, before="" if backwards else None)
    seen: list[str] = []
    while True:
        found, told = await db.read("t", lambda c, r=request: store.page(c, made.id, r, 100, EVER, 10**6))
        got = [i.id for i in found]
        assert told.count == total
        seen = got + seen if backwards else seen + got
        if not got:
            break
        assert told.index == ids.index(got[0])
        request = Request(size, before=told.first) if backwards else Request(size, after=told.last)
    assert seen == ids
    await db.close()


async def test_rejected_items_leave_everything_as_it_was() -> None:
    db = await database()
    made = await node(db)
    await db.write("t", lambda c: store.put_items(c, made.id, [item("a"), item("b")], 2, reject=True))
    with pytest.raises(store.NodeFull):
        await db.write("t", lambda c: store.put_items(c, made.id, [item("c")], 2, reject=True))
    await db.write("t", lambda c: store.put_items(c, made.id, [item("a", 5)], 2, reject=True))
    assert await db.read("t", lambda c: store.ids(c, made.id, EVER, 9)) == ["b", "a"]
    await db.close()


async def test_retraction_is_all_or_nothing_and_of_ones_own() -> None:
    db = await database()
    made = await node(db)
    await db.write("t", lambda c: store.put_items(c, made.id, [item("a"), item("b", publisher=JULIET)], 9))
    with pytest.raises(StanzaError):
        await db.write("t", lambda c: store.retract(c, made.id, ["a", "none"], None))
    with pytest.raises(store.NotOwnItem):
        await db.write("t", lambda c: store.retract(c, made.id, ["b", "a"], JULIET))
    assert await db.read("t", lambda c: store.ids(c, made.id, EVER, 9)) == ["a", "b"]
    assert await db.read("t", lambda c: store.published_by(c, made.id, JULIET)) == ["b"]
    await db.close()


async def test_answers_are_bounded_in_bytes_but_hold_one_item() -> None:
    db = await database()
    made = await node(db)
    await db.write("t", lambda c: store.put_items(c, made.id, [item(id_, 100) for id_ in "abc"], 9))

    def ids(found: tuple[list[Item], Any]) -> list[str]:
        return [i.id for i in found[0]]

    assert ids(await db.read("t", lambda c: store.latest(c, made.id, 9, EVER, 250))) == ["b", "c"]
    assert ids(await db.read("t", lambda c: store.latest(c, made.id, 9, EVER, 1))) == ["c"]
    assert ids(await db.read("t", lambda c: store.page(c, made.id, Request(), 9, EVER, 250))) == ["a", "b"]
    assert ids(await db.read("t", lambda c: store.page(c, made.id, Request(before=""), 9, EVER, 1))) == ["c"]
    await db.close()


async def test_everything_of_a_node_survives_on_disk(tmp_path: Path) -> None:
    from beamish.storage.sqlite import SqliteDatabase

    path = tmp_path / "test.db"
    made = Node(0, "n", ROMEO, 5.0, NodeConfig(title="T", max_items="max", roster_groups_allowed=("a", "b")))
    made.affiliations = {ROMEO: Affiliation.OWNER, JULIET: Affiliation.PUBLISH_ONLY}
    full = JID.parse("juliet@example.org/balcony")
    options = Options(digest=True, frequency=5000, expire=9.5, show_values=("chat",), include_body=True)

    def fill(c: Cursor) -> None:
        made.id = store.create_node(c, "h", made)
        store.set_subscription(c, made.id, "s1", full, State.SUBSCRIBED, options)
        store.set_subscription(c, made.id, "s2", JULIET, State.PENDING, Options())
        store.set_subscription(c, made.id, "s3", JULIET, State.PENDING, Options())
        store.set_subscription(c, made.id, "s3", JULIET, State.NONE, Options())
        store.put_items(c, made.id, [item("a", 7)], 9)
        store.collect(c, ["s1"], 3.0, b"<event/>")

    db = await SqliteDatabase.open(path)
    await migrate(db, "pubsub", store.MIGRATIONS)
    await db.write("t", fill)
    await db.close()
    db = await SqliteDatabase.open(path)
    host = Host(JID.parse("h"), account=False)
    await db.read("t", lambda c: store.load(c, host))
    found = host.nodes["n"]
    assert (found.id, found.creator, found.created, found.config) == (made.id, ROMEO, 5.0, made.config)
    assert found.affiliations == made.affiliations
    assert {s.subid: (s.jid, s.state, s.options) for s in found.subscriptions.values()} == {
        "s1": (full, State.SUBSCRIBED, options),
        "s2": (JULIET, State.PENDING, Options()),
    }
    assert host.stored == 7
    assert await db.read("t", store.waiting_digests) == [("h", "s1", 3.0)]
    await db.write("t", lambda c: store.delete_node(c, "h", "n", made.id, "xmpp:elsewhere", 10))
    fresh = Host(JID.parse("h"), account=False)
    await db.read("t", lambda c: store.load(c, fresh))
    assert (fresh.nodes, fresh.moved, fresh.stored) == ({}, {"n": "xmpp:elsewhere"}, 0)
    assert await db.read("t", store.waiting_digests) == []
    await db.close()


async def test_digests_are_bounded() -> None:
    db = await database()
    made = await node(db)
    sub = Subscription(JULIET, "s", State.SUBSCRIBED)
    await db.write("t", lambda c: store.set_subscription(c, made.id, "s", sub.jid, sub.state, sub.options))

    def many(c: Cursor) -> None:
        for number in range(store.DIGEST_EVENTS + 5):
            store.collect(c, ["s"], float(number), str(number).encode())

    await db.write("t", many)
    events, upto = await db.write("t", lambda c: store.digest(c, "s"))
    assert (events[0], len(events)) == (b"5", store.DIGEST_EVENTS)
    await db.write("t", lambda c: store.drop_digest(c, "s", upto))
    assert await db.write("t", lambda c: store.digest(c, "s")) == ([], 0)
    half = store.DIGEST_BYTES // 2
    for letter, size in ((b"a", half), (b"b", half), (b"c", half), (b"d", 10)):
        await db.write("t", lambda c, e=letter * size: store.collect(c, ["s"], 0.0, e))
    events, _ = await db.write("t", lambda c: store.digest(c, "s"))
    assert [event[:1] for event in events] == [b"c", b"d"]
    await db.write("t", lambda c: store.collect(c, ["s"], 0.0, b"e" * (store.DIGEST_BYTES + 1)))
    events, _ = await db.write("t", lambda c: store.digest(c, "s"))
    assert [event[:1] for event in events] == [b"e"]
    await db.close()


async def test_what_is_due_is_found_by_the_oldest_and_goes_a_few_at_a_time() -> None:
    db = await database()
    made = await node(db)
    assert not await db.read("t", lambda c: store.overdue(c, made.id, 1e9))
    items = [Item(f"i{n}", b"x" * (n + 1), JID.parse("a@b"), float(n)) for n in range(10)]
    await db.write("t", lambda c: store.put_items(c, made.id, items, 100))
    looked: list[int] = []

    class Looking:
        """A cursor that counts the rows it hands out."""

        def __init__(self, c: Cursor) -> None:
            self._c = c
            self.run, self.value = c.run, c.value

        def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
            found = self._c.rows(sql, *params)
            looked.append(len(found))
            return found

    def step(c: Cursor) -> tuple[int, int]:
        return store.expire(Looking(c), made.id, 6.0, 3)  # type: ignore[arg-type]

    assert not await db.read("t", lambda c: store.overdue(c, made.id, -0.5))
    assert await db.read("t", lambda c: store.overdue(c, made.id, 0.0))
    assert [await db.write("t", step) for _ in range(4)] == [(3, 6), (3, 15), (1, 7), (0, 0)]
    assert looked == [3, 3, 3, 3]
    assert await db.read("t", lambda c: store.ids(c, made.id, EVER, 100)) == ["i7", "i8", "i9"]
    await db.close()
