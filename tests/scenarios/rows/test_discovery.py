"""What can be found out: about servers and services, about clients, and what they can do, told once."""

from __future__ import annotations

from beamish.core.services import CapsService
from beamish.testing.client import Client
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

from .kit import INFO, ITEMS, MUC, ROOM, STANZAS, capabilities, condition, disco, enter, features, items, kind, tell
from .stage import NET, ORG, Stage

CAPS = "http://jabber.org/protocol/caps"
UPLOAD = "urn:xmpp:http:upload:0"
PUBSUB = "http://jabber.org/protocol/pubsub"
PROXY = "http://jabber.org/protocol/bytestreams"
SERVICES = {
    "upload.example.org": ("store", "file", UPLOAD),
    "proxy.example.org": ("proxy", "bytestreams", PROXY),
}
"""Services that are components: address → category, type, feature."""


def serve(component: Client, identity: tuple[str, str, str]) -> None:
    """Make a component answer disco by itself."""
    category, type_, feature = identity
    told = f"<identity category='{category}' type='{type_}'/><feature var='{INFO}'/><feature var='{feature}'/>"
    take = component.feed

    def answer(data: bytes) -> None:
        take(data)
        while component.inbox:
            got = component.inbox.popleft()
            component.send(
                f"<iq type='result' id='{got.get('id')}' from='{got.get('to')}' to='{got.get('from')}'>"
                f"<query xmlns='{INFO}'>{told}</query></iq>"
            )

    component.feed = answer  # type: ignore[method-assign]


async def identities(client: Client, to: str) -> set[tuple[str, str]]:
    query = await disco(client, INFO, to)
    return {(el.get("category", ""), el.get("type", "")) for el in query.findall(f"{{{INFO}}}identity")}


async def test_row_27_disco_of_server_and_services(stage: Stage) -> None:
    """A client finds rooms, pubsub, upload, proxy from the domain alone; unknown node ⇒ item-not-found."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await enter(stage, juliet, "juliet")
    for domain, identity in SERVICES.items():
        serve(await stage.component(domain), identity)
    wanted = {
        ("conference", "text", MUC): "conference.example.org",
        ("pubsub", "service", PUBSUB): "pubsub.example.org",
        **{identity: domain for domain, identity in SERVICES.items()},
    }
    for client in (romeo, benvolio):  # of the domain, and from elsewhere
        assert ("server", "im") in await identities(client, ORG)
        assert {INFO, ITEMS} <= await features(client, ORG)
        services = await items(client, ORG)
        assert services == {*wanted.values(), "gate.example.org"}
        for one in wanted.values():
            who, can = await identities(client, one), await features(client, one)
            found = [key for key in wanted if key[:2] in who and key[2] in can]
            assert [wanted[key] for key in found] == [one], "what each is can be told from its identity and features"
        assert await items(client, "conference.example.org") == {ROOM}
    for to in (ORG, "conference.example.org", "pubsub.example.org", ROOM, ""):
        for what in (INFO, ITEMS):
            error = await disco(romeo, what, to, "urn:example:nothing", "error")
            assert condition(error) == "item-not-found", (to, what)
    # accounts tell themselves to those who may see them, and to nobody else
    assert ("account", "registered") in await identities(romeo, "romeo@example.org")
    for stranger in (juliet, benvolio):
        assert condition(await disco(stranger, INFO, "romeo@example.org", type="error")) == "service-unavailable"
        assert await items(stranger, "romeo@example.org") == set()
    await stage.befriend(romeo, benvolio)
    assert ("account", "registered") in await identities(benvolio, "romeo@example.org")
    assert romeo.jid in await items(benvolio, "romeo@example.org")


async def test_row_28_disco_of_a_client(stage: Stage) -> None:
    """Disco get to a connected full JID is delivered and answered end to end, also over s2s; vanished resource ⇒
    service-unavailable."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    phone = await stage.login("juliet@example.org/phone", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    mercutio = await stage.login("mercutio@example.org/square", presence=True)
    await stage.befriend(romeo, juliet)
    await stage.befriend(benvolio, juliet)
    told = "<identity category='client' type='pc' name='Play'/><feature var='urn:example:dance'/>"
    for asking in (romeo, benvolio):
        for what, answer in ((INFO, told), (ITEMS, "<item jid='juliet@example.org/balcony' node='dances'/>")):
            asking.send(f"<iq type='get' id='d' to='{juliet.jid}'><query xmlns='{what}' node='n'/></iq>")
            await juliet.expect(
                f"<iq type='get' id='d' from='{asking.jid}' to='{juliet.jid}'><query xmlns='{what}' node='n'/></iq>"
            )
            juliet.send(
                f"<iq type='result' id='d' to='{asking.jid}'><query xmlns='{what}' node='n'>{answer}</query></iq>"
            )
            await asking.expect(
                f"<iq type='result' id='d' from='{juliet.jid}'><query xmlns='{what}' node='n'>{answer}</query></iq>"
            )
    # … and the other way round
    juliet.send(f"<iq type='get' id='b' to='{benvolio.jid}'><query xmlns='{INFO}'/></iq>")
    await benvolio.expect(f"<iq type='get' id='b' from='{juliet.jid}'><query xmlns='{INFO}'/></iq>")
    refusal = f"<error type='cancel'><feature-not-implemented xmlns='{STANZAS}'/></error>"
    benvolio.send(f"<iq type='error' id='b' to='{juliet.jid}'>{refusal}</iq>")
    assert (
        condition(await juliet.expect(f"<iq type='error' id='b' from='{benvolio.jid}'/>")) == "feature-not-implemented"
    )
    await stage.nothing(phone)
    # who may not see her learns nothing, whether she is there or not
    for resource in ("balcony", "nowhere"):
        error = await disco(mercutio, INFO, f"juliet@example.org/{resource}", type="error")
        assert condition(error) == "service-unavailable"
    await stage.nothing(juliet)
    gone = juliet.jid
    await stage.leave(juliet)
    for asking in (romeo, benvolio):
        assert condition(await disco(asking, INFO, gone, type="error")) == "service-unavailable"
        assert condition(await disco(asking, INFO, "juliet@example.org/nowhere", type="error")) == "service-unavailable"
    assert {kind(el) for el in await stage.take(phone)} == {"presence"}, "nobody else is asked in her place"


def known(stage: Stage, jid: str, domain: str = ORG) -> frozenset[str] | None:
    """What a server knows of a client's abilities."""
    found: frozenset[str] | None = stage.kernel(domain).service(CapsService).features(JID.parse(jid))
    return found


def asked(got: list[Element]) -> list[str]:
    """The nodes about which there are questions among what has arrived."""
    return [el[0].get("node", "") for el in got if kind(el) == "iq" and el[0].tag == f"{{{INFO}}}query"]


async def test_row_29_caps_with_hash(stage: Stage) -> None:
    """Server verifies the hash, caches per hash across restarts, asks once per unknown hash, refuses poisoned legacy hashes."""
    c, node, answer = capabilities("urn:example:a", "urn:example:b")
    romeo = await stage.login("romeo@example.org/orchard", extra=c)
    assert known(stage, romeo.jid) is None, "not before it has been proved"
    phone = await stage.login("romeo@example.org/phone", extra=c)
    juliet = await stage.login("juliet@example.org/balcony", extra=c)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await tell(stage, romeo, node, answer)
    await stage.quiet()
    wanted = frozenset({INFO, "urn:example:a", "urn:example:b"})
    for client in (romeo, phone, juliet):
        assert known(stage, client.jid) == wanted, "one answer holds for everybody with the hash"
    for client in (romeo, phone, juliet):
        assert asked(await stage.take(client)) == [], "one question for a hash"

    # contacts on other servers: asked over s2s, once
    await stage.befriend(romeo, benvolio)
    far_c, far_node, far_answer = capabilities("urn:example:far")
    benvolio.send(f"<presence>{far_c}</presence>")
    for _ in (NET, ORG):  # by both servers, each for itself
        question = await stage.seek(benvolio, f"<iq type='get'><query xmlns='{INFO}' node='{far_node}'/></iq>")
        result = f"<query xmlns='{INFO}' node='{far_node}'>{far_answer}</query>"
        benvolio.send(f"<iq type='result' id='{question.get('id')}' to='{question.get('from')}'>{result}</iq>")
    await stage.quiet()
    assert known(stage, benvolio.jid) == frozenset({INFO, "urn:example:far"}) == known(stage, benvolio.jid, NET)
    await stage.clear()
    benvolio.send(f"<presence><show>away</show>{far_c}</presence>")
    assert asked(await stage.take(benvolio)) == []

    # an answer that does not fit the hash is not believed, nor one that hides a feature in another: the next one is asked
    true_c, true_node, true_answer = capabilities("urn:example:c", "urn:example:d")
    lies = (
        true_answer.replace("urn:example:d", "urn:example:evil"),
        true_answer.replace("'/><feature var='urn:example:d", "&lt;urn:example:d"),
    )
    assert all(lie != true_answer for lie in lies)
    for address, lie in zip(("mercutio@example.org/square", "nurse@example.org/house"), lies, strict=True):
        liar = await stage.login(address, extra=true_c)
        await tell(stage, liar, true_node, lie)
        await stage.quiet()
        assert known(stage, liar.jid) is None
    honest = await stage.login("juliet@example.org/garden", extra=true_c)
    await tell(stage, honest, true_node, true_answer)
    await stage.quiet()
    assert known(stage, honest.jid) == frozenset({INFO, "urn:example:c", "urn:example:d"})

    # the format before hashes is ignored: nothing in it can be proved
    legacy = f"<c xmlns='{CAPS}' node='http://old.example' ver='0.9' ext='a b'/>"
    old = await stage.login("nurse@example.org/attic", extra=legacy)
    assert asked(await stage.take(old)) == [] and known(stage, old.jid) is None

    await stage.restart()
    romeo = await stage.login("romeo@example.org/orchard", extra=c)
    juliet = await stage.login("juliet@example.org/garden", extra=true_c)
    assert asked(await stage.take(romeo)) == asked(await stage.take(juliet)) == []
    assert known(stage, romeo.jid) == wanted and "urn:example:d" in (known(stage, juliet.jid) or ())
    # the server's own are in its stream features
    assert romeo.features is not None
    own = romeo.features.find(f"{{{CAPS}}}c")
    assert own is not None and own.get("hash") == "sha-1"
    assert await features(romeo, ORG, f"{own.get('node')}#{own.get('ver')}") == await features(romeo, ORG)


async def test_row_30_caps_optimisation(stage: Stage) -> None:
    """Second presence with same `ver` is forwarded without `<c/>`, feature advertised; the cases of the interop class."""
    c, node, answer = capabilities("urn:example:a")
    new_c, new_node, new_answer = capabilities("urn:example:a", "urn:example:b")
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.befriend(juliet, romeo)
    await stage.befriend(juliet, benvolio)
    assert {CAPS, f"{CAPS}#optimize"} <= await features(romeo, ORG)

    async def seen(client: Client) -> list[tuple[bool, str | None]]:
        """Presences of Juliet's: whether each is annotated, and its status."""
        return [
            (el.find(f"{{{CAPS}}}c") is not None, el.findtext("{jabber:client}status"))
            for el in await stage.take(client)
            if kind(el) == "presence" and el.get("from") == juliet.jid and el.get("type") is None
        ]

    juliet.send(f"<presence>{c}<status>1</status></presence>")
    await tell(stage, juliet, node, answer)
    juliet.send(f"<presence><show>away</show>{c}<status>2</status></presence>")
    juliet.send(f"<presence>{c}<status>3</status></presence>")
    assert await seen(romeo) == [(True, "1"), (False, "2"), (False, "3")]
    far = await seen(benvolio)
    assert [status for _, status in far] == ["1", "2", "3"] and far[0][0], "elsewhere the first has it at least"
    # a change reaches everybody who was told before
    juliet.send(f"<presence>{new_c}<status>4</status></presence>")
    await tell(stage, juliet, new_node, new_answer)
    juliet.send(f"<presence>{new_c}<status>5</status></presence>")
    assert await seen(romeo) == [(True, "4"), (False, "5")]
    # a new device has been told nothing yet
    garden = await stage.login("romeo@example.org/garden", presence=True)
    assert await seen(garden) == [(True, "5")] and await seen(romeo) == []
    # nor has who was unsubscribed, and subscribes again
    romeo.send("<presence to='juliet@example.org' type='unsubscribe'/>")
    await stage.clear()
    romeo.send("<presence to='juliet@example.org' type='subscribe'/>")
    await stage.seek(juliet, "<presence type='subscribe' from='romeo@example.org'/>")
    juliet.send("<presence to='romeo@example.org' type='subscribed'/>")
    assert await seen(romeo) == [(True, "5")] == await seen(garden)
    juliet.send(f"<presence>{new_c}<status>6</status></presence>")
    assert await seen(romeo) == [(False, "6")] == await seen(garden)
    # nor has anybody after a restart
    await stage.restart()
    juliet = await stage.login("juliet@example.org/balcony", extra=new_c)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    assert [annotated for annotated, _ in await seen(romeo)] == [True]
    juliet.send(f"<presence>{new_c}<status>7</status></presence>")
    assert await seen(romeo) == [(False, "7")]
