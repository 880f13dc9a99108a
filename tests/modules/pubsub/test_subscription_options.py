"""XEP-0060 §6.3 and §12: what each subscription option does, by the clock and by presence."""

from __future__ import annotations

import pytest

from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

from .kit import OWNER, PATIENT, PUBSUB, SERVICE, Stage, form, note

OPTIONS = f"{PUBSUB}#subscribe_options"


async def cast(stage: Stage, config: dict[str, str] | None = None, **options: str) -> tuple[Client, Client]:
    """Romeo, who owns the node `musings`, and Juliet, who is subscribed with these options."""
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings", **(config or {}))
    await stage.subscribe(juliet, "musings", **options)
    return romeo, juliet


async def options(stage: Stage, who: Client, **fields: str) -> None:
    inner = f"<options node='musings' jid='{who.jid.bare}'>{form(OPTIONS, fields)}</options>"
    await stage.set(who, inner)


async def test_deliver_off_and_on(stage: Stage) -> None:
    romeo, juliet = await cast(stage, deliver="0")
    await stage.publish(romeo, "musings", "a")
    assert await stage.ids(juliet) == []
    await options(stage, juliet, deliver="1")
    await stage.publish(romeo, "musings", "b")
    assert await stage.ids(juliet) == ["b"]


async def test_digest_collects_and_comes_in_time(stage: Stage) -> None:
    romeo, juliet = await cast(stage, digest="1", digest_frequency="60000")
    for id_ in ("a", "b"):
        await stage.publish(romeo, "musings", id_)
        await stage.world.pass_time(20)
    await stage.set(romeo, "<retract node='musings' notify='1'><item id='a'/></retract>")
    await stage.world.settle()
    assert not juliet.inbox
    await stage.world.pass_time(20)
    got = await juliet.expect(
        note("<items node='musings'><item id='a'/><item id='b'/><retract id='a'/></items>", to="juliet@example.org")
    )
    assert got.findtext(".//{urn:test}entry") == "x"
    await stage.world.pass_time(600)
    assert not juliet.inbox
    await stage.publish(romeo, "musings", "c")
    await stage.world.pass_time(61)
    assert await stage.ids(juliet) == ["c"]


async def test_digest_of_other_events_keeps_the_order(stage: Stage) -> None:
    romeo, juliet = await cast(stage, digest="1", digest_frequency="60000")
    await stage.publish(romeo, "musings", "a")
    await stage.set(romeo, "<purge node='musings'/>", ns=OWNER)
    await stage.publish(romeo, "musings", "b")
    await stage.world.pass_time(61)
    for inner in ("<items node='musings'><item id='a'/></items>", "<purge node='musings'/>", "<items node='musings'/>"):
        await juliet.expect(note(inner))


async def test_digest_survives_a_restart() -> None:
    db = MemoryDatabase()
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage, digest="1", digest_frequency="60000")
        await stage.publish(romeo, "musings", "a")
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        juliet = await stage.login("juliet@example.org/balcony")
        assert await stage.ids(juliet) == []  # who collects gets no last item on presence either
        await world.pass_time(61)
        assert await stage.ids(juliet) == ["a"]
        assert await db.fetch("SELECT * FROM pubsub_digest") == []
    await db.close()


async def test_digest_turned_off_is_sent_at_once(stage: Stage) -> None:
    romeo, juliet = await cast(stage, digest="1")
    await stage.publish(romeo, "musings", "a")
    await options(stage, juliet, digest="0")
    assert await stage.ids(juliet) == ["a"]
    await stage.publish(romeo, "musings", "b")
    assert await stage.ids(juliet) == ["b"]


async def test_digest_of_an_ended_subscription_is_dropped(stage: Stage) -> None:
    romeo, juliet = await cast(stage, digest="1", digest_frequency="60000")
    await stage.publish(romeo, "musings", "a")
    await stage.set(juliet, f"<unsubscribe node='musings' jid='{juliet.jid.bare}'/>")
    await stage.world.pass_time(61)
    assert await stage.ids(juliet) == []
    assert await stage.world.db.fetch("SELECT * FROM pubsub_digest") == []


async def test_digest_waits_for_the_right_presence(stage: Stage) -> None:
    romeo, juliet = await cast(stage, digest="1", digest_frequency="60000", show_values="online")
    await stage.publish(romeo, "musings", "a")
    juliet.send("<presence><show>dnd</show></presence>")
    await stage.world.pass_time(61)
    assert await stage.ids(juliet) == []
    juliet.send("<presence/>")
    await stage.world.pass_time(61)
    assert await stage.ids(juliet) == ["a"]


async def test_lease_ends(stage: Stage) -> None:
    romeo, juliet = await cast(stage, expire="2023-11-14T23:00:00Z")
    got = await stage.get(juliet, "<subscriptions/>")
    assert got.find(f".//{{{PUBSUB}}}subscription").get("expiry") == "2023-11-14T23:00:00.000Z"  # type: ignore[union-attr]
    await stage.publish(romeo, "musings", "a")
    assert await stage.ids(juliet) == ["a"]
    await stage.world.pass_time(2799)
    await juliet.expect(note("<subscription node='musings' expiry='*' subscription='subscribed'/>"))
    await stage.world.pass_time(5)
    await stage.publish(romeo, "musings", "b")
    assert await stage.ids(juliet) == []
    got = await stage.get(juliet, "<subscriptions/>")
    assert got.find(f".//{{{PUBSUB}}}subscription") is None
    await stage.world.pass_time(600)
    await juliet.expect(note("<subscription node='musings' jid='juliet@example.org' subscription='none'/>"))
    assert await stage.world.db.fetch("SELECT * FROM pubsub_subscription") == []


async def test_examples_221_222_223_lease_is_warned_of_and_renewed(stage: Stage) -> None:
    romeo, juliet = await cast(stage, expire="2023-11-16T22:00:00Z")
    await stage.world.pass_time(25 * 3600)
    await juliet.expect(
        note(
            "<subscription node='musings' jid='juliet@example.org' subscription='subscribed' "
            "expiry='2023-11-16T22:00:00.000Z'/>"
        )
    )
    await options(stage, juliet, expire="2023-11-18T22:00:00Z")
    await stage.world.pass_time(23 * 3600)
    await stage.publish(romeo, "musings", "a")
    assert await stage.ids(juliet) == ["a"]


async def test_lease_is_cut_to_the_longest() -> None:
    settings = {**PATIENT, "modules": {"pubsub": {"max_lease": 1.0}}}
    async with World(settings=settings) as world:
        stage = Stage(world)
        _, juliet = await cast(stage, expire="2030-01-01T00:00:00Z")
        got = await stage.get(juliet, "<subscriptions/>")
        assert got.find(f".//{{{PUBSUB}}}subscription").get("expiry") == "2023-11-15T22:13:20.000Z"  # type: ignore[union-attr]


async def test_example_216_temporary_subscription(stage: Stage) -> None:
    romeo, juliet = await cast(stage, expire="presence")
    await stage.publish(romeo, "musings", "a")
    assert await stage.ids(juliet) == ["a"]
    phone = await stage.login("juliet@example.org/phone")
    await stage.subscribe(phone, "musings", str(phone.jid), expire="presence")
    juliet.send("<presence type='unavailable'/>")
    await stage.world.settle()
    await stage.publish(romeo, "musings", "b")
    await stage.quiet(phone)
    phone.send("<presence type='unavailable'/>")
    await stage.world.settle()
    assert await stage.world.db.fetch("SELECT * FROM pubsub_subscription") == []
    assert "b" in await stage.ids(phone)


async def test_example_217_node_with_temporary_subscriptions_only() -> None:
    db = MemoryDatabase()
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        _, juliet = await cast(stage, {"tempsub": "1"})
        got = await stage.get(juliet, f"<options node='musings' jid='{juliet.jid.bare}'/>")
        assert got.findtext(".//{jabber:x:data}field[@var='pubsub#expire']/{jabber:x:data}value") == "presence"
    async with World(database=db, settings=PATIENT) as world:
        assert await world.db.fetch("SELECT * FROM pubsub_subscription") == []
    await db.close()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("<entry xmlns='http://www.w3.org/2005/Atom'><title>T</title><summary>S</summary></entry>", "T\nS"),
        ("<mood xmlns='http://jabber.org/protocol/mood'><happy/></mood>", "happy"),
        ("<unknown xmlns='urn:unknown'>x</unknown>", None),
    ],
)
async def test_include_body(stage: Stage, payload: str, words: str | None) -> None:
    romeo, juliet = await cast(stage, include_body="1")
    mercutio = await stage.login("mercutio@example.org/street")
    await stage.subscribe(mercutio, "musings")
    await stage.set(romeo, f"<publish node='musings'><item>{payload}</item></publish>")
    assert (await juliet.receive()).findtext("{jabber:client}body") == words
    assert (await mercutio.receive()).find("{jabber:client}body") is None


async def test_show_values(stage: Stage) -> None:
    romeo, juliet = await cast(stage, show_values="online,chat")
    for show, told in (("", True), ("away", False), ("chat", True), ("dnd", False), ("xa", False)):
        juliet.send(f"<presence>{f'<show>{show}</show>' if show else ''}</presence>")
        await stage.quiet(juliet)
        juliet.inbox.clear()
        await stage.publish(romeo, "musings", f"i-{show}")
        assert await stage.ids(juliet) == [f"i-{show}"] * told
    juliet.send("<presence type='unavailable'/>")
    await stage.publish(romeo, "musings", "offline")
    assert await stage.ids(juliet) == []


async def test_presence_based_delivery(stage: Stage) -> None:
    romeo, juliet = await cast(stage, {"presence_based_delivery": "1", "notification_type": "normal"})
    await stage.publish(romeo, "musings", "a")
    assert await stage.ids(juliet) == ["a"]
    juliet.send("<presence type='unavailable'/>")
    await stage.quiet(juliet)
    await stage.publish(romeo, "musings", "b")
    juliet.inbox.clear()
    juliet.send("<presence/>")
    await stage.quiet(juliet)
    found = [el for el in juliet.inbox if el.tag == "{jabber:client}message"]
    assert len(found) == 1  # the last item because of the presence, nothing that was stored
    assert not mismatch(note("<items node='musings'><item id='b'/></items>"), found[0])


async def test_subscriptions_to_new_nodes_get_no_items(stage: Stage) -> None:
    romeo, juliet = await cast(stage, subscription_type="nodes", subscription_depth="all")
    await stage.publish(romeo, "musings", "a")
    assert await stage.ids(juliet) == []


async def test_options_survive_a_restart() -> None:
    db = MemoryDatabase()
    wanted = {"deliver": "1", "show_values": "chat,dnd", "include_body": "1", "digest_frequency": "5000"}
    async with World(database=db, settings=PATIENT) as world:
        await cast(Stage(world), **wanted)
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        juliet = await stage.login("juliet@example.org/balcony")
        got = await stage.get(juliet, f"<options node='musings' jid='{juliet.jid.bare}'/>")
        for name, values in wanted.items():
            var = f"pubsub#{name.replace('show_values', 'show-values')}"
            found = [v.text for v in got.iterfind(f".//{{jabber:x:data}}field[@var='{var}']/{{jabber:x:data}}value")]
            assert found == values.split(",")
    await db.close()


async def test_subscribers_elsewhere_share_their_presence(stage: Stage) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    await stage.create(romeo, "musings")
    sent: list[Stanza] = []
    stage.kernel.router.add_service("far.example", lambda ctx: sent.append(ctx.stanza))
    far = JID.parse("tybalt@far.example/sword")
    service = JID.parse(SERVICE)

    async def arrives(name: str, type: str = "", content: bytes = b"") -> None:
        stage.kernel.router.post(Stanza.build(name, type, id="q", sender=far, to=service, content=content))
        await stage.world.settle()

    options = form(OPTIONS, {"show_values": "online"}).encode()
    subscribe = (
        f"<pubsub xmlns='{PUBSUB}'><subscribe node='musings' jid='tybalt@far.example'/><options>".encode()
        + options
        + b"</options></pubsub>"
    )
    await arrives("iq", "set", subscribe)
    asked, answer = sorted(sent, key=lambda s: s.name, reverse=True)
    assert (asked.name, asked.type, asked.to) == ("presence", "subscribe", far.bare)
    assert (answer.name, answer.type) == ("iq", "result")
    sent.clear()
    await stage.publish(romeo, "musings", "a")
    assert sent == []
    await arrives("presence")
    assert [s.to for s in sent] == [far]  # the last item
    await stage.publish(romeo, "musings", "b")
    assert [s.to for s in sent] == [far, far.bare]
    await arrives("presence", "", b"<show>away</show>")
    await stage.publish(romeo, "musings", "c")
    assert len(sent) == 2
    await arrives("presence", "unavailable")
    sent.clear()
    await arrives("presence", "subscribe")
    assert [(s.name, s.type) for s in sent] == [("presence", "subscribed"), ("presence", "")]


async def test_subscribers_that_are_gone_lose_their_subscription(stage: Stage) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    await stage.create(romeo, "musings")
    sent: list[Stanza] = []
    stage.kernel.router.add_service("far.example", lambda ctx: sent.append(ctx.stanza))
    far, service = JID.parse("tybalt@far.example"), JID.parse(SERVICE)
    subscribe = f"<pubsub xmlns='{PUBSUB}'><subscribe node='musings' jid='tybalt@far.example'/></pubsub>".encode()
    stage.kernel.router.post(Stanza.build("iq", "set", id="q", sender=far, to=service, content=subscribe))
    await stage.world.settle()

    async def bounce(condition: str) -> None:
        sent.clear()
        await stage.publish(romeo, "musings")
        error = f"<error type='cancel'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>".encode()
        back = Stanza.build("message", "error", id=sent[0].id, sender=far, to=service, content=error)
        stage.kernel.router.post(back)
        await stage.world.settle()

    for _ in range(3):
        await bounce("remote-server-timeout")
    await bounce("item-not-found")
    sent.clear()
    await stage.publish(romeo, "musings")
    assert sent == []
