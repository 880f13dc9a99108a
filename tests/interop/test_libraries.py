"""slixmpp and aioxmpp do what instant messaging is made of, with each other, over both kinds of TLS and two domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.interop.conftest import Login, Peer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
]
PAIRS = pytest.mark.parametrize(("one", "other"), [("slixmpp", "aioxmpp"), ("aioxmpp", "slixmpp")])
EACH = pytest.mark.parametrize("library", ["slixmpp", "aioxmpp"])


async def quiet(*peers: Peer) -> None:
    """Whatever the server had to tell these clients has arrived: a stream is in order, and answers a ping last."""
    for peer in peers:
        await peer.ping(peer.bare.partition("@")[2])


@EACH
@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_login_ping_and_disco(login: Login, library: str, direct_tls: bool) -> None:
    peer = await login(library, "benvolio@example.net/street", direct_tls=direct_tls)
    assert peer.jid == "benvolio@example.net/street"
    await peer.ping("example.net")
    await peer.ping("benvolio@example.net")
    for address in ("example.net", "example.org"):
        assert {"http://jabber.org/protocol/disco#info", "urn:xmpp:ping", "msgoffline"} <= await peer.features(address)
    await peer.logout()


@EACH
async def test_a_wrong_password_is_refused(login: Login, library: str) -> None:
    with pytest.raises(PermissionError):
        await login(library, "romeo@example.org/orchard", password="not the one")


@EACH
async def test_the_newer_session_takes_the_resource(login: Login, library: str) -> None:
    older = await login(library, "romeo@example.org/orchard")
    newer = await login("slixmpp", "romeo@example.org/orchard")
    assert await older.ended == "conflict"
    await newer.ping("example.org")


@PAIRS
async def test_friends_across_domains(login: Login, one: str, other: str) -> None:
    romeo = await login(one, "romeo@example.org/orchard")
    benvolio = await login(other, "benvolio@example.net/street", direct_tls=True)
    await romeo.becomes_available()
    await benvolio.becomes_available()
    for asking, asked in ((romeo, benvolio), (benvolio, romeo)):
        asking.presence("subscribe", to=asked.bare)
        await asked.sees(asking.bare, "subscribe")
        asked.presence("subscribed", to=asking.bare)
        await asking.sees(asked.bare, "subscribed")
        await asking.sees(asked.jid, "available")
    await quiet(romeo, benvolio)
    assert await romeo.roster() == {benvolio.bare: "both"}
    assert await benvolio.roster() == {romeo.bare: "both"}

    romeo.say(benvolio.bare, "Is the day so young?")
    heard = await benvolio.hears()
    assert (heard.sender, heard.body, heard.delayed) == (romeo.jid, "Is the day so young?", False)
    benvolio.say(romeo.jid, "But new struck nine. <&> 'tis \N{WATCH}")
    heard = await romeo.hears()
    assert (heard.sender, heard.body) == (benvolio.jid, "But new struck nine. <&> 'tis \N{WATCH}")

    romeo.presence("unsubscribed", to=benvolio.bare)
    await benvolio.sees(romeo.bare, "unsubscribed")
    await quiet(romeo, benvolio)
    assert await benvolio.roster() == {romeo.bare: "from"}
    await benvolio.logout()
    await romeo.sees(benvolio.jid, "unavailable")


@PAIRS
async def test_messages_wait_for_those_who_are_away(login: Login, one: str, other: str) -> None:
    romeo = await login(one, "romeo@example.org/orchard")
    for number in range(20):
        romeo.say("juliet@example.org", f"letter {number}")
    await quiet(romeo)
    juliet = await login(other, "juliet@example.org/balcony", direct_tls=True)
    await quiet(juliet)
    assert juliet.messages.empty()  # RFC 6121 §4.2: not before initial presence
    juliet.presence()
    letters = [await juliet.hears() for _ in range(20)]
    assert [each.body for each in letters] == [f"letter {number}" for number in range(20)]
    assert all(each.delayed and each.sender == romeo.jid for each in letters)
    romeo.say("juliet@example.org", "now")
    heard = await juliet.hears()
    assert (heard.body, heard.delayed) == ("now", False)
    await juliet.logout()
    again = await login(other, "juliet@example.org/balcony")
    await again.becomes_available()
    await quiet(again)
    assert again.messages.empty()


@PAIRS
async def test_directed_presence_and_its_end(login: Login, one: str, other: str) -> None:
    romeo = await login(one, "romeo@example.org/orchard")
    nurse = await login(other, "nurse@example.org/street")
    await nurse.becomes_available()
    romeo.presence(to=nurse.jid)
    await nurse.sees(romeo.jid, "available")
    assert "urn:xmpp:ping" in await nurse.features(romeo.jid)  # who was shown presence may ask
    await romeo.logout()
    await nurse.sees(romeo.jid, "unavailable")


@EACH
async def test_priorities(login: Login, library: str) -> None:
    romeo = await login("slixmpp", "romeo@example.org/orchard")
    high, low, negative = [
        await login(library, f"juliet@example.org/{name}") for name in ("balcony", "chamber", "cellar")
    ]
    for peer, priority in ((high, 5), (low, 0), (negative, -1)):
        await peer.becomes_available(priority)
    romeo.say("juliet@example.org", "to whom it concerns")
    romeo.say(negative.jid, "to the cellar")
    for peer in (high, low):
        assert (await peer.hears()).body == "to whom it concerns"  # RFC 6121 §8.5.2.1.1
    assert (await negative.hears()).body == "to the cellar"
    await quiet(high, low, negative)
    assert high.messages.empty() and low.messages.empty() and negative.messages.empty()
