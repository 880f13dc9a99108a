"""XEP-0060 §8: the owner's use cases, with the numbers of the specification's examples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from beamish.modules.pubsub.hosts import Hosts
from beamish.modules.pubsub.model import Host
from beamish.storage.api import Cursor
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World

from .kit import EVENT, OWNER, PUBSUB, SERVICE, Stage, form, note

CONFIG = f"{PUBSUB}#node_config"
AUTHORIZE = f"{PUBSUB}#subscribe_authorization"
COMMANDS = "http://jabber.org/protocol/commands"
PENDING = f"{PUBSUB}#get-pending"


async def cast(stage: Stage, **config: str) -> tuple[Client, Client]:
    """Romeo, who owns the node `musings`, and Juliet."""
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings", **config)
    return romeo, juliet


async def configured(stage: Stage, who: Client, node: str = "musings") -> dict[str, list[str]]:
    """The values of the configuration form."""
    got = await stage.get(who, f"<configure node='{node}'/>", ns=OWNER)
    return {
        str(f.get("var")): [v.text or "" for v in f.findall("{jabber:x:data}value")]
        for f in got.iterfind(".//{jabber:x:data}field")
    }


async def test_examples_125_133_135_create(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    assert (await configured(stages, romeo))["pubsub#access_model"] == ["open"]
    await stages.refused(juliet, "get", "<configure node='musings'/>", "forbidden", ns=OWNER)


async def test_example_128_who_may_create() -> None:
    async with World(
        settings={"modules": {"pubsub": {"create": "admins"}}, "server": {"admins": ["nurse@example.org"]}}
    ) as world:
        stage = Stage(world)
        romeo = await world.login("romeo@example.org/orchard")
        nurse = await world.login("nurse@example.org/chamber")
        await stage.refused(romeo, "set", "<create node='x'/>", "forbidden", kind="auth")
        await stage.create(nurse, "x")


async def test_example_129_node_exists(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    await stages.refused(romeo, "set", "<create node='musings'/>", "conflict", kind="cancel")


async def test_examples_131_132_instant_node(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    names = set()
    for _ in range(2):
        got = await stages.set(romeo, "<create/>")
        names.add(got.find(f".//{{{PUBSUB}}}create").get("node"))  # type: ignore[union-attr]
    assert len(names) == 2
    for name in names:
        assert await stages.publish(romeo, str(name), "i1") == "i1"


async def test_examples_134_136_access_model_at_creation(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    await stages.create(romeo, "closed", access_model="whitelist")
    assert (await configured(stages, romeo, "closed"))["pubsub#access_model"] == ["whitelist"]
    request = f"<create node='x'/><configure>{form(CONFIG, {'access_model': 'magic'})}</configure>"
    await stages.refused(romeo, "set", request, "not-acceptable", "unsupported-access-model", kind="modify")
    request = "<create node='x' type='collection'/>"
    await stages.refused(romeo, "set", request, "feature-not-implemented", "unsupported")


async def test_examples_137_138_create_and_configure(stages: Stage) -> None:
    romeo, _ = await cast(stages, title="Princely Musings", max_items="7", notify_sub="1", contact="bard@example.org")
    values = await configured(stages, romeo)
    assert values["pubsub#title"] == ["Princely Musings"]
    assert values["pubsub#max_items"] == ["7"]
    assert values["pubsub#notify_sub"] == ["1"]
    assert values["pubsub#contact"] == ["bard@example.org"]
    for wrong in (
        f"<configure>{form(CONFIG, {})}</configure><create node='x'/>",
        f"<create node='x'/><configure node='x'>{form(CONFIG, {})}</configure>",
    ):
        got = await stages.iq(romeo, "set", wrong, answer="error")
        assert got.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}bad-request") is not None


async def test_examples_139_140_configuration_form(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    got = await stages.get(romeo, "<configure node='musings'/>", ns=OWNER)
    fields = {str(f.get("var")): f.get("type") for f in got.iterfind(".//{jabber:x:data}field")}
    assert fields["FORM_TYPE"] == "hidden"
    registered = {
        "access_model": "list-single",
        "contact": "jid-multi",
        "deliver_notifications": "boolean",
        "deliver_payloads": "boolean",
        "description": "text-single",
        "item_expire": "text-single",
        "itemreply": "list-single",
        "language": "list-single",  # the registered type, on which clients insist
        "max_items": "text-single",
        "max_payload_size": "text-single",
        "node_type": "list-single",
        "notification_type": "list-single",
        "notify_config": "boolean",
        "notify_delete": "boolean",
        "notify_retract": "boolean",
        "notify_sub": "boolean",
        "persist_items": "boolean",
        "presence_based_delivery": "boolean",
        "publish_model": "list-single",
        "publish_node_full": "list-single",
        "purge_offline": "boolean",
        "roster_groups_allowed": "list-multi",
        "send_last_published_item": "list-single",
        "subscribe": "boolean",
        "tempsub": "boolean",
        "title": "text-single",
        "type": "text-single",
    }
    assert {f"pubsub#{k}": v for k, v in registered.items()} == {k: v for k, v in fields.items() if k != "FORM_TYPE"}


async def test_examples_142_143_145_configuration_refused(stages: Stage) -> None:
    _, juliet = await cast(stages)
    for request, *conditions in (
        ("<configure node='musings'/>", "forbidden"),
        ("<configure/>", "bad-request", "nodeid-required"),
        ("<configure node='none'/>", "item-not-found"),
    ):
        await stages.refused(juliet, "get", request, *conditions, ns=OWNER)


async def test_examples_146_147_148_configuration_submitted(stages: Stage) -> None:
    romeo, _ = await cast(stages, title="Before")
    submitted = form(CONFIG, {"title": "After", "max_items": "3", "send_last_published_item": "never"})
    await stages.set(romeo, f"<configure node='musings'>{submitted}</configure>", ns=OWNER)
    values = await configured(stages, romeo)
    assert (values["pubsub#title"], values["pubsub#max_items"]) == (["After"], ["3"])
    assert values["pubsub#access_model"] == ["open"]
    cancelled = form(CONFIG, {"title": "Never"}, type="cancel")
    await stages.set(romeo, f"<configure node='musings'>{cancelled}</configure>", ns=OWNER)
    assert (await configured(stages, romeo))["pubsub#title"] == ["After"]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_items": "0"},
        {"max_items": "99999999"},
        {"persist_items": "perhaps"},
        {"publish_model": "nobody"},
        {"max_payload_size": "999999999"},
        {"send_last_published_item": "often"},
        {"contact": "a@b@c"},
        {"title": "x" * 3000},
    ],
)
async def test_example_149_configuration_that_cannot_be(stage: Stage, fields: dict[str, str]) -> None:
    romeo, _ = await cast(stage)
    request = f"<configure node='musings'>{form(CONFIG, fields)}</configure>"
    await stage.refused(romeo, "set", request, "not-acceptable", kind="modify", ns=OWNER)


async def test_a_smaller_node_loses_its_oldest_items(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    for number in range(5):
        await stages.publish(romeo, "musings", f"i{number}")
    smaller = f"<configure node='musings'>{form(CONFIG, {'max_items': '2'})}</configure>"
    await stages.set(romeo, smaller, ns=OWNER)
    assert await stages.items(romeo, "musings") == ["i3", "i4"]


@pytest.mark.parametrize(("payloads", "example"), [("0", "150"), ("1", "151")])
async def test_examples_150_151_configuration_notified(stage: Stage, payloads: str, example: str) -> None:
    romeo, juliet = await cast(stage, notify_config="1", deliver_payloads=payloads)
    await stage.subscribe(juliet, "musings")
    await stage.set(romeo, f"<configure node='musings'>{form(CONFIG, {'title': 'New'})}</configure>", ns=OWNER)
    note = await juliet.expect(
        f"<message from='{SERVICE}'><event xmlns='{EVENT}'><configuration node='musings'/></event></message>"
    )
    shown = note.find(".//{jabber:x:data}x")
    assert (shown is not None) == (example == "151")
    if shown is not None:
        assert shown.get("type") == "result"


async def test_narrower_access_ends_subscriptions(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    narrower = f"<configure node='musings'>{form(CONFIG, {'access_model': 'whitelist'})}</configure>"
    await stages.set(romeo, narrower, ns=OWNER)
    await juliet.expect(note("<subscription node='musings' jid='juliet@example.org' subscription='none'/>"))
    await stages.publish(romeo, "musings")
    assert await stages.ids(juliet) == []


async def test_examples_152_153_154_default_configuration(stages: Stage) -> None:
    _, juliet = await cast(stages)
    for request in ("<default/>", "<default type='leaf'/>"):
        got = await stages.get(juliet, request, ns=OWNER)
        assert not mismatch(
            f"""<iq type='result'><pubsub xmlns='{OWNER}'><default><x xmlns='jabber:x:data' type='form'>
            <field var='FORM_TYPE'><value>{CONFIG}</value></field>
            <field var='pubsub#access_model'><value>open</value></field>
            <field var='pubsub#send_last_published_item'><value>on_sub_and_presence</value></field>
            </x></default></pubsub></iq>""",
            got,
        )
    request = "<default type='collection'/>"
    await stages.refused(juliet, "get", request, "feature-not-implemented", "unsupported", ns=OWNER)


async def test_examples_157_to_160_delete(stages: Stage) -> None:
    romeo, juliet = await cast(stages, access_model="authorize")
    await stages.subscribe(juliet, "musings")
    await stages.publish(romeo, "musings")
    romeo.inbox.clear()
    uri = "xmpp:hamlet@denmark.lit?;node=blog"
    await stages.set(romeo, f"<delete node='musings'><redirect uri='{uri}'/></delete>", ns=OWNER)
    await juliet.expect(note(f"<delete node='musings'><redirect uri='{uri}'/></delete>", sender=SERVICE))
    await stages.refused(romeo, "get", "<items node='musings'/>", "gone")
    await stages.create(romeo, "musings")
    assert await stages.items(romeo, "musings") == []


async def test_examples_161_162_delete_refused(stages: Stage) -> None:
    _, juliet = await cast(stages)
    await stages.refused(juliet, "set", "<delete node='musings'/>", "forbidden", ns=OWNER, kind="auth")
    await stages.refused(juliet, "set", "<delete node='none'/>", "item-not-found", ns=OWNER, kind="cancel")


async def test_examples_163_164_165_purge(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    for _ in range(3):
        await stages.publish(romeo, "musings")
    await stages.quiet(juliet)
    juliet.inbox.clear()
    await stages.set(romeo, "<purge node='musings'/>", ns=OWNER)
    await juliet.expect(f"<message from='{SERVICE}'><event xmlns='{EVENT}'><purge node='musings'/></event></message>")
    await stages.quiet(juliet)
    assert not juliet.inbox
    assert await stages.items(juliet, "musings") == []


async def test_examples_167_168_169_purge_refused(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.create(romeo, "transient", persist_items="0")
    await stages.refused(juliet, "set", "<purge node='musings'/>", "forbidden", ns=OWNER)
    request = "<purge node='transient'/>"
    await stages.refused(romeo, "set", request, "feature-not-implemented", "unsupported", ns=OWNER)
    await stages.refused(romeo, "set", "<purge node='none'/>", "item-not-found", ns=OWNER)


async def asked(stage: Stage, owner: Client) -> tuple[str, str]:
    """The owner gets the approval form: the id of the message, and the subid."""
    got = await owner.expect(
        f"""<message from='{SERVICE}' to='romeo@example.org' id='*'><x xmlns='jabber:x:data' type='form'>
        <field var='FORM_TYPE' type='hidden'><value>{AUTHORIZE}</value></field>
        <field var='pubsub#subid' type='hidden'><value/></field>
        <field var='pubsub#node' type='text-single'><value>musings</value></field>
        <field var='pubsub#subscriber_jid' type='jid-single'><value>juliet@example.org</value></field>
        <field var='pubsub#allow' type='boolean'><value>0</value></field></x></message>"""
    )
    subid = got.findtext(".//{jabber:x:data}field[@var='pubsub#subid']/{jabber:x:data}value")
    return str(got.get("id")), str(subid)


@pytest.mark.parametrize(("allow", "state"), [("true", "subscribed"), ("0", "none")])
async def test_examples_170_to_174_approval(stage: Stage, allow: str, state: str) -> None:
    romeo, juliet = await cast(stage, access_model="authorize")
    await stage.publish(romeo, "musings", "before")
    await stage.subscribe(juliet, "musings")
    id_, subid = await asked(stage, romeo)
    fields = {"subid": subid, "node": "musings", "subscriber_jid": "juliet@example.org", "allow": allow}
    answer = form(AUTHORIZE, fields)
    mercutio = await stage.login("mercutio@example.org/street")
    mercutio.send(f"<message to='{SERVICE}' id='{id_}'>{answer}</message>")
    await mercutio.expect(
        "<message type='error'><error><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    romeo.send(f"<message to='{SERVICE}' id='{id_}'>{answer}</message>")
    await juliet.expect(
        f"<message from='{SERVICE}' to='juliet@example.org'><event xmlns='{EVENT}'>"
        f"<subscription node='musings' jid='juliet@example.org' subscription='{state}'/></event></message>"
    )
    await stage.publish(romeo, "musings", "after")
    assert await stage.ids(juliet) == (["before", "after"] if state == "subscribed" else [])


async def test_example_175_cancelled_form_leaves_the_request(stages: Stage) -> None:
    romeo, juliet = await cast(stages, access_model="authorize")
    await stages.subscribe(juliet, "musings")
    id_, _ = await asked(stages, romeo)
    romeo.send(f"<message to='{SERVICE}' id='{id_}'>{form(AUTHORIZE, {}, type='cancel')}</message>")
    await stages.quiet(romeo)
    request = "<subscribe node='musings' jid='juliet@example.org'/>"
    await stages.refused(juliet, "set", request, "not-authorized", "pending-subscription")


async def test_examples_176_to_183_pending_requests(stages: Stage) -> None:
    romeo, juliet = await cast(stages, access_model="authorize")
    await stages.create(romeo, "other")
    await stages.subscribe(juliet, "musings")
    await asked(stages, romeo)
    command = f"<command xmlns='{COMMANDS}' node='{PENDING}' action='execute'%s>%s</command>"
    got = await romeo.iq(f"<iq type='set' id='c1' to='{SERVICE}'>{command % ('', '')}</iq>")
    assert not mismatch(
        f"""<iq type='result'><command xmlns='{COMMANDS}' node='{PENDING}' sessionid='*' status='executing'>
        <x xmlns='jabber:x:data' type='form'><field var='FORM_TYPE'><value>{AUTHORIZE}</value></field>
        <field var='pubsub#node' type='list-single'><option><value>musings</value></option></field></x></command></iq>""",
        got,
    )
    session = got.find(f"{{{COMMANDS}}}command").get("sessionid")  # type: ignore[union-attr]
    for node, condition in (("none", "item-not-found"), ("", "bad-request")):
        submitted = command % (f" sessionid='{session}'", form(AUTHORIZE, {"node": node}))
        bad = await romeo.iq(f"<iq type='set' id='c2' to='{SERVICE}'>{submitted}</iq>", type="error")
        assert bad.find(f".//{{urn:ietf:params:xml:ns:xmpp-stanzas}}{condition}") is not None
    submitted = command % (f" sessionid='{session}'", form(AUTHORIZE, {"node": "musings"}))
    done = await romeo.iq(f"<iq type='set' id='c3' to='{SERVICE}'>{submitted}</iq>")
    assert done.find(f"{{{COMMANDS}}}command").get("status") == "completed"  # type: ignore[union-attr]
    await asked(stages, romeo)
    refused = await juliet.iq(f"<iq type='set' id='c4' to='{SERVICE}'>{command % ('', '')}</iq>", type="error")
    assert refused.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}forbidden") is not None


async def test_examples_184_185_187_188_subscriptions_of_a_node(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    one = (await stages.subscribe(juliet, "musings")).get("subid")
    two = (await stages.subscribe(juliet, "musings", deliver="0")).get("subid")
    got = await stages.get(romeo, "<subscriptions node='musings'/>", ns=OWNER)
    found = {s.get("subid"): (s.get("jid"), s.get("subscription")) for s in got.iterfind(f".//{{{OWNER}}}subscription")}
    assert found == dict.fromkeys((one, two), ("juliet@example.org", "subscribed"))
    await stages.refused(juliet, "get", "<subscriptions node='musings'/>", "forbidden", ns=OWNER)
    await stages.refused(juliet, "get", "<subscriptions node='none'/>", "item-not-found", ns=OWNER)


async def test_examples_189_190_192_193_196_modify_subscriptions(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    mercutio = await stages.login("mercutio@example.org/street")
    change = (
        "<subscriptions node='%s'><subscription jid='juliet@example.org' subscription='none'/>"
        "<subscription jid='mercutio@example.org' subscription='subscribed'/></subscriptions>"
    )
    await stages.refused(juliet, "set", change % "musings", "forbidden", ns=OWNER)
    await stages.refused(romeo, "set", change % "none", "item-not-found", ns=OWNER)
    await stages.set(romeo, change % "musings", ns=OWNER)
    for who, state in ((juliet, "none"), (mercutio, "subscribed")):
        await who.expect(
            f"<message from='{SERVICE}' to='{who.jid.bare}'><event xmlns='{EVENT}'>"
            f"<subscription node='musings' jid='{who.jid.bare}' subscription='{state}'/></event></message>"
        )
    await stages.publish(romeo, "musings", "i1")
    assert (await stages.ids(juliet), await stages.ids(mercutio)) == ([], ["i1"])


async def test_examples_194_195_what_could_not_be_modified(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    change = (
        "<subscriptions node='musings'><subscription jid='juliet@example.org' subscription='bogus'/>"
        "<subscription jid='nurse@example.org' subscription='subscribed'/></subscriptions>"
    )
    got = await stages.iq(romeo, "set", change, ns=OWNER, answer="error")
    assert not mismatch(
        f"""<iq type='error'><pubsub xmlns='{OWNER}'><subscriptions node='musings'>
        <subscription jid='juliet@example.org' subscription='subscribed'/></subscriptions></pubsub>
        <error type='modify'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>""",
        got,
    )
    assert len(got.findall(f".//{{{OWNER}}}subscription")) == 1
    shown = await stages.get(romeo, "<subscriptions node='musings'/>", ns=OWNER)
    assert len(shown.findall(f".//{{{OWNER}}}subscription")) == 2


async def test_examples_197_198_200_201_affiliations_of_a_node(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    change = (
        "<affiliations node='musings'><affiliation jid='mercutio@example.org' affiliation='outcast'/></affiliations>"
    )
    await stages.set(romeo, change, ns=OWNER)
    got = await stages.get(romeo, "<affiliations node='musings'/>", ns=OWNER)
    found = {(a.get("jid"), a.get("affiliation")) for a in got.iterfind(f".//{{{OWNER}}}affiliation")}
    assert found == {("romeo@example.org", "owner"), ("mercutio@example.org", "outcast")}
    await stages.refused(juliet, "get", "<affiliations node='musings'/>", "forbidden", ns=OWNER)
    await stages.refused(juliet, "get", "<affiliations node='none'/>", "item-not-found", ns=OWNER)
    await stages.refused(juliet, "set", change, "forbidden", ns=OWNER)


async def test_examples_202_203_210_modify_affiliation(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for affiliation in ("publisher", "owner", "none"):
        change = f"<affiliation jid='juliet@example.org' affiliation='{affiliation}'/>"
        await stages.set(romeo, f"<affiliations node='musings'>{change}</affiliations>", ns=OWNER)
        await juliet.expect(
            f"<message from='{SERVICE}' to='juliet@example.org'><pubsub xmlns='{PUBSUB}'><affiliations node='musings'>"
            f"<affiliation jid='juliet@example.org' affiliation='{affiliation}'/></affiliations></pubsub></message>"
        )
    got = await stages.get(romeo, "<affiliations node='musings'/>", ns=OWNER)
    assert len(got.findall(f".//{{{OWNER}}}affiliation")) == 1


async def test_examples_205_208_209_there_is_always_an_owner(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    change = (
        "<affiliations node='musings'><affiliation jid='romeo@example.org' affiliation='none'/>"
        "<affiliation jid='mercutio@example.org' affiliation='magician'/>"
        "<affiliation jid='nurse@example.org' affiliation='publisher'/></affiliations>"
    )
    got = await stages.iq(romeo, "set", change, ns=OWNER, answer="error")
    assert not mismatch(
        f"""<iq type='error'><pubsub xmlns='{OWNER}'><affiliations node='musings'>
        <affiliation jid='romeo@example.org' affiliation='owner'/>
        <affiliation jid='mercutio@example.org' affiliation='none'/></affiliations></pubsub>
        <error type='modify'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>""",
        got,
    )
    shown = await stages.get(romeo, "<affiliations node='musings'/>", ns=OWNER)
    assert len(shown.findall(f".//{{{OWNER}}}affiliation")) == 2
    twice = "<affiliations node='musings'>" + "<affiliation jid='nurse@example.org' affiliation='none'/>" * 2
    await stages.refused(romeo, "set", twice + "</affiliations>", "bad-request", ns=OWNER)
    shared = "<affiliations node='musings'><affiliation jid='nurse@example.org' affiliation='owner'/></affiliations>"
    await stages.set(romeo, shared, ns=OWNER)
    leave = "<affiliations node='musings'><affiliation jid='romeo@example.org' affiliation='none'/></affiliations>"
    await stages.set(romeo, leave, ns=OWNER)
    await stages.refused(romeo, "get", "<configure node='musings'/>", "forbidden", ns=OWNER)


@pytest.mark.parametrize(
    ("affiliation", "state"), [("publisher", "subscribed"), ("member", "subscribed"), ("outcast", "none")]
)
async def test_affiliation_decides_pending_requests(stage: Stage, affiliation: str, state: str) -> None:
    romeo, juliet = await cast(stage, access_model="authorize")
    await stage.subscribe(juliet, "musings")
    change = f"<affiliation jid='juliet@example.org' affiliation='{affiliation}'/>"
    await stage.set(romeo, f"<affiliations node='musings'>{change}</affiliations>", ns=OWNER)
    await juliet.expect(
        f"<message><event xmlns='{EVENT}'><subscription node='musings' subscription='{state}'/></event></message>"
    )


async def test_owners_are_told_of_subscribers(stages: Stage) -> None:
    romeo, juliet = await cast(stages, notify_sub="1")
    await stages.subscribe(juliet, "musings")
    await stages.set(juliet, "<unsubscribe node='musings' jid='juliet@example.org'/>")
    for state in ("subscribed", "none"):
        await romeo.expect(
            f"<message from='{SERVICE}'><event xmlns='{EVENT}'><subscription node='musings' jid='juliet@example.org' "
            f"subscription='{state}'/></event></message>"
        )


async def test_administrators_own_every_node_of_the_service() -> None:
    async with World(settings={"server": {"admins": ["nurse@example.org"]}}) as world:
        stage = Stage(world)
        await cast(stage, access_model="whitelist")
        nurse = await world.login("nurse@example.org/chamber")
        assert (await configured(stage, nurse))["pubsub#access_model"] == ["whitelist"]
        await stage.get(nurse, "<items node='musings'/>")
        await stage.set(nurse, "<delete node='musings'/>", ns=OWNER)


async def test_many_changes_of_one_request_are_stored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage)
        await stage.publish(romeo, "musings", "i1")
        stored: list[str] = []
        write = Hosts.write

        async def counted(self: Hosts, host: Host, name: str, fn: Callable[[Cursor], Any]) -> Any:
            stored.append(name)
            return await write(self, host, name, fn)

        monkeypatch.setattr(Hosts, "write", counted)
        many = [f"u{n}@example.net" for n in range(300)]
        for state in ("subscribed", "none"):
            inner = "".join(f"<subscription jid='{jid}' subscription='{state}'/>" for jid in [juliet.jid.bare, *many])
            await stage.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
            await juliet.expect(note(f"<subscription node='musings' jid='juliet@example.org' subscription='{state}'/>"))
            if state == "subscribed":
                assert await stage.ids(juliet) == ["i1"]
        assert stored == ["subscribe", "subscribe"]
        # and so are those that another access model or affiliation ends
        inner = "".join(f"<subscription jid='{jid}' subscription='subscribed'/>" for jid in many)
        await stage.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
        inner = "".join(f"<affiliation jid='{jid}' affiliation='outcast'/>" for jid in many[:150])
        await stage.set(romeo, f"<affiliations node='musings'>{inner}</affiliations>", ns=OWNER)
        narrower = f"<configure node='musings'>{form(CONFIG, {'access_model': 'whitelist'})}</configure>"
        await stage.set(romeo, narrower, ns=OWNER)
        assert stored[2:] == ["subscribe", "affiliations", "subscribe", "configure", "subscribe"]
        shown = await stage.get(romeo, "<subscriptions node='musings'/>", ns=OWNER)
        assert shown.findall(f".//{{{OWNER}}}subscription") == []


async def test_who_is_named_twice_in_a_request_ends_as_it_says_last(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.publish(romeo, "musings", "i1")
    inner = "".join(
        f"<subscription jid='{juliet.jid.bare}' subscription='{state}'/>" for state in ("subscribed", "none")
    )
    await stages.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
    for state in ("subscribed", "none"):
        await juliet.expect(note(f"<subscription node='musings' jid='juliet@example.org' subscription='{state}'/>"))
    assert await stages.ids(juliet) == []
    shown = await stages.get(romeo, "<subscriptions node='musings'/>", ns=OWNER)
    assert shown.findall(f".//{{{OWNER}}}subscription") == []


async def test_a_request_with_an_address_that_is_none_changes_nothing(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    inner = "".join(f"<subscription jid='{jid}' subscription='subscribed'/>" for jid in (juliet.jid.bare, "@"))
    await stages.refused(
        romeo, "set", f"<subscriptions node='musings'>{inner}</subscriptions>", "bad-request", "invalid-jid", ns=OWNER
    )
    shown = await stages.get(romeo, "<subscriptions node='musings'/>", ns=OWNER)
    assert shown.findall(f".//{{{OWNER}}}subscription") == []


async def test_whoever_publishes_to_many_may_do_so_less_often() -> None:
    async with World(settings={"limits": {"stanzas_per_second": 10, "stanza_burst": 60}}) as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage)
        inner = "".join(f"<subscription jid='u{n}@nowhere.example' subscription='subscribed'/>" for n in range(1_000))
        await stage.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
        await stage.subscribe(juliet, "musings")
        # even what is read at once goes on only when it is paid for: twenty stanzas for each
        romeo.send(
            "".join(
                f"<iq type='set' id='p{n}' to='{SERVICE}'><pubsub xmlns='{PUBSUB}'><publish node='musings'>"
                f"<item id='{n}'><entry xmlns='urn:test'/></item></publish></pubsub></iq>"
                for n in range(8)
            )
        )
        await world.settle()
        told = len(await stage.ids(juliet))
        assert 2 <= told <= 4
        await world.pass_time(2.2)
        assert told < told + len(await stage.ids(juliet)) <= 6
        for _ in range(12):
            await world.pass_time(2.2)
        juliet.inbox.clear()
        shown = await stage.get(juliet, "<items node='musings'/>")
        assert [item.get("id") for item in shown.iterfind(f".//{{{PUBSUB}}}item")] == [str(n) for n in range(8)]


async def test_owners_questions_about_many_count_for_more() -> None:
    async with World(settings={"limits": {"stanzas_per_second": 10, "stanza_burst": 60}}) as world:
        stage = Stage(world)
        romeo, _ = await cast(stage)
        inner = "".join(f"<subscription jid='u{n}@nowhere.example' subscription='subscribed'/>" for n in range(1_000))
        await stage.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
        romeo.inbox.clear()
        for n in range(8):
            romeo.send(
                f"<iq type='get' id='q{n}' to='{SERVICE}'><pubsub xmlns='{OWNER}'><subscriptions node='musings'/>"
                "</pubsub></iq>"
            )
            await world.settle()
        assert 1 <= len(romeo.inbox) <= 4
        for _ in range(12):
            await world.pass_time(2.2)
        assert len(romeo.inbox) == 8


async def test_who_goes_while_paying_leaves_nothing_behind() -> None:
    async with World(settings={"limits": {"stanzas_per_second": 1, "stanza_burst": 30}}) as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage)
        inner = "".join(f"<subscription jid='u{n}@nowhere.example' subscription='subscribed'/>" for n in range(1_000))
        await stage.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
        publish = "<publish node='musings'><item><entry xmlns='urn:test'/></item></publish>"
        for n in range(4):
            romeo.send(f"<iq type='set' id='p{n}' to='{SERVICE}'><pubsub xmlns='{PUBSUB}'>{publish}</pubsub></iq>")
        await world.settle()
        running = {task for task in asyncio.all_tasks() if not task.done()}
        romeo.drop()
        await world.settle()
        assert world.kernel.sessions.get(romeo.jid) is None
        assert any(task.done() for task in running), "nobody waits for a debt that is not paid any more"
        await stage.subscribe(juliet, "musings")
