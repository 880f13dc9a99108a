"""Blocking (XEP-0191) and privacy lists (XEP-0016) against users of another server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from beamish.testing.client import Client
from beamish.testing.match import mismatch

from .border import Two, arrived, crossed, friends, kinds, two_servers, until

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

ROMEO, JULIET = "romeo@a.example", "juliet@b.example"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"
PING = "<ping xmlns='urn:xmpp:ping'/>"


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with two_servers(tmp_path, contacts=(JULIET, "nurse@b.example")) as made:
        yield made


async def privacy(client: Client, inner: str) -> None:
    await client.iq(f"<iq type='set' id='pl'><query xmlns='jabber:iq:privacy'>{inner}</query></iq>")


async def use(client: Client, kind: str, value: str, *, active: bool) -> None:
    """Deny this kind of stanza ("": all) to an address, by the active or the default list."""
    item = f"<item type='jid' value='{value}' action='deny' order='1'>{kind}</item>"
    await privacy(client, f"<list name='test'>{item}</list>")
    push = "<iq type='set'><query xmlns='jabber:iq:privacy'><list name='test'/></query></iq>"
    client.inbox.remove(next(el for el in client.inbox if not mismatch(push, el)))
    await privacy(client, f"<{'active' if active else 'default'} name='test'/>")


async def comes_in(romeo: Client, juliet: Client) -> set[str]:
    """Which kinds of stanzas get through from Romeo to Juliet."""
    await arrived(juliet)
    romeo.send(f"<message to='{JULIET}/y'><body>hi</body></message>")
    romeo.send(f"<iq type='get' id='q' to='{JULIET}/y'>{PING}</iq>")
    romeo.send("<presence><show>away</show></presence>")
    await crossed(romeo, "b.example")
    found = await arrived(juliet)
    await arrived(romeo)
    return kinds(found, f"{ROMEO}/x")


async def goes_out(romeo: Client, juliet: Client, nurse: Client) -> set[str]:
    """Which kinds of stanzas get through from Juliet to Romeo. The nurse tells when all has arrived."""
    await arrived(romeo)
    juliet.send(f"<message to='{ROMEO}/x'><body>hi</body></message>")
    juliet.send(f"<iq type='get' id='q' to='{ROMEO}/x'>{PING}</iq>")
    juliet.send("<presence><show>away</show></presence>")
    juliet.send(f"<presence to='{ROMEO}/x'><show>chat</show></presence>")
    await arrived(juliet)
    await crossed(nurse, "a.example")
    found = await arrived(romeo)
    await arrived(juliet)
    return kinds(found, f"{JULIET}/y")


ALL = {"message", "iq", "presence"}


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("value", [ROMEO, "a.example"])
@pytest.mark.parametrize(
    ("kind", "comes", "goes"),
    [
        ("<message/>", {"iq", "presence"}, ALL),
        ("<iq/>", {"message", "presence"}, ALL),
        ("<presence-in/>", {"message", "iq"}, ALL),
        (
            "<presence-out/>",
            {"message", "presence"},
            {"message", "iq"},
        ),  # who hides does not answer at the full address
        ("<message/><iq/>", {"presence"}, ALL),
        ("", set(), set()),
    ],
)
async def test_kinds_of_stanzas(two: Two, kind: str, comes: set[str], goes: set[str], value: str, active: bool) -> None:
    """Each kind by itself, by the active and by the default list, for a user and for a whole server."""
    romeo, juliet = await friends(two)
    nurse = await two[1].client("nurse@b.example/n")
    assert await comes_in(romeo, juliet) == ALL
    assert await goes_out(romeo, juliet, nurse) == ALL
    await use(juliet, kind, value, active=active)
    assert await comes_in(romeo, juliet) == comes
    assert await goes_out(romeo, juliet, nurse) - {"presence unavailable"} == goes


@pytest.mark.parametrize("active", [True, False])
async def test_hiding_and_showing_again(two: Two, active: bool) -> None:
    romeo, juliet = await friends(two)
    await use(juliet, "<presence-out/>", ROMEO, active=active)
    await romeo.expect(f"<presence type='unavailable' from='{JULIET}/y'/>")
    romeo.send(f"<presence to='{JULIET}' type='probe'/>")
    await romeo.expect(f"<presence type='unavailable' from='{JULIET}'/>")
    later = await two[0].client(f"{ROMEO}/later", presence=True)
    await crossed(later, "b.example")
    assert "presence" not in kinds(await arrived(later), f"{JULIET}/y")
    await arrived(romeo)
    await privacy(juliet, f"<{'active' if active else 'default'}/>")
    await romeo.expect(f"<presence from='{JULIET}/y' type='!'/>")


@pytest.mark.parametrize("active", [True, False])
async def test_not_seeing_and_seeing_again(two: Two, active: bool) -> None:
    romeo, juliet = await friends(two)
    await use(juliet, "<presence-in/>", ROMEO, active=active)
    await juliet.expect(f"<presence type='unavailable' from='{ROMEO}'/>")
    romeo.send("<presence><show>dnd</show></presence>")
    await crossed(romeo, "b.example")
    await privacy(juliet, f"<{'active' if active else 'default'}/>")
    await until(juliet, f"<presence from='{ROMEO}/x' type='!'><show>dnd</show></presence>")


async def test_by_subscription_and_by_group(two: Two) -> None:
    romeo, juliet = await friends(two)
    await juliet.iq(
        f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='{ROMEO}'><group>Foes</group></item></query></iq>"
    )
    other = "<item jid='x@b.example'><group>Friends</group></item>"
    await juliet.iq(f"<iq type='set' id='s'><query xmlns='jabber:iq:roster'>{other}</query></iq>")
    for rule, heard in (
        ("type='group' value='Foes'", False),
        ("type='group' value='Friends'", True),
        ("type='subscription' value='both'", False),
        ("type='subscription' value='none'", True),
    ):
        await privacy(juliet, f"<list name='l'><item {rule} action='deny' order='1'><message/></item></list>")
        await privacy(juliet, "<default name='l'/>")
        await arrived(juliet)
        romeo.send(f"<message to='{JULIET}'><body>hi</body></message>")
        await crossed(romeo, "b.example")
        assert ("message" in kinds(await arrived(juliet), f"{ROMEO}/x")) is heard, rule


async def test_an_active_list_is_of_one_device(two: Two) -> None:
    romeo, juliet = await friends(two)
    phone = await two[1].client(f"{JULIET}/phone", presence=True)
    await use(juliet, "", ROMEO, active=True)
    await crossed(romeo, "b.example")
    for client in (romeo, juliet, phone):
        await arrived(client)
    romeo.send(f"<message to='{JULIET}' type='chat'><body>both</body></message>")
    romeo.send(f"<message to='{JULIET}/y' type='chat' id='m'><body>her</body></message>")
    romeo.send("<presence><show>xa</show></presence>")
    await until(romeo, f"<message type='error' id='m'><error><service-unavailable xmlns='{ERR}'/></error></message>")
    await crossed(romeo, "b.example")
    assert kinds(await arrived(phone), f"{ROMEO}/x") == {"message", "presence"}
    assert kinds(await arrived(juliet), f"{ROMEO}/x") == set()


async def test_the_default_list_also_counts_while_nobody_is_there(two: Two) -> None:
    romeo, juliet = await friends(two)
    await use(juliet, "<message/>", ROMEO, active=False)
    await juliet.close()
    await until(romeo, f"<presence from='{JULIET}/y' type='unavailable'/>")
    romeo.send(f"<message to='{JULIET}' type='chat' id='m'><body>hi</body></message>")
    await romeo.expect(f"<message type='error' id='m'><error><service-unavailable xmlns='{ERR}'/></error></message>")
    later = await two[1].client(f"{JULIET}/y", presence=True)
    assert "message" not in kinds(await arrived(later), f"{ROMEO}/x")


# ---- the blocking command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [ROMEO, "a.example", f"{ROMEO}/x"])
async def test_a_block_ends_everything_and_unblocking_restores_it(two: Two, value: str) -> None:
    romeo, juliet = await friends(two)
    nurse = await two[1].client("nurse@b.example/n")
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='{value}'/></block></iq>")
    if value != f"{ROMEO}/x":
        await romeo.expect(f"<presence from='{JULIET}/y' type='unavailable'/>")
    await arrived(juliet)
    # to her
    romeo.send(f"<message to='{JULIET}/y' type='chat' id='m'><body>hi</body></message>")
    refused = f"<error type='cancel'><service-unavailable xmlns='{ERR}'/></error>"
    await until(romeo, f"<message from='{JULIET}/y' type='error' id='m'>{refused}</message>")
    error = await romeo.iq(f"<iq type='get' to='{JULIET}/y' id='p'>{PING}</iq>", "error")
    assert error.find(f".//{{{ERR}}}service-unavailable") is not None
    error = await romeo.iq(f"<iq type='get' to='{JULIET}' id='v'><vCard xmlns='vcard-temp'/></iq>", "error")
    assert error.find(f".//{{{ERR}}}service-unavailable") is not None
    romeo.send("<presence><show>away</show></presence>")
    if value != f"{ROMEO}/x":  # that goes out in the name of the account
        romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await crossed(romeo, "b.example")
    assert kinds(await arrived(juliet), f"{ROMEO}/x") == set()
    # from her
    juliet.send(f"<message to='{ROMEO}/x' type='chat' id='n'><body>Go away</body></message>")
    await juliet.expect(
        f"<message from='{ROMEO}/x' type='error' id='n'><error type='cancel'><not-acceptable xmlns='{ERR}'/>"
        "<blocked xmlns='urn:xmpp:blocking:errors'/></error></message>"
    )
    await crossed(nurse, "a.example")
    assert kinds(await arrived(romeo), f"{JULIET}/y") <= {"presence unavailable"}
    await juliet.iq("<iq type='set' id='u'><unblock xmlns='urn:xmpp:blocking'/></iq>")
    if value != f"{ROMEO}/x":
        await until(romeo, f"<presence from='{JULIET}/y' type='!'/>")
        await until(juliet, f"<presence from='{ROMEO}/x' type='!'><show>away</show></presence>")
    assert await comes_in(romeo, juliet) == ALL
    assert await goes_out(romeo, juliet, nurse) == ALL


async def test_a_blocked_user_of_another_server_in_a_room(two: Two) -> None:
    """Rooms are a third party: they go on for both (XEP-0191 §3.3)."""
    romeo, juliet = await friends(two)
    muc = "<x xmlns='http://jabber.org/protocol/muc'/>"
    juliet.send(f"<presence to='hall@conference.b.example/juliet'>{muc}</presence>")
    await until(juliet, "<message from='hall@conference.b.example'><subject/></message>")
    await juliet.iq(
        "<iq type='set' to='hall@conference.b.example' id='o'><query xmlns='http://jabber.org/protocol/muc#owner'>"
        "<x xmlns='jabber:x:data' type='submit'/></query></iq>"
    )
    romeo.send(f"<presence to='hall@conference.b.example/romeo'>{muc}</presence>")
    await until(juliet, "<presence from='hall@conference.b.example/romeo' type='!'/>")
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='{ROMEO}'/></block></iq>")
    romeo.send("<message to='hall@conference.b.example' type='groupchat'><body>All</body></message>")
    await until(juliet, "<message from='hall@conference.b.example/romeo'><body>All</body></message>")
