"""What is promised about publications: nothing is said before the commit, nothing is said of what was not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from beamish.storage.api import StorageBusy
from beamish.testing.plugin import ExpectedErrors

from .kit import EVENT, OWNER, PUBSUB, SERVICE, Stage, form

PUBLISH = (
    f"<iq type='set' id='p%d' to='{SERVICE}'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='musings'>"
    "<item id='i%d'><entry xmlns='urn:test'>x</entry></item></publish></pubsub></iq>"
)


async def test_result_and_notification_wait_for_the_commit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings")
    await stage.subscribe(juliet, "musings")
    held: list[tuple[int, Callable[[], None]]] = []
    db: Any = stage.kernel.db
    real = db.when_durable
    monkeypatch.setattr(db, "when_durable", lambda position, then: held.append((position, then)))
    romeo.send(PUBLISH % (1, 1) + PUBLISH % (2, 2))
    await stage.world.settle()
    assert not juliet.inbox
    assert not [el for el in romeo.inbox if el.tag == "{jabber:client}iq"]
    assert len(held) == 2  # the first one did not keep the second one waiting
    monkeypatch.undo()
    for position, then in held:
        real(position, then)
    await romeo.expect("<iq type='result' id='p1'/>")
    await romeo.expect("<iq type='result' id='p2'/>")
    assert await stage.ids(juliet) == ["i1", "i2"]


async def test_what_is_asked_behind_a_publication_sees_it(stage: Stage) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    await stage.create(romeo, "musings")
    items = (
        f"<iq type='get' id='g' to='{SERVICE}'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
        "<items node='musings'/></pubsub></iq>"
    )
    romeo.send(PUBLISH % (1, 1) + PUBLISH % (2, 2) + items)
    answers = {el.get("id"): el for el in [await romeo.receive() for _ in range(3)]}
    assert set(answers) == {"p1", "p2", "g"}
    found = [el.get("id") for el in answers["g"].iter("{http://jabber.org/protocol/pubsub}item")]
    assert found == ["i1", "i2"]


@pytest.mark.parametrize("how", ["purge", "retract", "configure"])
async def test_what_goes_behind_a_publication_stays_gone(stages: Stage, how: str) -> None:
    """A publication that was not committed yet does not come back as the last item of a node that was emptied."""
    romeo = await stages.login("romeo@example.org/orchard")
    juliet = await stages.login("juliet@example.org/balcony")
    await stages.create(romeo, "musings")
    transient = form(f"{PUBSUB}#node_config", {"persist_items": "0"})
    inner, namespace = {
        "purge": ("<purge node='musings'/>", OWNER),
        "retract": ("<retract node='musings'><item id='i1'/><item id='i1'/></retract>", PUBSUB),
        "configure": (f"<configure node='musings'>{transient}</configure>", OWNER),
    }[how]
    romeo.send(
        PUBLISH % (1, 1) + f"<iq type='set' id='g' to='{SERVICE}'><pubsub xmlns='{namespace}'>{inner}</pubsub></iq>"
    )
    assert {(await romeo.receive()).get("type") for _ in range(2)} == {"result"}
    if how == "configure":
        again = form(f"{PUBSUB}#node_config", {"persist_items": "1"})
        await stages.set(romeo, f"<configure node='musings'>{again}</configure>", ns=OWNER)
    await stages.subscribe(juliet, "musings")
    assert await stages.ids(juliet) == []


async def test_what_cannot_be_stored_is_refused_and_not_announced(
    stage: Stage, expected_errors: ExpectedErrors
) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings")
    await stage.subscribe(juliet, "musings")
    await stage.world.db.write("test", lambda c: c.run("ALTER TABLE pubsub_item RENAME TO away"))
    expected_errors.add("publication_not_stored")
    await romeo.iq(PUBLISH % (1, 1), type="error")
    await stage.world.settle()
    assert not juliet.inbox
    await stage.world.db.write("test", lambda c: c.run("ALTER TABLE away RENAME TO pubsub_item"))
    await romeo.iq(PUBLISH % (2, 2))
    assert await stage.ids(juliet) == ["i2"]
    assert await stage.items(juliet, "musings") == ["i2"]


async def test_an_overloaded_database_is_said_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    await stage.create(romeo, "musings")

    def busy(*_: object) -> int:
        raise StorageBusy("full")

    monkeypatch.setattr(stage.kernel.db, "submit", busy)
    got = await romeo.iq(PUBLISH % (1, 1), type="error")
    assert got.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}resource-constraint") is not None
    monkeypatch.undo()
    await romeo.iq(PUBLISH % (2, 2))
    assert EVENT not in {el.tag for el in romeo.inbox}


async def test_limits_count_what_is_on_its_way(stage: Stage) -> None:
    """Publications in one burst cannot get past the room that there is."""
    from beamish.testing.world import World

    async with World(settings={"modules": {"pubsub": {"max_stored": 1100}}}) as world:
        burst = Stage(world)
        romeo = await burst.login("romeo@example.org/orchard")
        await burst.create(romeo, "musings")
        big = PUBLISH.replace(">x<", ">" + "x" * 400 + "<")
        romeo.send("".join(big % (n, n) for n in range(5)))
        types = [(await romeo.receive()).get("type") for _ in range(5)]
        assert sorted(map(str, types)) == ["error"] * 3 + ["result"] * 2
        (stored,) = (await world.db.fetch("SELECT sum(length(payload)) FROM pubsub_item"))[0]
        assert stored <= 1100
