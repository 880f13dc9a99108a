"""XEP-0060 §6: the subscriber's use cases, with the numbers of the specification's examples."""

from __future__ import annotations

import pytest

from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World

from .kit import EVENT, OWNER, PUBSUB, SERVICE, Stage, form

RSM = "http://jabber.org/protocol/rsm"
OPTIONS = f"{PUBSUB}#subscribe_options"


async def cast(stage: Stage, **config: str) -> tuple[Client, Client]:
    """Romeo, who owns the node `musings`, and Juliet."""
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings", **config)
    return romeo, juliet


async def affiliate(stage: Stage, owner: Client, who: str, affiliation: str, *, to: str = SERVICE) -> None:
    inner = f"<affiliations node='musings'><affiliation jid='{who}' affiliation='{affiliation}'/></affiliations>"
    await stage.set(owner, inner, ns=OWNER, to=to)


async def test_examples_028_029_045_subscribe(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    got = await stages.set(juliet, f"<subscribe node='musings' jid='{juliet.jid.bare}'/>")
    assert not mismatch(
        f"<iq type='result' from='{SERVICE}'><pubsub xmlns='{PUBSUB}'><subscription node='musings' subid='*' "
        "jid='juliet@example.org' subscription='subscribed'><subscribe-options/></subscription></pubsub></iq>",
        got,
    )
    again = await stages.subscribe(juliet, "musings")
    assert again.get("subid") == got.find(f".//{{{PUBSUB}}}subscription").get("subid")  # type: ignore[union-attr]
    await stages.publish(romeo, "musings", "i1")
    assert await stages.ids(juliet) == ["i1"]


@pytest.mark.parametrize(("send", "got"), [("on_sub", ["i2"]), ("on_sub_and_presence", ["i2"]), ("never", [])])
async def test_subscribing_again_brings_the_last_item_again(stage: Stage, send: str, got: list[str]) -> None:
    """As if the subscription was just approved (§6.1.6, §6.1.7): a client that has lost its state asks like that."""
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings", send_last_published_item=send)
    for id_ in ("i1", "i2"):
        await stage.publish(romeo, "musings", id_)
    first = await stage.subscribe(juliet, "musings")
    assert await stage.ids(juliet) == got
    again = await stage.subscribe(juliet, "musings")
    assert again.get("subid") == first.get("subid")
    assert await stage.ids(juliet) == got


async def test_example_030_jids_do_not_match(stages: Stage) -> None:
    _, juliet = await cast(stages)
    for jid, condition in (("romeo@example.org", "invalid-jid"), ("a@b@c", "invalid-jid")):
        request = f"<subscribe node='musings' jid='{jid}'/>"
        await stages.refused(juliet, "set", request, "bad-request", condition, kind="modify")
    await stages.refused(juliet, "set", "<subscribe node='musings'/>", "bad-request", "jid-required", kind="modify")


@pytest.mark.parametrize("example", ["031_subscribe", "089_retrieve"])
async def test_example_presence_subscription_required(stages: Stage, example: str) -> None:
    romeo, juliet = await cast(stages, access_model="presence")
    retrieving = example.endswith("retrieve")
    request = "<items node='musings'/>" if retrieving else f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    type_ = "get" if retrieving else "set"
    conditions = "not-authorized", "presence-subscription-required"
    await stages.refused(juliet, type_, request, *conditions, kind="auth")
    await stages.befriend(romeo, juliet)
    await stages.iq(juliet, type_, request)


@pytest.mark.parametrize("example", ["032_subscribe", "090_retrieve"])
async def test_example_not_in_roster_group(stages: Stage, example: str) -> None:
    romeo, juliet = await cast(stages, access_model="roster", roster_groups_allowed="Friends")
    retrieving = example.endswith("retrieve")
    request = "<items node='musings'/>" if retrieving else f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    type_ = "get" if retrieving else "set"
    outside = "not-authorized", "not-in-roster-group"
    await stages.refused(juliet, type_, request, *outside, kind="auth")
    item = f"<item jid='{juliet.jid.bare}'><group>%s</group></item>"
    await romeo.iq(f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'>{item % 'Friends'}</query></iq>")
    await stages.refused(juliet, type_, request, *outside, kind="auth")
    await stages.befriend(romeo, juliet)
    await stages.iq(juliet, type_, request)
    await romeo.iq(f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'>{item % 'Foes'}</query></iq>")
    if retrieving:
        await stages.refused(juliet, type_, request, *outside, kind="auth")


@pytest.mark.parametrize("example", ["033_subscribe", "091_retrieve"])
async def test_example_not_on_whitelist(stages: Stage, example: str) -> None:
    romeo, juliet = await cast(stages, access_model="whitelist")
    retrieving = example.endswith("retrieve")
    request = "<items node='musings'/>" if retrieving else f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    type_ = "get" if retrieving else "set"
    await stages.refused(juliet, type_, request, "not-allowed", "closed-node", kind="cancel")
    await affiliate(stages, romeo, "juliet@example.org", "member")
    await stages.iq(juliet, type_, request)


async def test_example_035_anonymous_sessions_do_not_subscribe() -> None:
    async with World(settings={"c2s": {"anonymous": True}}) as world:
        stage = Stage(world)
        romeo = await world.login("romeo@example.org/orchard")
        await stage.create(romeo, "musings")
        guest = await world.guest()
        request = f"<subscribe node='musings' jid='{guest.jid.bare}'/>"
        await stage.refused(guest, "set", request, "forbidden", kind="cancel")
        await stage.refused(guest, "set", "<create node='x'/>", "forbidden")
        await stage.refused(guest, "set", "<create node='x'/>", "forbidden", to="")


async def test_examples_036_042_authorize(stages: Stage) -> None:
    _, juliet = await cast(stages, access_model="authorize")
    found = await stages.subscribe(juliet, "musings")
    assert (found.get("subscription"), len(found)) == ("pending", 0)
    request = f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    await stages.refused(juliet, "set", request, "not-authorized", "pending-subscription", kind="auth")


@pytest.mark.parametrize("example", ["037_subscribe", "093_retrieve"])
async def test_example_blocked(stages: Stage, example: str) -> None:
    romeo, juliet = await cast(stages)
    await affiliate(stages, romeo, "juliet@example.org", "outcast")
    retrieving = example.endswith("retrieve")
    request = "<items node='musings'/>" if retrieving else f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    await stages.refused(juliet, "get" if retrieving else "set", request, "forbidden", kind="auth")


async def test_example_038_too_many_subscriptions() -> None:
    async with World(settings={"modules": {"pubsub": {"max_subscriptions": 2}}}) as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage)
        await stage.subscribe(juliet, "musings")
        await stage.subscribe(juliet, "musings", "juliet@example.org/other")
        request = f"<subscribe node='musings' jid='{juliet.jid}'/>"
        conditions = "policy-violation", "too-many-subscriptions"
        await stage.refused(juliet, "set", request, *conditions, kind="wait")
        await stage.subscribe(romeo, "musings")


async def test_example_039_subscribing_not_supported(stages: Stage) -> None:
    _, juliet = await cast(stages, subscribe="0")
    request = f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    error = await stages.refused(juliet, "set", request, "feature-not-implemented", "unsupported", kind="cancel")
    assert error.find(f"{{{PUBSUB}#errors}}unsupported").get("feature") == "subscribe"  # type: ignore[union-attr]


async def test_example_040_node_has_moved(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    uri = "xmpp:pubsub.shakespeare.lit?;node=some-other-node"
    await stages.set(romeo, f"<delete node='musings'><redirect uri='{uri}'/></delete>", ns=OWNER)
    request = f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    error = await stages.refused(juliet, "set", request, "gone", kind="modify")
    assert error[0].text == uri
    await stages.create(romeo, "musings")
    await stages.subscribe(juliet, "musings")


async def test_examples_041_052_063_094_node_does_not_exist(stages: Stage) -> None:
    juliet = await stages.login("juliet@example.org/balcony")
    jid = juliet.jid.bare
    for type_, request in (
        ("set", f"<subscribe node='none' jid='{jid}'/>"),
        ("set", f"<unsubscribe node='none' jid='{jid}'/>"),
        ("get", f"<options node='none' jid='{jid}'/>"),
        ("get", "<items node='none'/>"),
    ):
        await stages.refused(juliet, type_, request, "item-not-found", kind="cancel")


async def test_example_046_last_item_on_subscription(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for number in range(3):
        await stages.publish(romeo, "musings", f"i{number}")
    await stages.subscribe(juliet, "musings")
    await juliet.expect(
        f"<message from='{SERVICE}' to='juliet@example.org'><event xmlns='{EVENT}'><items node='musings'>"
        "<item id='i2'><entry xmlns='urn:test'>x</entry></item></items></event>"
        "<delay xmlns='urn:xmpp:delay' stamp='*'/></message>"
    )
    await stages.quiet(juliet)
    assert not juliet.inbox


async def test_no_last_item_where_it_is_never_sent(stages: Stage) -> None:
    romeo, juliet = await cast(stages, send_last_published_item="never")
    await stages.publish(romeo, "musings", "i1")
    await stages.subscribe(juliet, "musings")
    assert await stages.ids(juliet) == []


async def test_last_item_on_presence(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    await stages.publish(romeo, "musings", "i1")
    assert await stages.ids(juliet) == ["i1"]
    phone = await stages.login("juliet@example.org/phone")
    await stages.quiet(phone)
    got = [el for el in phone.inbox if el.tag == "{jabber:client}message"]
    assert len(got) == 1
    assert got[0].find("{urn:xmpp:delay}delay") is not None
    assert not mismatch(
        f"<message from='{SERVICE}' to='juliet@example.org/phone'><event xmlns='{EVENT}'/></message>", got[0]
    )


async def test_examples_047_048_unsubscribe(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    subid = (await stages.subscribe(juliet, "musings")).get("subid")
    got = await stages.set(juliet, f"<unsubscribe node='musings' jid='{juliet.jid.bare}'/>")
    assert not mismatch(
        f"<iq type='result'><pubsub xmlns='{PUBSUB}'><subscription node='musings' jid='juliet@example.org' "
        f"subscription='none' subid='{subid}'/></pubsub></iq>",
        got,
    )
    await stages.publish(romeo, "musings")
    assert await stages.ids(juliet) == []


async def test_examples_049_053_060_061_084_085_subscription_ids(stages: Stage) -> None:
    _, juliet = await cast(stages)
    jid = juliet.jid.bare
    one = (await stages.subscribe(juliet, "musings")).get("subid")
    two = (await stages.subscribe(juliet, "musings", include_body="1")).get("subid")
    assert one != two
    for type_, request in (
        ("get", f"<options node='musings' jid='{jid}'%s/>"),
        ("get", "<items node='musings'%s/>"),
        ("set", f"<unsubscribe node='musings' jid='{jid}'%s/>"),
    ):
        await stages.refused(juliet, type_, request % "", "bad-request", "subid-required", kind="modify")
        wrong = request % " subid='991823'"
        await stages.refused(juliet, type_, wrong, "not-acceptable", "invalid-subid", kind="modify")
        await stages.iq(juliet, type_, request % f" subid='{two}'")
    await stages.iq(juliet, "get", "<items node='musings'/>")  # one of them is left


async def test_examples_050_058_not_subscribed(stages: Stage) -> None:
    _, juliet = await cast(stages)
    jid = juliet.jid.bare
    unsubscribe = f"<unsubscribe node='musings' jid='{jid}'/>"
    await stages.refused(juliet, "set", unsubscribe, "unexpected-request", "not-subscribed", kind="cancel")
    options = f"<options node='musings' jid='{jid}'/>"
    await stages.refused(juliet, "get", options, "unexpected-request", "not-subscribed", kind="modify")


async def test_examples_051_057_059_somebody_elses_subscription(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    jid = juliet.jid.bare
    for type_, request in (
        ("set", f"<unsubscribe node='musings' jid='{jid}'/>"),
        ("get", f"<options node='musings' jid='{jid}'/>"),
    ):
        await stages.refused(romeo, type_, request, "forbidden", kind="auth")
    await stages.refused(juliet, "get", "<options node='musings'/>", "bad-request", "jid-required", kind="modify")


async def test_examples_054_056_options_form(stages: Stage) -> None:
    _, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    got = await stages.get(juliet, f"<options node='musings' jid='{juliet.jid.bare}'/>")
    assert not mismatch(
        f"""<iq type='result'><pubsub xmlns='{PUBSUB}'><options node='musings' jid='juliet@example.org'>
        <x xmlns='jabber:x:data' type='form'>
        <field var='FORM_TYPE' type='hidden'><value>{OPTIONS}</value></field>
        <field var='pubsub#deliver' type='boolean'><value>1</value></field>
        <field var='pubsub#digest' type='boolean'><value>0</value></field>
        <field var='pubsub#digest_frequency' type='text-single'><value>86400000</value></field>
        <field var='pubsub#expire' type='text-single'/>
        <field var='pubsub#include_body' type='boolean'><value>0</value></field>
        <field var='pubsub#show-values' type='list-multi'><value>chat</value><value>online</value>
        <option><value>dnd</value></option></field>
        <field var='pubsub#subscription_type' type='list-single'><value>items</value></field>
        <field var='pubsub#subscription_depth' type='list-single'><value>1</value></field>
        </x></options></pubsub></iq>""".replace("<value>chat</value><value>online</value>", "<value>chat</value>"),
        got,
    )


async def test_examples_064_065_options_submitted(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.subscribe(juliet, "musings")
    jid = juliet.jid.bare
    submitted = form(OPTIONS, {"deliver": "0", "show_values": "chat,online,away"})
    await stages.set(juliet, f"<options node='musings' jid='{jid}'>{submitted}</options>")
    got = await stages.get(juliet, f"<options node='musings' jid='{jid}'/>")
    values = {
        str(f.get("var")): [v.text for v in f.findall("{jabber:x:data}value")]
        for f in got.iterfind(".//{jabber:x:data}field")
    }
    assert values["pubsub#deliver"] == ["0"]
    assert values["pubsub#show-values"] == ["away", "chat", "online"]
    await stages.publish(romeo, "musings")
    assert await stages.ids(juliet) == []
    cancel = "<x xmlns='jabber:x:data' type='cancel'/>"
    await stages.set(juliet, f"<options node='musings' jid='{jid}'>{cancel}</options>")


@pytest.mark.parametrize(
    "fields",
    [
        {"deliver": "maybe"},
        {"digest_frequency": "often"},
        {"expire": "tomorrow"},
        {"expire": "2001-01-01T00:00:00Z"},
        {"show_values": "asleep"},
        {"subscription_type": "everything"},
        {"no_such_option": "1"},
    ],
)
async def test_example_066_invalid_options(stage: Stage, fields: dict[str, str]) -> None:
    _, juliet = await cast(stage)
    await stage.subscribe(juliet, "musings")
    request = f"<options node='musings' jid='{juliet.jid.bare}'>{form(OPTIONS, fields)}</options>"
    await stage.refused(juliet, "set", request, "bad-request", "invalid-options", kind="modify")
    empty = f"<options node='musings' jid='{juliet.jid.bare}'/>"
    await stage.refused(juliet, "set", empty, "bad-request", "invalid-options", kind="modify")


async def test_examples_067_068_subscribe_and_configure(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    options = form(OPTIONS, {"deliver": "1", "digest": "0", "include_body": "false", "show_values": "chat,online,away"})
    subscribe = f"<subscribe node='musings' jid='{juliet.jid.bare}'/>"
    got = await stages.set(juliet, f"{subscribe}<options>{options}</options>")
    assert not mismatch(
        f"""<iq type='result'><pubsub xmlns='{PUBSUB}'>
        <subscription node='musings' jid='juliet@example.org' subscription='subscribed' subid='*'/>
        <options><x xmlns='jabber:x:data' type='result'>
        <field var='pubsub#show-values'><value>away</value></field></x></options></pubsub></iq>""",
        got,
    )
    await stages.publish(romeo, "musings", "i1")
    assert await stages.ids(juliet) == ["i1"]
    for wrong in (
        f"<options>{options}</options>{subscribe}",
        f"{subscribe}<options node='musings'>{options}</options>",
        f"{subscribe}<options jid='{juliet.jid.bare}'>{options}</options>",
    ):
        got = await stages.iq(juliet, "set", wrong, answer="error")
        assert got.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}bad-request") is not None


async def test_examples_069_071_default_options(stages: Stage) -> None:
    _, juliet = await cast(stages, tempsub="1")
    for request, expire in (("<default node='musings'/>", "<value>presence</value>"), ("<default/>", "")):
        got = await stages.get(juliet, request)
        assert not mismatch(
            f"""<iq type='result'><pubsub xmlns='{PUBSUB}'><default><x xmlns='jabber:x:data' type='result'>
            <field var='FORM_TYPE'><value>{OPTIONS}</value></field>
            <field var='pubsub#deliver'><value>1</value></field>
            <field var='pubsub#expire'>{expire}</field></x></default></pubsub></iq>""",
            got,
        )
    await stages.refused(juliet, "get", "<default node='none'/>", "item-not-found")


async def test_examples_074_075_all_items(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for number in range(4):
        await stages.publish(romeo, "musings", f"i{number}", f"text {number}")
    got = await stages.get(juliet, "<items node='musings'/>")
    assert not mismatch(
        f"<iq type='result'><pubsub xmlns='{PUBSUB}'><items node='musings'>"
        + "".join(f"<item id='i{n}' publisher='!'><entry xmlns='urn:test'>text {n}</entry></item>" for n in range(4))
        + f"</items><set xmlns='{RSM}' absent='!'/></pubsub></iq>",
        got,
    )


async def test_example_076_some_items_and_word_of_the_rest() -> None:
    async with World(settings={"modules": {"pubsub": {"page": 3}}}) as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage)
        for number in range(5):
            await stage.publish(romeo, "musings", f"i{number}")
        got = await stage.get(juliet, "<items node='musings'/>")
        assert not mismatch(
            f"<iq type='result'><pubsub xmlns='{PUBSUB}'><items node='musings'/><set xmlns='{RSM}'>"
            "<first index='0'>i0</first><last>i2</last><count>5</count></set></pubsub></iq>",
            got,
        )


async def test_items_are_paged_both_ways(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for number in range(7):
        await stages.publish(romeo, "musings", f"i{number}")

    async def page(inner: str) -> list[str]:
        got = await stages.get(juliet, f"<items node='musings'/><set xmlns='{RSM}'><max>3</max>{inner}</set>")
        assert got.findtext(f".//{{{RSM}}}count") == "7"
        return [str(i.get("id")) for i in got.iterfind(f".//{{{PUBSUB}}}item")]

    assert await page("") == ["i0", "i1", "i2"]
    assert await page("<after>i2</after>") == ["i3", "i4", "i5"]
    assert await page("<after>i6</after>") == []
    assert await page("<before/>") == ["i4", "i5", "i6"]
    assert await page("<before>i4</before>") == ["i1", "i2", "i3"]
    assert await page("<index>5</index>") == ["i5", "i6"]
    got = await stages.get(juliet, f"<items node='musings'/><set xmlns='{RSM}'><max>0</max></set>")
    assert got.findtext(f".//{{{RSM}}}count") == "7"
    request = f"<items node='musings'/><set xmlns='{RSM}'><after>gone</after></set>"
    await stages.refused(juliet, "get", request, "item-not-found")


async def test_an_answer_is_bounded_in_bytes() -> None:
    async with World(settings={"modules": {"pubsub": {"page_bytes": 1024}}}) as world:
        stage = Stage(world)
        romeo, juliet = await cast(stage)
        for number in range(4):
            await stage.publish(romeo, "musings", f"i{number}", "x" * 500)
        assert len(await stage.items(juliet, "musings")) == 1
        assert await stage.items(juliet, "musings", max_items="4") == ["i3"]


async def test_example_077_last_item(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for number in range(3):
        await stages.publish(romeo, "musings", f"i{number}")
    assert await stages.items(juliet, "musings", max_items="1") == ["i2"]


async def test_examples_078_079_083_items_by_id(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for number in range(4):
        await stages.publish(romeo, "musings", f"i{number}")
    got = await stages.get(juliet, "<items node='musings'><item id='i1'/><item id='none'/><item id='i3'/></items>")
    assert [i.get("id") for i in got.iterfind(f".//{{{PUBSUB}}}item")] == ["i1", "i3"]
    got = await stages.get(juliet, "<items node='musings'><item id='i2'/></items>")
    assert [i.get("id") for i in got.iterfind(f".//{{{PUBSUB}}}item")] == ["i2"]


async def test_examples_080_082_most_recent_items(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    assert await stages.items(juliet, "musings", max_items="2") == []
    for number in range(4):
        await stages.publish(romeo, "musings", f"i{number}")
    assert await stages.items(juliet, "musings", max_items="2") == ["i2", "i3"]
    assert await stages.items(juliet, "musings", max_items="9") == ["i0", "i1", "i2", "i3"]
    await stages.refused(juliet, "get", "<items node='musings' max_items='many'/>", "bad-request")


async def test_example_086_not_subscribed_to_an_authorize_node(stages: Stage) -> None:
    romeo, juliet = await cast(stages, access_model="authorize")
    request = "<items node='musings'/>"
    await stages.refused(juliet, "get", request, "not-authorized", "not-subscribed", kind="auth")
    await stages.subscribe(juliet, "musings")
    await stages.refused(juliet, "get", request, "not-authorized", "not-subscribed", kind="auth")
    await stages.get(romeo, request)


async def test_example_087_nothing_is_persistent_there(stages: Stage) -> None:
    romeo, juliet = await cast(stages, persist_items="0", deliver_payloads="0")
    request = "<items node='musings'/>"
    error = await stages.refused(juliet, "get", request, "feature-not-implemented", "unsupported", kind="cancel")
    assert error.find(f"{{{PUBSUB}#errors}}unsupported").get("feature") == "persistent-items"  # type: ignore[union-attr]
    await stages.create(romeo, "transient", persist_items="0")
    await stages.subscribe(juliet, "transient")
    await stages.publish(romeo, "transient", "i1")
    assert await stages.ids(juliet) == ["i1"]
    assert await stages.items(juliet, "transient") == []


async def test_example_095_no_such_items(stages: Stage) -> None:
    _, juliet = await cast(stages)
    got = await stages.get(juliet, "<items node='musings'><item id='none'/></items>")
    assert not mismatch(f"<iq type='result'><pubsub xmlns='{PUBSUB}'><items node='musings'/></pubsub></iq>", got)
    assert got.find(f".//{{{PUBSUB}}}item") is None
