"""XEP-0060 §5: discovery, and what one has at a service. The numbers are those of the specification's examples."""

from __future__ import annotations

from beamish.testing.match import mismatch
from beamish.testing.world import World

from .kit import PUBSUB, SERVICE, Stage

INFO = "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"


async def test_examples_007_008_features(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    got = await romeo.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{INFO}'/></iq>")
    assert not mismatch(
        f"<iq type='result' from='{SERVICE}'><query xmlns='{INFO}'><identity category='pubsub' type='service'/>"
        f"<feature var='{PUBSUB}'/></query></iq>",
        got,
    )
    said = {f.get("var", "") for f in got.iterfind(f".//{{{INFO}}}feature")}
    assert {f"{PUBSUB}#{name}" for name in ("publish", "subscribe", "subscription-options", "access-open")} <= said
    assert f"{PUBSUB}#auto-create" not in said
    at_server = await romeo.iq(f"<iq type='get' id='s' to='example.org'><query xmlns='{ITEMS}'/></iq>")
    assert not mismatch(f"<iq type='result'><query xmlns='{ITEMS}'><item jid='{SERVICE}'/></query></iq>", at_server)


async def test_examples_009_010_nodes_are_listed(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    await stages.create(romeo, "Romeoance", title="Letters to my Beloved")
    await stages.create(romeo, "secret", access_model="whitelist")
    mercutio = await stages.login("mercutio@example.org/street")
    got = await mercutio.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{ITEMS}'/></iq>")
    found = [(i.get("node"), i.get("name"), i.get("jid")) for i in got.iterfind(f".//{{{ITEMS}}}item")]
    assert found == [("Romeoance", "Letters to my Beloved", SERVICE)]
    got = await romeo.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{ITEMS}'/></iq>")
    assert [i.get("node") for i in got.iterfind(f".//{{{ITEMS}}}item")] == ["Romeoance", "secret"]


async def test_nodes_are_paged(stage: Stage) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    for number in range(5):
        await stage.create(romeo, f"n{number}")
    seen: list[str] = []
    after = ""
    for _ in range(3):
        got = await romeo.iq(
            f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{ITEMS}'>"
            f"<set xmlns='http://jabber.org/protocol/rsm'><max>2</max>{after}</set></query></iq>"
        )
        seen += [str(i.get("node")) for i in got.iterfind(f".//{{{ITEMS}}}item")]
        after = f"<after>{got.findtext('.//{http://jabber.org/protocol/rsm}last')}</after>"
        assert got.findtext(".//{http://jabber.org/protocol/rsm}count") == "5"
    assert seen == ["n0", "n1", "n2", "n3", "n4"]


FILTER = "urn:xmpp:pubsub-filter:0"


def of_types(fields: dict[str, list[str]], form_type: str = FILTER) -> str:
    """A filter of XEP-0462."""
    x = f"<field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>"
    for var, types in fields.items():
        x += f"<field var='{var}' type='list-multi'>{''.join(f'<value>{each}</value>' for each in types)}</field>"
    return f"<filter xmlns='{FILTER}'><x xmlns='jabber:x:data' type='submit'>{x}</x></filter>"


async def test_nodes_of_some_types_are_listed(stages: Stage) -> None:
    """XEP-0462, what Movim asks for."""
    romeo = await stages.login("romeo@example.org/orchard")
    info = await romeo.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{INFO}'/></iq>")
    assert FILTER in {f.get("var", "") for f in info.iterfind(f".//{{{INFO}}}feature")}
    await stages.create(romeo, "blog", type="urn:xmpp:microblog:0")
    await stages.create(romeo, "comments", type="urn:xmpp:microblog:0:comments")
    await stages.create(romeo, "plain")

    async def listed(inner: str) -> list[str | None]:
        got = await romeo.iq(f"<iq type='get' id='l' to='{SERVICE}'><query xmlns='{ITEMS}'>{inner}</query></iq>")
        return [i.get("node") for i in got.iterfind(f".//{{{ITEMS}}}item")]

    assert await listed(of_types({"included-types": ["urn:xmpp:microblog:0", ""]})) == ["blog", "plain"]
    assert await listed(of_types({"included-types": ["urn:xmpp:microblog:0:comments"]})) == ["comments"]
    assert await listed(of_types({"included-types": []})) == []
    assert await listed(of_types({"excluded-types": ["urn:xmpp:microblog:0:comments"]})) == ["blog", "plain"]
    assert await listed(of_types({"excluded-types": [""]})) == ["blog", "comments"]
    assert await listed(of_types({})) == await listed("") == ["blog", "comments", "plain"]
    first_page = "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max></set>"
    paged = of_types({"excluded-types": ["urn:xmpp:microblog:0"]}) + first_page
    got = await romeo.iq(f"<iq type='get' id='l' to='{SERVICE}'><query xmlns='{ITEMS}'>{paged}</query></iq>")
    assert [i.get("node") for i in got.iterfind(f".//{{{ITEMS}}}item")] == ["comments"]
    assert got.findtext(".//{http://jabber.org/protocol/rsm}count") == "2"


async def test_a_filter_that_is_none_is_refused(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    both = of_types({"included-types": ["a"], "excluded-types": ["b"]})
    for wrong in (both, of_types({"included-types": ["a"]}, form_type="urn:test"), f"<filter xmlns='{FILTER}'/>"):
        query = f"<iq type='get' id='l' to='{SERVICE}'><query xmlns='{ITEMS}'>{wrong}</query></iq>"
        refused = "<iq><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
        assert mismatch(refused, await romeo.iq(query, "error")) == ""


async def test_examples_011_014_node_information_and_meta_data(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    await stages.create(romeo, "musings", title="Princely Musings", type="urn:example:bundle", language="en")
    juliet = await stages.login("juliet@example.org/balcony")
    await stages.subscribe(juliet, "musings")
    got = await juliet.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{INFO}' node='musings'/></iq>")
    assert not mismatch(
        f"""<iq type='result'><query xmlns='{INFO}' node='musings'><identity category='pubsub' type='leaf'/>
        <feature var='{PUBSUB}'/><x xmlns='jabber:x:data' type='result'>
        <field var='FORM_TYPE' type='hidden'><value>{PUBSUB}#meta-data</value></field>
        <field var='pubsub#type'><value>urn:example:bundle</value></field>
        <field var='pubsub#creator'><value>romeo@example.org</value></field>
        <field var='pubsub#creation_date'><value/></field>
        <field var='pubsub#title'><value>Princely Musings</value></field>
        <field var='pubsub#language'><value>en</value></field>
        <field var='pubsub#access_model'><value>open</value></field>
        <field var='pubsub#publish_model'><value>publishers</value></field>
        <field var='pubsub#max_items'><value>20</value></field>
        <field var='pubsub#owner'><value>romeo@example.org</value></field>
        <field var='pubsub#num_subscribers'><value>1</value></field></x></query></iq>""",
        got,
    )
    await juliet.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{INFO}' node='none'/></iq>", type="error")


async def test_example_015_items_of_a_node(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    await stages.create(romeo, "musings")
    for number in range(3):
        await stages.publish(romeo, "musings", f"i{number}")
    got = await romeo.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='{ITEMS}' node='musings'/></iq>")
    found = [(i.get("jid"), i.get("name"), i.get("node")) for i in got.iterfind(f".//{{{ITEMS}}}item")]
    assert found == [(SERVICE, f"i{number}", None) for number in range(3)]


async def test_examples_016_021_subscriptions(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    juliet = await stages.login("juliet@example.org/balcony")
    got = await stages.get(juliet, "<subscriptions/>")
    assert len(got.find(f".//{{{PUBSUB}}}subscriptions")) == 0  # type: ignore[arg-type]
    for name in ("node1", "node2"):
        await stages.create(romeo, name)
    await stages.subscribe(juliet, "node1")
    first = await stages.subscribe(juliet, "node2")
    second = await stages.subscribe(juliet, "node2", deliver="0")
    full = await stages.subscribe(juliet, "node2", str(juliet.jid))
    got = await stages.get(juliet, "<subscriptions/>")
    found = [(s.get("node"), s.get("jid")) for s in got.iterfind(f".//{{{PUBSUB}}}subscription")]
    bare = juliet.jid.bare
    assert sorted(found) == [("node1", bare), ("node2", bare), ("node2", bare), ("node2", juliet.jid)]
    got = await stages.get(juliet, "<subscriptions node='node2'/>")
    subids = {s.get("subid") for s in got.iterfind(f".//{{{PUBSUB}}}subscription")}
    assert subids == {first.get("subid"), second.get("subid"), full.get("subid")}
    await stages.refused(juliet, "get", "<subscriptions node='none'/>", "item-not-found")


async def test_examples_022_027_affiliations(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    juliet = await stages.login("juliet@example.org/balcony")
    assert len(await stages.get(juliet, "<affiliations/>")) == 1
    for name in ("node1", "node2"):
        await stages.create(romeo, name)
    got = await stages.get(romeo, "<affiliations/>")
    found = [(a.get("node"), a.get("affiliation")) for a in got.iterfind(f".//{{{PUBSUB}}}affiliation")]
    assert sorted(found) == [("node1", "owner"), ("node2", "owner")]
    got = await stages.get(romeo, "<affiliations node='node1'/>")
    assert not mismatch(
        f"<iq type='result'><pubsub xmlns='{PUBSUB}'><affiliations node='node1'>"
        "<affiliation node='node1' affiliation='owner'/></affiliations></pubsub></iq>",
        got,
    )
    got = await stages.get(juliet, "<affiliations/>")
    assert got.find(f".//{{{PUBSUB}}}affiliation") is None


async def test_what_is_no_request_gets_an_error(stages: Stage) -> None:
    romeo = await stages.login("romeo@example.org/orchard")
    await stages.refused(romeo, "get", "", "bad-request")
    await stages.refused(romeo, "get", "<nonsense/>", "feature-not-implemented", "unsupported")
    await stages.refused(romeo, "set", "<items node='x'/>", "bad-request")
    await romeo.iq(f"<iq type='get' id='i' to='{SERVICE}'><query xmlns='urn:unknown'/></iq>", type="error")
    await romeo.iq(f"<iq type='get' id='i' to='x@{SERVICE}'><query xmlns='{INFO}'/></iq>", type="error")
    await romeo.iq(f"<iq type='get' id='i' to='{SERVICE}'><ping xmlns='urn:xmpp:ping'/></iq>")


async def test_each_domain_has_a_service_of_its_own() -> None:
    async with World() as world:
        stage = Stage(world)
        romeo = await world.login("romeo@example.org/orchard")
        await stage.create(romeo, "news")
        await stage.refused(romeo, "get", "<items node='news'/>", "item-not-found", to="pubsub.example.net")


async def test_without_a_host_only_accounts_have_nodes() -> None:
    async with World(settings={"modules": {"pubsub": {"host": ""}}}) as world:
        stage = Stage(world)
        romeo = await world.login("romeo@example.org/orchard")
        await stage.refused(romeo, "get", "<items node='news'/>", "remote-server-not-found")
        assert await stage.publish(romeo, "urn:test", "1", to="") == "1"
