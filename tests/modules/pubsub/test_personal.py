"""XEP-0163 and XEP-0060 §9: nodes of accounts, who is interested in them, and what becomes of them."""

from __future__ import annotations

from beamish.core.services import PepService
from beamish.storage.memory import MemoryDatabase
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID

from .kit import EVENT, OWNER, PATIENT, PUBSUB, Stage, form, note
from .personal import MOOD, OPTIONS, TUNE, cast, publish, titles, tune


async def test_163_examples_001_002_003_publish_and_notify(stages: Stage) -> None:
    juliet, romeo, mercutio = await cast(stages)
    got = await stages.set(juliet, publish("Heroes"), to="")
    assert not mismatch(f"<iq type='result'><pubsub xmlns='{PUBSUB}'><publish node='{TUNE}'/></pubsub></iq>", got)
    for client in (juliet, romeo):
        await client.expect(
            f"""<message from='juliet@example.org' to='{client.jid}' type='headline' id='*'>
            <event xmlns='{EVENT}'><items node='{TUNE}'><item id='current'><tune xmlns='{TUNE}'>
            <title>Heroes</title></tune></item></items></event>
            <addresses xmlns='http://jabber.org/protocol/address'>
            <address type='replyto' jid='juliet@example.org/balcony'/></addresses></message>"""
        )
    assert await titles(stages, mercutio) == []


async def test_163_defaults_of_a_node_that_is_made_by_publishing(stages: Stage) -> None:
    juliet, _, mercutio = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    await stages.set(juliet, tune("Two", id="second"), to="")
    got = await stages.get(juliet, f"<configure node='{TUNE}'/>", to="", ns=OWNER)
    for name, value in (
        ("access_model", "presence"),
        ("send_last_published_item", "on_sub_and_presence"),
        ("deliver_notifications", "1"),
        ("deliver_payloads", "1"),
        ("persist_items", "1"),
        ("max_items", "1"),
    ):
        assert got.findtext(f".//{{jabber:x:data}}field[@var='pubsub#{name}']/{{jabber:x:data}}value") == value
    assert await stages.items(juliet, TUNE, to="juliet@example.org") == ["second"]
    request = f"<items node='{TUNE}'/>"
    conditions = "not-authorized", "presence-subscription-required"
    await stages.refused(mercutio, "get", request, *conditions, to="juliet@example.org", kind="auth")
    await stages.refused(mercutio, "set", publish("Mine"), "forbidden", to="juliet@example.org")
    await stages.refused(mercutio, "set", "<create node='x'/>", "forbidden", to="juliet@example.org")


async def test_163_example_005_own_and_others_discovery(stages: Stage) -> None:
    juliet, romeo, mercutio = await cast(stages)
    info = "http://jabber.org/protocol/disco#info"
    got = await juliet.iq(f"<iq type='get' id='i' to='juliet@example.org'><query xmlns='{info}'/></iq>")
    said = {f.get("var") for f in got.iterfind(f".//{{{info}}}feature")}
    assert got.find(f".//{{{info}}}identity[@category='pubsub'][@type='pep']") is not None
    for name in ("auto-create", "auto-subscribe", "filtered-notifications", "publish-options", "access-presence"):
        assert f"{PUBSUB}#{name}" in said
    await stages.set(juliet, publish("x"), to="")
    await stages.create(juliet, "open-one", to="juliet@example.org", access_model="open")
    await stages.create(juliet, "private", to="juliet@example.org", access_model="whitelist")
    items = "http://jabber.org/protocol/disco#items"
    for client, expected in (
        (juliet, {TUNE, "open-one", "private"}),
        (romeo, {TUNE, "open-one"}),
        (mercutio, {"open-one"}),
    ):
        got = await client.iq(f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{items}'/></iq>")
        nodes = {i.get("node") for i in got.iterfind(f".//{{{items}}}item") if i.get("node")}
        assert nodes == expected
    got = await romeo.iq(f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{items}' node='{TUNE}'/></iq>")
    assert [i.get("name") for i in got.iterfind(f".//{{{items}}}item")] == ["current"]
    got = await romeo.iq(f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{info}' node='{TUNE}'/></iq>")
    assert got.find(f".//{{{info}}}identity[@category='pubsub'][@type='leaf']") is not None


async def test_strangers_may_ask_about_nodes_that_are_open_to_them(stages: Stage) -> None:
    juliet, _, mercutio = await cast(stages)
    await stages.set(juliet, publish("x"), to="")
    await stages.create(juliet, "open-one", to="juliet@example.org", access_model="open")
    info = "http://jabber.org/protocol/disco#info"
    question = f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{info}' node='{{}}'/></iq>"
    got = await mercutio.iq(question.format("open-one"))
    assert got.find(f".//{{{info}}}identity[@category='pubsub'][@type='leaf']") is not None
    for hidden in (TUNE, "nothing"):
        got = await mercutio.iq(question.format(hidden), "error")
        assert got.find(".//{*}service-unavailable") is not None, hidden


async def test_163_only_those_who_are_interested(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    phone = await stages.login("juliet@example.org/phone")
    stages.caps.of(phone.jid, MOOD)
    other = await stages.login("romeo@example.org/tablet")
    await stages.set(juliet, publish("Heroes"), to="")
    assert await titles(stages, romeo, 1) == ["Heroes"]
    assert await titles(stages, phone) == []
    assert await titles(stages, other) == []
    await stages.set(
        juliet, f"<publish node='{MOOD}'><item><mood xmlns='{MOOD}'><happy/></mood></item></publish>", to=""
    )
    await stages.quiet(phone)
    assert [el.find(f".//{{{EVENT}}}items").get("node") for el in phone.inbox] == [MOOD]  # type: ignore[union-attr]
    await stages.quiet(romeo)
    assert not romeo.inbox


async def test_publish_options_make_private_nodes_and_guard_them(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    private = {"persist_items": "true", "access_model": "whitelist", "max_items": "max"}
    await stages.set(juliet, publish("One", **private), to="")
    await stages.set(juliet, publish("Two", **private), to="")
    assert await titles(stages, romeo) == []
    request = publish("Three", access_model="open")
    await stages.refused(juliet, "set", request, "conflict", "precondition-not-met", to="", kind="cancel")
    request = f"<items node='{TUNE}'/>"
    await stages.refused(romeo, "get", request, "not-allowed", "closed-node", to="juliet@example.org")
    request = publish("Bad", nonsense="1").replace(TUNE, "urn:fresh")
    await stages.refused(juliet, "set", request, "bad-request", "precondition-not-met", to="")
    await stages.refused(juliet, "get", "<items node='urn:fresh'/>", "item-not-found", to="")


async def test_the_error_for_a_node_that_does_not_exist_has_its_number(stages: Stage) -> None:
    """Profanity 0.13 makes the list of its devices when it reads that, and never looks at the condition."""
    romeo = await stages.login("romeo@example.org/orchard")
    romeo.send(
        "<iq type='get' id='devices'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
        "<items node='eu.siacs.conversations.axolotl.devicelist'/></pubsub></iq>"
    )
    answer = await romeo.expect("<iq type='error' id='devices'/>")
    [error] = answer.findall("{jabber:client}error")
    assert dict(error.attrib) == {"type": "cancel", "code": "404"}
    assert error[0].tag == "{urn:ietf:params:xml:ns:xmpp-stanzas}item-not-found"


async def test_retraction_and_deletion_reach_those_who_are_interested(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    await stages.quiet(romeo)
    romeo.inbox.clear()
    await stages.set(juliet, f"<retract node='{TUNE}' notify='1'><item id='current'/></retract>", to="")
    await romeo.expect(note(f"<items node='{TUNE}'><retract id='current'/></items>", sender="juliet@example.org"))
    await stages.set(juliet, publish("Two"), to="")
    await romeo.receive()
    await stages.set(juliet, f"<purge node='{TUNE}'/>", to="", ns=OWNER)
    await romeo.expect(note(f"<purge node='{TUNE}'/>"))
    await stages.set(juliet, f"<delete node='{TUNE}'/>", to="", ns=OWNER)
    await romeo.expect(note(f"<delete node='{TUNE}'/>"))


async def test_nodes_survive_a_restart() -> None:
    db = MemoryDatabase()
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        juliet, romeo, mercutio = await cast(stage)
        await stage.set(juliet, publish("One", access_model="open", max_items="5"), to="")
        await stage.set(juliet, tune("Two", id="second"), to="")
        await stage.subscribe(mercutio, TUNE, to="juliet@example.org", include_body="1")
        change = (
            f"<affiliations node='{TUNE}'><affiliation jid='nurse@example.org' affiliation='outcast'/></affiliations>"
        )
        await stage.set(juliet, change, to="", ns=OWNER)
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        stage.caps.of("romeo@example.org/orchard", TUNE)
        romeo = await stage.login("romeo@example.org/orchard")
        assert await titles(stage, romeo) == ["Two"]
        assert await stage.items(romeo, TUNE, to="juliet@example.org") == ["current", "second"]
        mercutio = await stage.login("mercutio@example.org/street")
        juliet = await stage.login("juliet@example.org/balcony")
        await stage.set(juliet, tune("Three", id="third"), to="")
        assert await titles(stage, mercutio) == ["Three"]
        nurse = await stage.login("nurse@example.org/chamber")
        await stage.refused(nurse, "get", f"<items node='{TUNE}'/>", "forbidden", to="juliet@example.org")
    await db.close()


async def test_limits_of_an_account() -> None:
    bounds = {"max_nodes_per_account": 2, "max_stored_per_account": 2048}
    async with World(settings={"modules": {"pubsub": bounds}}) as world:
        stage = Stage(world)
        juliet = await stage.login("juliet@example.org/balcony")
        for node in ("a", "b"):
            await stage.publish(juliet, node, "1", to="juliet@example.org")
        request = "<publish node='c'><item><x xmlns='urn:x'/></item></publish>"
        await stage.refused(juliet, "set", request, "resource-constraint", "max-nodes-exceeded", to="")
        request = f"<publish node='a'><item><x xmlns='urn:x'>{'x' * 2000}</x></item></publish>"
        await stage.refused(juliet, "set", request, "resource-constraint", to="")
        await stage.publish(juliet, "a", "2", to="juliet@example.org")


async def test_removed_accounts_leave_nothing(stage: Stage) -> None:
    from beamish.core.services import AccountsService

    juliet, romeo, _ = await cast(stage)
    await stage.set(juliet, publish("One"), to="")
    await stage.create(juliet, "hers")
    await stage.create(romeo, "his")
    await stage.subscribe(juliet, "his")
    await stage.set(romeo, tune("Two"), to="")
    await stage.subscribe(juliet, TUNE, to="romeo@example.org")
    await stage.subscribe(juliet, TUNE, str(juliet.jid), to="romeo@example.org")
    trusted = "<affiliation jid='juliet@example.org' affiliation='publisher'/>"
    await stage.set(romeo, f"<affiliations node='{TUNE}'>{trusted}</affiliations>", to="", ns=OWNER)
    await stage.kernel.service(AccountsService).remove(JID.parse("juliet@example.org"))
    assert await stage.world.db.fetch("SELECT * FROM pubsub_subscription") == []
    assert await stage.world.db.fetch("SELECT publisher FROM pubsub_item") == [("romeo@example.org",)]
    assert await stage.world.db.fetch("SELECT name FROM pubsub_node ORDER BY id") == [("his",), (TUNE,)]
    assert await stage.world.db.fetch("SELECT jid FROM pubsub_affiliation") == [("romeo@example.org",)] * 2


async def test_other_modules_publish_through_the_service(stage: Stage) -> None:
    juliet, romeo, _ = await cast(stage)
    pep = stage.kernel.service(PepService)
    user = JID.parse("juliet@example.org")
    assert await pep.access(user, TUNE) is None
    assert await pep.items(user, TUNE) == {}
    payload = f"<tune xmlns='{TUNE}'><title>Auto</title></tune>".encode()
    await pep.publish(user, TUNE, {"a": payload}, {"max_items": "max", "access_model": "open"})
    assert await titles(stage, romeo) == ["Auto"]
    assert await pep.access(user, TUNE) == "open"
    await pep.publish(user, TUNE, {"b": payload}, {"access_model": "whitelist"})
    assert await pep.access(user, TUNE) == "open"
    assert list(await pep.items(user, TUNE)) == ["a", "b"]
    await pep.retract(user, TUNE, ["a", "never"])
    assert list(await pep.items(user, TUNE)) == ["b"]
    await pep.retract(user, "urn:none", ["a"])
    await titles(stage, juliet)


async def test_omemo_devices_and_bundles(stages: Stage) -> None:
    """What two OMEMO clients do with each other's accounts (XEP-0384 §4)."""
    omemo = "urn:xmpp:omemo:2"
    juliet, romeo, mercutio = await cast(stages)
    stages.caps.of(romeo.jid, f"{omemo}:devices")
    devices = f"<devices xmlns='{omemo}'><device id='12345'/></devices>"
    listed = f"<publish node='{omemo}:devices'><item id='current'>{devices}</item></publish>"
    open_ = f"<publish-options>{form(OPTIONS, {'access_model': 'open'})}</publish-options>"
    await stages.set(juliet, listed + open_, to="")
    got = await romeo.expect(note(f"<items node='{omemo}:devices'><item id='current'/></items>"))
    assert got.find(f".//{{{omemo}}}device").get("id") == "12345"  # type: ignore[union-attr]
    bundle = f"<bundle xmlns='{omemo}'><ik>{'QUJD' * 10}</ik></bundle>"
    many = f"<publish-options>{form(OPTIONS, {'access_model': 'open', 'max_items': 'max'})}</publish-options>"
    for id_ in ("12345", "67890"):
        await stages.set(
            juliet, f"<publish node='{omemo}:bundles'><item id='{id_}'>{bundle}</item></publish>{many}", to=""
        )
    got = await stages.get(
        mercutio, f"<items node='{omemo}:bundles'><item id='67890'/></items>", to="juliet@example.org"
    )
    assert got.findtext(f".//{{{omemo}}}ik") == "QUJD" * 10
    assert await stages.items(mercutio, f"{omemo}:devices", to="juliet@example.org") == ["current"]
