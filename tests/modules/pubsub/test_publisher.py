"""XEP-0060 §7: the publisher's use cases, with the numbers of the specification's examples."""

from __future__ import annotations

import pytest

from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World

from .kit import EVENT, OWNER, PUBSUB, SERVICE, Stage, form

OPTIONS = f"{PUBSUB}#publish-options"
ENTRY = "<entry xmlns='urn:test'>x</entry>"
SHIM = "http://jabber.org/protocol/shim"


async def cast(stage: Stage, **config: str) -> tuple[Client, Client]:
    """Romeo, who owns the node `musings`, and Juliet, who is subscribed to it."""
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings", **config)
    await stage.subscribe(juliet, "musings")
    return romeo, juliet


async def affiliate(stage: Stage, owner: Client, who: str, affiliation: str) -> None:
    inner = f"<affiliations node='musings'><affiliation jid='{who}' affiliation='{affiliation}'/></affiliations>"
    await stage.set(owner, inner, ns=OWNER)


async def test_examples_096_098_100_with_an_id(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    got = await stages.set(romeo, f"<publish node='musings'><item id='ae89'>{ENTRY}</item></publish>")
    assert not mismatch(
        f"<iq type='result' from='{SERVICE}'><pubsub xmlns='{PUBSUB}'><publish node='musings'><item id='ae89'/>"
        "</publish></pubsub></iq>",
        got,
    )
    told = await juliet.expect(
        f"<message from='{SERVICE}' to='juliet@example.org' id='*' type='headline'><event xmlns='{EVENT}'>"
        f"<items node='musings'><item id='ae89' publisher='!'>{ENTRY}</item></items></event></message>"
    )
    assert len(told) == 1


async def test_examples_097_099_without_an_id(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    ids = [await stages.publish(romeo, "musings") for _ in range(3)]
    assert len(set(ids)) == 3
    assert await stages.ids(juliet) == ids
    assert await stages.items(juliet, "musings") == ids


async def test_a_payload_stays_what_it_was(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    payload = (
        "<x:entry xmlns:x='urn:test' xmlns:y='urn:other' xml:lang='en' y:a='&lt;&amp;&apos;&quot;&#10;'>"
        "<plain xmlns=''/><message xmlns='jabber:client' to='x'><body>ü &#x1F600;</body></message><x:b/></x:entry>"
    )
    await stages.set(romeo, f"<publish node='musings'><item id='1'>{payload}</item></publish>")
    event = await juliet.expect(f"<message><event xmlns='{EVENT}'><items node='musings'/></event></message>")
    got = await stages.get(juliet, "<items node='musings'/>")
    for item in (event.find(f".//{{{EVENT}}}item"), got.find(f".//{{{PUBSUB}}}item")):
        assert item is not None and len(item) == 1
        assert not mismatch(payload, item[0])
        assert item[0].find("plain") is not None


async def test_publishing_again_replaces_and_moves_to_the_end(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for id_ in ("a", "b", "a"):
        await stages.publish(romeo, "musings", id_, f"text of {id_}")
    assert await stages.ids(juliet) == ["a", "b", "a"]
    assert await stages.items(juliet, "musings") == ["b", "a"]


async def test_example_101_without_payload(stages: Stage) -> None:
    romeo, juliet = await cast(stages, deliver_payloads="0")
    await stages.publish(romeo, "musings", "i1", "news")
    told = await juliet.expect(
        f"<message><event xmlns='{EVENT}'><items node='musings'><item id='i1'/></items></event></message>"
    )
    assert len(told.find(f".//{{{EVENT}}}item")) == 0  # type: ignore[arg-type]
    got = await stages.get(juliet, "<items node='musings'><item id='i1'/></items>")
    assert got.findtext(".//{urn:test}entry") == "news"


@pytest.mark.parametrize(
    ("model", "stamped"), [("publisher", "mercutio@example.org"), ("owner", "romeo@example.org"), ("none", None)]
)
async def test_examples_102_103_item_publisher(stage: Stage, model: str, stamped: str | None) -> None:
    _, juliet = await cast(stage, publish_model="open", itemreply=model)
    mercutio = await stage.login("mercutio@example.org/street")
    forged = f"<publish node='musings'><item id='i1' publisher='nurse@example.org'>{ENTRY}</item></publish>"
    await stage.set(mercutio, forged)
    told = await juliet.receive()
    got = await stage.get(juliet, "<items node='musings'/>")
    assert told.find(f".//{{{EVENT}}}item").get("publisher") == stamped  # type: ignore[union-attr]
    assert got.find(f".//{{{PUBSUB}}}item").get("publisher") == stamped  # type: ignore[union-attr]


async def test_examples_104_118_one_notification_for_several_subscriptions(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    subids = {
        s.get("subid") for s in (await stages.get(juliet, "<subscriptions/>")).iterfind(f".//{{{PUBSUB}}}subscription")
    }
    subids.add((await stages.subscribe(juliet, "musings", include_body="1")).get("subid"))
    full = await stages.subscribe(juliet, "musings", str(juliet.jid))
    assert full.get("subid") not in subids
    await stages.publish(romeo, "musings", "i1")
    await stages.set(romeo, "<retract node='musings' notify='1'><item id='i1'/></retract>")
    await stages.quiet(juliet)
    notes = list(juliet.inbox)
    assert len(notes) == 4
    for told in notes:
        headers = {h.text for h in told.iterfind(f"{{{SHIM}}}headers/{{{SHIM}}}header[@name='SubID']")}
        assert headers == (subids if told.get("to") == "juliet@example.org" else set())
        if headers:
            assert told[-1].tag == f"{{{SHIM}}}headers"


@pytest.mark.parametrize(("action", "retracted"), [("retract-oldest", ["i0"]), ("discard-oldest", []), ("", ["i0"])])
async def test_a_full_node_loses_the_oldest(stage: Stage, action: str, retracted: list[str]) -> None:
    config = {"publish_node_full": action} if action else {}
    romeo, juliet = await cast(stage, max_items="2", **config)
    for number in range(3):
        juliet.inbox.clear()
        await stage.publish(romeo, "musings", f"i{number}")
    await stage.quiet(juliet)
    (told,) = juliet.inbox
    assert [r.get("id") for r in told.iterfind(f".//{{{EVENT}}}retract")] == retracted
    assert await stage.items(juliet, "musings") == ["i1", "i2"]


async def test_example_105_may_not_publish(stages: Stage) -> None:
    _, juliet = await cast(stages)
    request = f"<publish node='musings'><item>{ENTRY}</item></publish>"
    await stages.refused(juliet, "set", request, "forbidden", kind="auth")


@pytest.mark.parametrize(
    ("model", "affiliation", "subscribed", "may"),
    [
        ("publishers", "publisher", False, True),
        ("publishers", "publish-only", False, True),
        ("publishers", "member", True, False),
        ("publishers", "none", True, False),
        ("subscribers", "none", True, True),
        ("subscribers", "none", False, False),
        ("subscribers", "member", False, False),
        ("open", "none", False, True),
        ("open", "outcast", False, False),
    ],
)
async def test_publish_models(stage: Stage, model: str, affiliation: str, subscribed: bool, may: bool) -> None:
    romeo, _ = await cast(stage, publish_model=model)
    mercutio = await stage.login("mercutio@example.org/street")
    if affiliation != "none":
        await affiliate(stage, romeo, "mercutio@example.org", affiliation)
    if subscribed:
        await stage.subscribe(mercutio, "musings")
    request = f"<publish node='musings'><item>{ENTRY}</item></publish>"
    if may:
        await stage.set(mercutio, request)
    else:
        await stage.refused(mercutio, "set", request, "forbidden", kind="auth")


@pytest.mark.parametrize("access", ["open", "presence"])  # with and without a look at rosters
@pytest.mark.parametrize(
    ("affiliation", "may"), [("none", False), ("publish-only", False), ("publisher", True), ("owner", True)]
)
async def test_where_everybody_publishes_nobody_replaces_what_others_said(
    stage: Stage, affiliation: str, may: bool, access: str
) -> None:
    """Comments: whoever may not delete an item may not put something else in its place (§4.1, §7.2.3.1)."""
    romeo, juliet = await cast(stage, publish_model="open")
    mercutio = await stage.login("mercutio@example.org/street")
    await stage.publish(juliet, "musings", "i1", "mine")
    if access != "open":
        change = form(f"{PUBSUB}#node_config", {"access_model": access})
        await stage.set(romeo, f"<configure node='musings'>{change}</configure>", ns=OWNER)
    if affiliation != "none":
        await affiliate(stage, romeo, "mercutio@example.org", affiliation)
    await stage.publish(juliet, "musings", "i1", "mine again")
    await stage.publish(mercutio, "musings", "i2", "his")
    await stage.publish(mercutio, "musings", "i2", "his again")
    request = f"<publish node='musings'><item id='i3'>{ENTRY}</item><item id='i1'>{ENTRY}</item></publish>"
    if may:
        await stage.set(mercutio, request)
        return
    await stage.refused(mercutio, "set", request, "forbidden", kind="auth")
    got = await stage.get(romeo, "<items node='musings'/>")
    said = {item.get("id"): "".join(item.itertext()) for item in got.iterfind(f".//{{{PUBSUB}}}item")}
    assert said == {"i1": "mine again", "i2": "his again"}


async def test_example_107_no_such_node(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    request = f"<publish node='none'><item>{ENTRY}</item></publish>"
    await stages.refused(romeo, "set", request, "item-not-found", kind="cancel")
    await stages.refused(romeo, "set", f"<publish><item>{ENTRY}</item></publish>", "bad-request", "nodeid-required")


async def test_a_service_that_makes_nodes_by_itself() -> None:
    async with World(settings={"modules": {"pubsub": {"auto_create": True}}}) as world:
        stage = Stage(world)
        romeo = await world.login("romeo@example.org/orchard")
        info = await romeo.iq(
            f"<iq type='get' id='d' to='{SERVICE}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        assert f"{PUBSUB}#auto-create" in {el.get("var") for el in info.iter()}
        await stage.publish(romeo, "fresh", "i1")
        got = await stage.get(romeo, "<affiliations node='fresh'/>")
        assert got.find(f".//{{{PUBSUB}}}affiliation").get("affiliation") == "owner"  # type: ignore[union-attr]


async def test_example_108_full_node_that_rejects(stages: Stage) -> None:
    romeo, juliet = await cast(stages, max_items="2", publish_node_full="reject")
    for id_ in ("a", "b", "b"):
        await stages.publish(romeo, "musings", id_)
    request = f"<publish node='musings'><item id='c'>{ENTRY}</item></publish>"
    await stages.refused(romeo, "set", request, "conflict", "node-full", kind="cancel")
    assert await stages.items(juliet, "musings") == ["a", "b"]


async def test_example_109_payload_too_big(stages: Stage) -> None:
    romeo, juliet = await cast(stages, max_payload_size="100")
    request = f"<publish node='musings'><item><entry xmlns='urn:test'>{'x' * 100}</entry></item></publish>"
    await stages.refused(romeo, "set", request, "not-acceptable", "payload-too-big", kind="modify")
    assert await stages.items(juliet, "musings") == []


@pytest.mark.parametrize("payload", [ENTRY + ENTRY, "<entry xmlns=''/>"])
async def test_example_110_bad_payload(stage: Stage, payload: str) -> None:
    romeo, _ = await cast(stage)
    request = f"<publish node='musings'><item>{payload}</item></publish>"
    await stage.refused(romeo, "set", request, "bad-request", "invalid-payload", kind="modify")


async def test_examples_111_112_113_what_the_configuration_asks_for(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.refused(romeo, "set", "<publish node='musings'/>", "bad-request", "item-required", kind="modify")
    empty = "<publish node='musings'><item id='i1'/></publish>"
    await stages.refused(romeo, "set", empty, "bad-request", "payload-required", kind="modify")
    await stages.create(romeo, "doorbell", persist_items="0", deliver_payloads="0")
    await stages.subscribe(juliet, "doorbell")
    request = f"<publish node='doorbell'><item>{ENTRY}</item></publish>"
    await stages.refused(romeo, "set", request, "bad-request", "item-forbidden", kind="modify")
    await stages.set(romeo, "<publish node='doorbell'/>")
    told = await juliet.expect(f"<message><event xmlns='{EVENT}'><items node='doorbell'/></event></message>")
    assert len(told.find(f".//{{{EVENT}}}items")) == 0  # type: ignore[arg-type]
    await stages.create(romeo, "names", deliver_payloads="0")
    await stages.set(romeo, "<publish node='names'><item id='i1'/></publish>")
    assert await stages.items(romeo, "names") == ["i1"]


async def test_example_114_publish_options_are_preconditions(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    publish = f"<publish node='musings'><item id='i1'>{ENTRY}</item></publish>"

    def with_options(**fields: str) -> str:
        return f"{publish}<publish-options>{form(OPTIONS, fields)}</publish-options>"

    await stages.set(romeo, with_options(access_model="open", max_items="20", persist_items="true"))
    assert await stages.ids(juliet) == ["i1"]
    for fields in ({"access_model": "presence"}, {"max_items": "max"}, {"persist_items": "0"}):
        request = with_options(**fields)
        await stages.refused(romeo, "set", request, "conflict", "precondition-not-met", kind="cancel")
    await stages.refused(romeo, "set", with_options(nonsense="1"), "bad-request", "precondition-not-met")
    await stages.refused(romeo, "set", f"{publish}<publish-options/>", "bad-request")
    await stages.quiet(juliet)
    assert not juliet.inbox


async def test_examples_115_116_117_delete_and_notify(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await stages.publish(romeo, "musings", "i1")
    await stages.publish(romeo, "musings", "i2")
    await stages.quiet(juliet)
    juliet.inbox.clear()
    await stages.set(romeo, "<retract node='musings' notify='true'><item id='i1'/></retract>")
    await juliet.expect(
        f"<message from='{SERVICE}'><event xmlns='{EVENT}'><items node='musings'><retract id='i1'/></items></event></message>"
    )
    await stages.set(romeo, "<retract node='musings' notify='0'><item id='i2'/></retract>")
    await stages.quiet(juliet)
    assert not juliet.inbox
    assert await stages.items(juliet, "musings") == []


async def test_the_last_item_is_another_one_after_a_retraction(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    for id_ in ("i1", "i2"):
        await stages.publish(romeo, "musings", id_)
    await stages.set(romeo, "<retract node='musings'><item id='i2'/></retract>")
    assert await stages.items(juliet, "musings", max_items="1") == ["i1"]
    mercutio = await stages.login("mercutio@example.org/street")
    await stages.subscribe(mercutio, "musings")
    assert await stages.ids(mercutio) == ["i1"]


async def test_example_119_may_not_delete(stages: Stage) -> None:
    romeo, juliet = await cast(stages)
    await affiliate(stages, romeo, "mercutio@example.org", "publisher")
    mercutio = await stages.login("mercutio@example.org/street")
    await stages.publish(romeo, "musings", "i1")
    await stages.publish(mercutio, "musings", "i2")
    request = "<retract node='musings'><item id='i1'/></retract>"
    await stages.refused(juliet, "set", request, "forbidden", kind="auth")
    await stages.refused(mercutio, "set", request, "forbidden", kind="auth")
    await stages.set(mercutio, "<retract node='musings'><item id='i2'/></retract>")
    await stages.set(romeo, request)


async def test_examples_120_121_122_what_a_deletion_must_name(stages: Stage) -> None:
    romeo, _ = await cast(stages)
    for request, *conditions in (
        ("<retract node='none'><item id='i1'/></retract>", "item-not-found"),
        ("<retract node='musings'><item id='i1'/></retract>", "item-not-found"),
        ("<retract><item id='i1'/></retract>", "bad-request", "nodeid-required"),
        ("<retract node='musings'/>", "bad-request", "item-required"),
        ("<retract node='musings'><item/></retract>", "bad-request", "item-required"),
    ):
        await stages.refused(romeo, "set", request, *conditions)


async def test_example_123_nothing_persistent_to_delete(stages: Stage) -> None:
    romeo, _ = await cast(stages, persist_items="0")
    request = "<retract node='musings'><item id='i1'/></retract>"
    await stages.refused(romeo, "set", request, "feature-not-implemented", "unsupported", kind="cancel")


async def test_batches_are_all_or_nothing(stages: Stage) -> None:
    romeo, juliet = await cast(stages, max_items="3")
    batch = "".join(f"<item id='i{n}'>{ENTRY}</item>" for n in range(3))
    await stages.set(romeo, f"<publish node='musings'>{batch}</publish>")
    assert await stages.ids(juliet) == ["i0", "i1", "i2"]
    four = batch + f"<item id='i3'>{ENTRY}</item>"
    request = f"<publish node='musings'>{four}</publish>"
    await stages.refused(romeo, "set", request, "not-allowed", "max-items-exceeded", kind="cancel")
    request = f"<publish node='musings'><item id='new'>{ENTRY}</item><item id='bad'/></publish>"
    await stages.refused(romeo, "set", request, "bad-request", "payload-required")
    request = "<retract node='musings'><item id='i0'/><item id='none'/></retract>"
    await stages.refused(romeo, "set", request, "item-not-found")
    assert await stages.items(juliet, "musings") == ["i0", "i1", "i2"]


async def test_limits_of_the_service() -> None:
    bounds = {"max_payload": 1024, "max_stored": 1500, "max_items": 3, "max_nodes": 1}
    async with World(settings={"modules": {"pubsub": bounds}}) as world:
        stage = Stage(world)
        romeo = await world.login("romeo@example.org/orchard")
        await stage.create(romeo, "musings", max_items="max")
        text = "x" * 1100
        request = f"<publish node='musings'><item><entry xmlns='urn:test'>{text}</entry></item></publish>"
        await stage.refused(romeo, "set", request, "not-acceptable", "payload-too-big", kind="modify")
        await stage.publish(romeo, "musings", "a", "x" * 900)
        request = f"<publish node='musings'><item><entry xmlns='urn:test'>{'x' * 900}</entry></item></publish>"
        await stage.refused(romeo, "set", request, "resource-constraint", kind="wait")
        await stage.set(romeo, "<purge node='musings'/>", ns=OWNER)
        for number in range(5):
            await stage.publish(romeo, "musings", f"i{number}")
        assert await stage.items(romeo, "musings") == ["i2", "i3", "i4"]
        await stage.refused(romeo, "set", "<create node='more'/>", "resource-constraint", "max-nodes-exceeded")
        long = "n" * 1024
        await stage.refused(romeo, "set", f"<create node='{long}'/>", "not-acceptable")
        request = f"<publish node='musings'><item id='{long}'>{ENTRY}</item></publish>"
        await stage.refused(romeo, "set", request, "not-acceptable")


async def test_nobody_is_told_where_notifications_are_off(stages: Stage) -> None:
    romeo, juliet = await cast(stages, deliver_notifications="0")
    await stages.publish(romeo, "musings", "i1")
    await stages.set(romeo, "<retract node='musings' notify='1'><item id='i1'/></retract>")
    assert await stages.ids(juliet) == []
    await stages.quiet(juliet)
    assert not juliet.inbox


@pytest.mark.parametrize("kind", ["normal", "chat", "headline"])
async def test_type_of_notifications(stage: Stage, kind: str) -> None:
    romeo, juliet = await cast(stage, notification_type=kind)
    await stage.publish(romeo, "musings", "i1")
    told = await juliet.receive()
    assert told.get("type") == (None if kind == "normal" else kind)


async def test_items_expire(stage: Stage) -> None:
    romeo, juliet = await cast(stage, item_expire="3600")
    await stage.publish(romeo, "musings", "old")
    await stage.world.pass_time(3000)
    await stage.publish(romeo, "musings", "new")
    assert await stage.items(juliet, "musings") == ["old", "new"]
    await stage.world.pass_time(700)
    assert await stage.items(juliet, "musings") == ["new"]
    assert await stage.items(juliet, "musings", max_items="5") == ["new"]
    await stage.world.pass_time(4000)
    assert await stage.items(juliet, "musings", max_items="1") == []
    rows = await stage.world.db.fetch("SELECT count(*) FROM pubsub_item")
    assert rows == [(0,)]


async def test_a_publisher_that_goes_takes_its_items_along(stage: Stage) -> None:
    romeo, juliet = await cast(stage, purge_offline="1", publish_model="open")
    mercutio = await stage.login("mercutio@example.org/street")
    await stage.publish(mercutio, "musings", "hers")
    await stage.publish(romeo, "musings", "his")
    juliet.inbox.clear()
    mercutio.send("<presence type='unavailable'/>")
    await stage.quiet(juliet)
    assert await stage.items(juliet, "musings") == ["his"]
    await juliet.expect(
        f"<message><event xmlns='{EVENT}'><items node='musings'><retract id='hers'/></items></event></message>"
    )
    romeo.drop()
    await stage.quiet(juliet)
    assert await stage.items(juliet, "musings") == []
