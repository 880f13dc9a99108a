"""XEP-0030 through a whole server, with modules that contribute in every way there is."""

import asyncio
from collections.abc import Awaitable, Iterable

import pytest

from beamish.core.disco import DiscoInfo, DiscoItem, DiscoNode, items_bytes
from beamish.core.module import Identity, Module
from beamish.core.services import DiscoService
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element, from_bytes, make

INFO = "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"
ROOM_LIST = DiscoNode(
    DiscoInfo((Identity("hierarchy", "branch"),), ("urn:example:list",)),
    (DiscoItem(JID.parse("example.org"), "rooms/it's", "It's"),),
)


class Contributor(Module):
    """Everything at once, without waiting."""

    name = "test_contributor"
    features = ("urn:example:feature", "urn:example:<&'>")
    account_features = ("urn:example:account",)
    identities = (Identity("directory", "chatroom", "Rooms"),)
    account_identities = (Identity("pubsub", "pep"),)

    def disco_items(self, at: JID, asker: JID) -> Iterable[DiscoItem]:
        """A service of the first domain."""
        return [DiscoItem(JID.parse("rooms.example.org"), "", "Rooms & more")] if at == "example.org" else []

    def disco_forms(self, domain: str) -> Iterable[Element]:
        """One field."""
        field = make("{jabber:x:data}field", {"var": "domain"}, make("{jabber:x:data}value", None, domain))
        return [make("{jabber:x:data}x", {"type": "result"}, field)]

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | None:
        """A node of domains."""
        return ROOM_LIST if node == "rooms" and not at.local else None


class LateContributor(Module):
    """The same with waiting."""

    name = "test_late"

    def disco_items(self, at: JID, asker: JID) -> Awaitable[Iterable[DiscoItem]]:
        """An item of Romeo's, shown to everybody."""

        async def look() -> Iterable[DiscoItem]:
            await asyncio.sleep(0)
            return [DiscoItem(at, "urn:example:late")] if at == "romeo@example.org" else []

        return look()

    def disco_node(self, at: JID, node: str, asker: JID) -> Awaitable[DiscoNode | None]:
        """A node of everybody's."""

        async def look() -> DiscoNode | None:
            await asyncio.sleep(0)
            return DiscoNode(DiscoInfo(features=("urn:example:late",))) if node == "late" else None

        return look()


async def ask(client: Client, namespace: str, to: str = "", node: str = "", type: str = "result") -> Element:
    at = f" to='{to}'" if to else ""
    nodes = f" node='{node}'" if node else ""
    answer = await client.iq(f"<iq type='get' id='d1'{at}><query xmlns='{namespace}'{nodes}/></iq>", type=type)
    return answer if type == "error" else answer[0]


def features(query: Element) -> list[str | None]:
    return [el.get("var") for el in query.findall("{*}feature")]


def identities(query: Element) -> list[tuple[str | None, ...]]:
    return [(el.get("category"), el.get("type"), el.get("name")) for el in query.findall("{*}identity")]


def items(query: Element) -> list[tuple[str | None, ...]]:
    return [(el.get("jid"), el.get("node"), el.get("name")) for el in query]


async def test_a_domain_says_what_the_running_modules_declare(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    query = await ask(romeo, INFO, "example.org")
    assert identities(query)[0] == ("server", "im", "Beamish")
    declared = {f for module in world.kernel.registry.modules for f in module.features}
    assert {INFO, ITEMS, "urn:xmpp:ping", "msgoffline"} <= declared
    assert features(query) == sorted(declared), "each once, in an order that does not change"
    assert query.get("node") is None
    own = {host for host, _, _ in items(await ask(romeo, ITEMS, "example.org"))}
    assert own <= {"conference.example.org", "pubsub.example.org"}, "services of the domain asked, and no others"


async def test_modules_add_identities_features_forms_items_and_nodes() -> None:
    async with World(extra=(LateContributor, Contributor)) as world:
        romeo = await world.login("romeo@example.org/orchard")
        query = await ask(romeo, INFO, "example.net")
        assert ("directory", "chatroom", "Rooms") in identities(query)[1:]
        assert {"urn:example:feature", "urn:example:<&'>"} <= set(features(query))
        assert query.findtext(".//{jabber:x:data}value") == "example.net"
        added = ("rooms.example.org", None, "Rooms & more")
        assert added in items(await ask(romeo, ITEMS, "example.org"))
        assert added not in items(await ask(romeo, ITEMS, "example.net"))

        account = await ask(romeo, INFO)
        assert identities(account) == [("account", "registered", None), ("pubsub", "pep", None)]
        assert {INFO, ITEMS, "urn:example:account"} <= set(features(account))
        assert "msgoffline" not in features(account)

        node = await ask(romeo, INFO, "example.org", "rooms")
        assert node.get("node") == "rooms"
        assert identities(node) == [("hierarchy", "branch", None)]
        assert set(features(node)) == {INFO, "urn:example:list"}
        inside = await ask(romeo, ITEMS, "example.org", "rooms")
        assert inside.get("node") == "rooms"
        assert items(inside) == [("example.org", "rooms/it's", "It's")]

        for namespace in (INFO, ITEMS):
            assert (await ask(romeo, namespace, "example.org", "late")).get("node") == "late"
            assert (await ask(romeo, namespace, "", "late")).get("node") == "late"


async def test_the_information_as_a_value_is_what_is_sent(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    disco = world.kernel.service(DiscoService)
    info = disco.server_info("example.org")
    assert disco.server_info("example.org") is info
    query = await ask(romeo, INFO, "example.org")
    assert identities(from_bytes(info.to_bytes())) == [(c, t, n) for c, t, n in identities(query)]
    assert list(info.features) == features(query)


@pytest.mark.parametrize("namespace", [INFO, ITEMS])
@pytest.mark.parametrize("to", ["example.org", "romeo@example.org", ""])
async def test_an_unknown_node_is_not_found(world: World, namespace: str, to: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    error = await ask(romeo, namespace, to, "urn:example:none", type="error")
    assert error.find(".//{*}item-not-found") is not None


async def test_the_own_account_has_its_available_resources_as_items(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.login("romeo@example.org/phone", priority=-1)
    await world.login("romeo@example.org/watch")
    await world.settle()
    romeo.inbox.clear()
    found = items(await ask(romeo, ITEMS, "romeo@example.org"))
    assert found == [("romeo@example.org/orchard", None, None), ("romeo@example.org/phone", None, None)]


async def test_the_domain_says_that_accounts_have_personal_events(world: World) -> None:
    """Psi asks only there; what it offers its user depends on the answer."""
    romeo = await world.login("romeo@example.org/orchard")
    assert ("pubsub", "pep", None) in identities(await ask(romeo, INFO, "example.org"))


async def test_a_contact_sees_what_the_account_sees(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.befriend(romeo, juliet)
    account = identities(await ask(juliet, INFO, "romeo@example.org"))
    assert account == [("account", "registered", None), ("pubsub", "pep", None)]
    assert items(await ask(juliet, ITEMS, "romeo@example.org")) == [("romeo@example.org/orchard", None, None)]


async def test_an_anonymous_account_announces_nothing_that_is_kept() -> None:
    """XEP-0163 §3.1 and its like: who reads the identity publishes, and was refused."""
    async with World(settings={"c2s": {"anonymous": True}}) as world:
        romeo, guest = await world.login("romeo@example.org/orchard"), await world.guest()
        kept = {
            "http://jabber.org/protocol/pubsub#publish",
            "urn:xmpp:mam:2",
            "vcard-temp",
            "urn:xmpp:bookmarks:1#compat",
        }
        for client, type_ in ((guest, "anonymous"), (romeo, "registered")):
            query = await ask(client, INFO, str(client.jid.bare))
            assert ("account", type_) in [each[:2] for each in identities(query)]
            registered = type_ == "registered"
            assert (("pubsub", "pep") in [each[:2] for each in identities(query)]) is registered
            assert kept & set(map(str, features(query))) == (kept if registered else set())
            assert "urn:xmpp:ping" in features(query)


def content(answer: Element) -> list[tuple[str, dict[str, str], str | None]]:
    return [(str(el.tag), dict(el.attrib), el.text) for el in answer.iter() if el is not answer]


@pytest.mark.parametrize("node", ["", "late", "urn:example:none"])
async def test_a_stranger_cannot_tell_an_account_from_none(node: str) -> None:
    async with World(extra=(Contributor,)) as world:
        await world.login("juliet@example.org/balcony", presence=True)
        romeo = await world.login("romeo@example.org/orchard")
        for namespace, type_ in ((INFO, "error"), (ITEMS, "result")):
            there = await ask(romeo, namespace, "juliet@example.org", node, type=type_)
            absent = await ask(romeo, namespace, "nobody@example.org", node, type=type_)
            away = await ask(romeo, namespace, "mercutio@example.org", node, type=type_)
            assert content(there) == content(absent) == content(away)
            if namespace == INFO:
                assert there.find(".//{*}service-unavailable") is not None
            else:
                assert there.get("node", "") == node
                assert len(there) == 0


async def test_public_items_of_an_account_are_shown_to_strangers() -> None:
    async with World(extra=(LateContributor,)) as world:
        await world.login("romeo@example.org/orchard", presence=True)
        juliet = await world.login("juliet@example.org/balcony")
        assert items(await ask(juliet, ITEMS, "romeo@example.org")) == [("romeo@example.org", "urn:example:late", None)]


async def test_a_client_answers_for_itself(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.befriend(romeo, juliet)
    juliet.send(f"<iq type='get' id='q' to='{romeo.jid}'><query xmlns='{INFO}'/></iq>")
    await romeo.expect(f"<iq type='get' id='q' from='{juliet.jid}'><query xmlns='{INFO}'/></iq>")
    romeo.send(f"<iq type='result' id='q' to='{juliet.jid}'><query xmlns='{INFO}'><feature var='x'/></query></iq>")
    await juliet.expect(
        f"<iq type='result' id='q' from='{romeo.jid}'><query xmlns='{INFO}'><feature var='x'/></query></iq>"
    )
    gone = await ask(juliet, INFO, "romeo@example.org/nowhere", type="error")
    assert gone.find(".//{*}service-unavailable") is not None


async def test_the_name_is_configurable() -> None:
    async with World(settings={"modules": {"disco": {"name": "Verona's <server>"}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        assert identities(await ask(romeo, INFO, "example.org"))[0] == ("server", "im", "Verona's <server>")


def test_values_are_escaped_and_never_repeat_an_identity() -> None:
    identity = Identity("client", "pc", "a'b<c>")
    info = DiscoInfo((identity, identity), ("f'1", "f'1"))
    query = from_bytes(info.to_bytes("n'&"))
    assert query.get("node") == "n'&"
    assert identities(query) == [("client", "pc", "a'b<c>")]
    assert features(query) == sorted(("f'1", INFO))
    listed = from_bytes(items_bytes([DiscoItem(JID.parse("a@b/c'd"), "n&", "<x>")]))
    assert items(listed) == [("a@b/c'd", "n&", "<x>")]


# ---- in pages (XEP-0059) --------------------------------------------------------------------------------------------

RSM = "http://jabber.org/protocol/rsm"


class Crowd(Module):
    """Many services, and a node with as many items."""

    name = "test_crowd"
    size = 30

    def disco_items(self, at: JID, asker: JID) -> Iterable[DiscoItem]:
        """Of the second domain."""
        number = self.size if at == "example.net" else 0
        return [DiscoItem(JID.parse(f"s{each:04}.example.net")) for each in range(number)]

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | None:
        """Items that differ in their nodes alone."""
        if node != "crowd":
            return None
        return DiscoNode(DiscoInfo(), tuple(DiscoItem(at, f"n{each:04}") for each in range(self.size)))


async def page(client: Client, to: str, inner: str, node: str = "", type: str = "result") -> Element:
    nodes = f" node='{node}'" if node else ""
    wanted = f"<query xmlns='{ITEMS}'{nodes}><set xmlns='{RSM}'>{inner}</set></query>"
    return await client.iq(f"<iq type='get' id='p' to='{to}'>{wanted}</iq>", type=type)


@pytest.mark.parametrize(
    ("to", "node"), [("example.net", ""), ("example.net", "crowd"), ("romeo@example.org", "crowd")]
)
async def test_long_lists_come_in_pages(to: str, node: str) -> None:
    async with World(extra=[Crowd]) as world:
        romeo = await world.login("romeo@example.org/orchard")
        whole = [(item.get("jid"), item.get("node")) for item in await ask(romeo, ITEMS, to, node)]
        assert len(whole) >= 30
        got: list[tuple[str | None, str | None]] = []
        after = ""
        while len(got) < len(whole):
            query = (await page(romeo, to, f"<max>7</max>{after}", node))[0]
            assert query.get("node", "") == node
            items, told = query[:-1], query[-1]
            assert told.findtext("{*}count") == str(len(whole))
            first = told.find("{*}first")
            assert first is not None and first.get("index") == str(len(got))
            got += [(item.get("jid"), item.get("node")) for item in items]
            after = f"<after>{told.findtext('{*}last')}</after>"
        assert got == whole
        last = (await page(romeo, to, "<max>4</max><before/>", node))[0]
        assert [(item.get("jid"), item.get("node")) for item in last[:-1]] == whole[-4:]
        counted = (await page(romeo, to, "<max>0</max>", node))[0]
        assert [el.tag for el in counted] == [f"{{{RSM}}}set"] and counted.findtext("{*}set/{*}count") == str(
            len(whole)
        )
        by_index = (await page(romeo, to, "<max>2</max><index>9</index>", node))[0]
        assert [(item.get("jid"), item.get("node")) for item in by_index[:-1]] == whole[9:11]
        lost = await page(romeo, to, "<max>2</max><after>nobody</after>", node, type="error")
        assert lost.find(".//{*}item-not-found") is not None
        wrong = await page(romeo, to, "<max>many</max>", node, type="error")
        assert wrong.find(".//{*}bad-request") is not None


async def test_commands_and_resources_come_in_pages(world: World) -> None:
    commands = "http://jabber.org/protocol/commands"
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.login("romeo@example.org/street", presence=True)
    first = (await page(romeo, "example.org", "<max>1</max>", commands))[0]
    assert [str(el.tag).rpartition("}")[2] for el in first] == ["item", "set"]
    ours = (await page(romeo, "romeo@example.org", "<max>1</max>"))[0]
    assert ours[0].get("jid") == "romeo@example.org/orchard"
    then = (await page(romeo, "romeo@example.org", f"<max>1</max><after>{ours[-1].findtext('{*}last')}</after>"))[0]
    assert then[0].get("jid") == "romeo@example.org/street"


async def test_an_empty_list_has_no_pages_and_a_stranger_sees_one(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony")
    await world.login("romeo@example.org/orchard", presence=True)
    for to in ("romeo@example.org", "nobody@example.org"):
        assert len((await page(juliet, to, "<max>5</max>"))[0]) == 0


async def test_a_list_without_end_is_cut_for_who_asks_for_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowd, "size", 1500)
    async with World(extra=[Crowd]) as world:
        romeo = await world.login("romeo@example.org/orchard")
        query = await ask(romeo, ITEMS, "example.net", "crowd")
        assert len(query) == 1001
        assert query.findtext("{*}set/{*}count") == "1500"
        rest = (await page(romeo, "example.net", f"<after>{query.findtext('{*}set/{*}last')}</after>", "crowd"))[0]
        assert len(rest) == 501


async def test_pages_are_announced(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    assert RSM in features(await ask(romeo, INFO, "example.org"))
    assert RSM in features(await ask(romeo, INFO))


@pytest.mark.parametrize("to", ["example.net", "conference.example.org", "pubsub.example.org"])
async def test_an_empty_list_of_a_service_has_no_pages(to: str) -> None:
    async with World(settings={"modules": {"disable": ["muc", "pubsub"] if to == "example.net" else []}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        assert len((await page(romeo, to, "<max>5</max><after>nobody</after>"))[0]) == 0
