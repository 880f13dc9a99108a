"""XEP-0356 §7: presence of accounts, and of their contacts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from beamish.core.services import RosterItem, RosterService
from beamish.net.component import ComponentLink, ComponentServer
from beamish.net.privilege.presences import Presences
from beamish.testing.client import Client
from beamish.testing.component import component
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

C = "xmlns='jabber:component:accept'"


async def idle(client: Client, name: str) -> None:
    """Nothing else has come."""
    client.send(f"<iq type='get' from='{name}.a.example' to='a.example' id='idle'><ping xmlns='urn:xmpp:ping'/></iq>")
    await client.expect(f"<iq {C} id='idle'/>")


async def test_7_1_accounts_come_and_go(server: FederatedServer, ready: Any) -> None:
    """Only the first presence of a session and its end."""
    early = await server.client("juliet@a.example/y", presence=True)
    see = await ready("see")
    await see.expect(f"<presence {C} from='juliet@a.example/y' to='see.a.example' type='!'/>")  # §8 rule 1
    romeo = await server.client("romeo@a.example/x")
    await idle(see, "see")
    romeo.send("<presence id='p' xml:lang='it'><show>chat</show><status>On</status></presence>")
    await see.expect(
        f"<presence {C} from='romeo@a.example/x' to='see.a.example' id='p' xml:lang='it' type='!'>"
        "<show>chat</show><status>On</status></presence>"
    )
    romeo.send("<presence><show>away</show></presence>")
    romeo.send("<presence to='juliet@a.example'/>")
    romeo.send("<presence type='unavailable'><status>Off</status></presence>")
    await see.expect(f"<presence {C} from='romeo@a.example/x' type='unavailable'><status>Off</status></presence>")
    early.drop()
    await see.expect(f"<presence {C} from='juliet@a.example/y' type='unavailable'/>")
    benvolio = await server.client("benvolio@c.example/z", presence=True)
    await see.expect(f"<presence {C} from='benvolio@c.example/z' type='!'/>")
    await benvolio.close()
    await see.expect(f"<presence {C} from='benvolio@c.example/z' type='unavailable'/>")


async def test_only_of_the_domains_named(server: FederatedServer, ready: Any) -> None:
    await server.client("benvolio@c.example/z", presence=True)
    half = await ready("half")
    await server.client("benvolio@c.example/w", presence=True)
    await server.client("romeo@a.example/x", presence=True)
    await half.expect(f"<presence {C} from='romeo@a.example/x'/>")
    await idle(half, "half")


async def test_8_2_a_subscriber_is_not_told_twice(server: FederatedServer, ready: Any) -> None:
    rosters = server.kernel.service(RosterService)
    await rosters.change(JID.parse("romeo@a.example"), RosterItem(JID.parse("see.a.example"), from_=True))
    see = await ready("see")
    romeo = await server.client("romeo@a.example/x", presence=True)
    await see.expect(f"<presence {C} from='romeo@a.example/x' type='!'/>")
    romeo.send("<presence type='unavailable'/>")
    await see.expect(f"<presence {C} from='romeo@a.example/x' type='unavailable'/>")
    await idle(see, "see")


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[FederatedServer, FederatedServer]]:
    """Romeo and benvolio have subscribed to juliet, who is elsewhere; romeo and benvolio to one another."""
    ca, names = Authority(tmp_path), Directory()
    settings: dict[str, Any] = {
        "components": {"all.a.example": {"secret": "s", "roster": "get", "roster_push": False, "presence": "roster"}}
    }
    accounts = ("romeo@a.example", "benvolio@a.example")
    async with (
        FederatedServer(ca, names, domains=("a.example",), accounts=accounts, settings=settings) as a,
        FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example", "paris@b.example")) as b,
    ):
        romeo, benvolio, juliet = (
            JID.parse(text) for text in ("romeo@a.example", "benvolio@a.example", "juliet@b.example")
        )
        ours, theirs = (server.kernel.service(RosterService) for server in (a, b))
        for user in (romeo, benvolio):
            await ours.change(user, RosterItem(juliet, to=True))
            await theirs.change(juliet, RosterItem(user, from_=True))
        await ours.change(romeo, RosterItem(benvolio, to=True, from_=True))
        await ours.change(benvolio, RosterItem(romeo, to=True, from_=True))
        yield a, b


async def connected(a: FederatedServer) -> Client:
    client = await component(a, "all.a.example", "s")
    for version in (2, 1):
        await client.expect(f"<message {C}><privilege xmlns='urn:xmpp:privilege:{version}'/></message>")
    return client


async def test_7_4_contacts_elsewhere_of_accounts_that_are_not_there(
    two: tuple[FederatedServer, FederatedServer],
) -> None:
    a, b = two
    everything = await connected(a)
    juliet = await b.client("juliet@b.example/y", presence=True)
    await everything.expect(f"<presence {C} from='juliet@b.example/y' to='all.a.example' type='!'/>")
    for user in ("romeo@a.example", "benvolio@a.example"):  # the same, with its age
        a.kernel.router.post(
            Stanza.build("presence", "probe", sender=JID.parse(user), to=JID.parse("juliet@b.example"))
        )
    juliet.send("<presence><show>away</show></presence>")  # told to two accounts, and to the component once (§8 rule 2)
    await everything.expect(f"<presence {C} from='juliet@b.example/y'><show>away</show></presence>")
    juliet.send("<presence type='unavailable'/>")
    await everything.expect(f"<presence {C} from='juliet@b.example/y' type='unavailable'/>")
    paris = await b.client("paris@b.example/z", presence=True)
    paris.send("<presence to='romeo@a.example'/>")  # in nobody's roster
    juliet.send("<presence/>")
    await everything.expect(f"<presence {C} from='juliet@b.example/y' type='!'/>")
    await idle(everything, "all")


async def test_7_4_everything_that_local_contacts_show(two: tuple[FederatedServer, FederatedServer]) -> None:
    a, _ = two
    everything = await connected(a)
    romeo = await a.client("romeo@a.example/x", presence=True)
    await everything.expect(f"<presence {C} from='romeo@a.example/x' type='!'/>")
    romeo.send("<presence><show>dnd</show></presence>")
    await everything.expect(f"<presence {C} from='romeo@a.example/x'><show>dnd</show></presence>")
    romeo.drop()
    await everything.expect(f"<presence {C} from='romeo@a.example/x' type='unavailable'/>")
    await idle(everything, "all")


async def test_8_1_who_is_there_already_when_the_component_connects(
    two: tuple[FederatedServer, FederatedServer],
) -> None:
    a, b = two
    await b.client("juliet@b.example/y", presence=True)
    await a.client("romeo@a.example/x", presence=True)
    everything = await connected(a)
    await everything.expect_all(
        f"<presence {C} from='romeo@a.example/x' type='!'/>", f"<presence {C} from='juliet@b.example/y' type='!'/>"
    )


async def test_a_server_that_died_takes_its_users_along(two: tuple[FederatedServer, FederatedServer]) -> None:
    a, b = two
    everything = await connected(a)
    await b.client("juliet@b.example/y", presence=True)
    await everything.expect(f"<presence {C} from='juliet@b.example/y' type='!'/>")
    for stanza in a.federation.presences.lost("b.example"):
        a.kernel.router.post(stanza)
    await everything.expect(f"<presence {C} from='juliet@b.example/y' type='unavailable'/>")


async def test_what_was_told_is_remembered_within_bounds(
    two: tuple[FederatedServer, FederatedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Presences.__init__

    def small(self: Presences, *args: Any) -> None:
        made(self, *args, told=1)

    monkeypatch.setattr(Presences, "__init__", small)
    a, _ = two
    everything = await connected(a)
    for user in ("romeo@a.example/x", "benvolio@a.example/z"):
        await a.client(user, presence=True)
        await everything.expect(f"<presence {C} from='{user}' type='!'/>")
    [link] = a.kernel.service(ComponentServer).links
    assert isinstance(link, ComponentLink) and link.privileges is not None
    [(address, shown)] = link.privileges._presences._told.items()
    assert (len(address), len(shown)) == (16, 16), "however long address and presence are"
    for session in tuple(a.kernel.sessions):
        a.kernel.end_session(session, "test")
    gone = {"romeo@a.example/x", "benvolio@a.example/z"}
    while gone:  # in any order, and answers of the other server to probes may come in between
        presence = await everything.receive()
        if presence.get("type") == "unavailable":
            gone.discard(presence.get("from", ""))
