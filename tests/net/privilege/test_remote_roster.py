"""XEP-0321: a component manages its own contacts in the rosters of users who let it."""

import re
from typing import Any

import pytest

from beamish.testing.client import Client
from beamish.testing.federated import FederatedServer

C = "xmlns='jabber:component:accept'"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"
Q = "<query xmlns='jabber:iq:roster'>"
M = "urn:xmpp:tmp:roster-management:0"
EMPTY = f"{Q}</query>"


def request(name: str, kind: str, inner: str, id_: str = "r") -> str:
    return f"<iq type='{kind}' id='{id_}' from='{name}.a.example' to='romeo@a.example'>{inner}</iq>"


def wants(name: str) -> str:
    return request(name, "set", f"<query xmlns='{M}' reason='Contacts of Icq' type='request'/>", "ask")


def contact(name: str, attributes: str = "name='R' subscription='both'") -> str:
    return f"{Q}<item jid='123@{name}.a.example' {attributes}><group>Friends</group></item></query>"


async def forbidden(client: Client, stanza: str) -> None:
    error = await client.iq(stanza, "error")
    assert error.find(f".//{{{ERR}}}forbidden") is not None


async def befriend(romeo: Client, client: Client, name: str) -> None:
    """Romeo lets the component see his presence."""
    client.send(f"<presence type='subscribe' from='{name}.a.example' to='romeo@a.example'/>")
    await romeo.expect("<presence type='subscribe'/>")
    romeo.send(f"<presence type='subscribed' to='{name}.a.example'/>")
    await romeo.expect("<iq type='set'/>")
    # with the permission there already, the component is told of the change of its own item
    seen = [await client.receive() for _ in range(3 if name == "gate" else 2)]
    kinds = sorted(f"{str(el.tag).rpartition('}')[2]} {el.get('type')}" for el in seen)
    assert kinds[-2:] == ["presence None", "presence subscribed"]


async def challenge(romeo: Client) -> str:
    """The question that the server asks; its number."""
    asked = await romeo.expect(
        "<message from='a.example' to='romeo@a.example'><body/><x xmlns='jabber:x:data' type='form'>"
        f"<field type='hidden' var='FORM_TYPE'><value>{M}</value></field><field type='hidden' var='challenge'/>"
        "<field type='boolean' var='answer'/></x></message>"
    )
    body = asked.findtext("{jabber:client}body") or ""
    assert "ask.a.example" in body and "Contacts of Icq" in body
    found = re.search(r'"yes ([0-9]+)"', body)
    assert found is not None
    return found[1]


def by_form(number: str, answer: str) -> str:
    return (
        f"<message to='a.example'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{M}</value></field>"
        f"<field var='challenge'><value>{number}</value></field><field var='answer'><value>{answer}</value></field></x>"
        "</message>"
    )


async def test_4_1_without_a_subscription_nothing_is_asked(server: FederatedServer, ready: Any) -> None:
    ask, gate = await ready("ask"), await ready("gate")
    romeo = await server.client("romeo@a.example/x", presence=True)
    for client, name in ((ask, "ask"), (gate, "gate")):
        await forbidden(client, wants(name))
        await forbidden(client, request(name, "get", EMPTY))
        await forbidden(client, request(name, "set", contact(name)))
    await romeo.expect_nothing()


@pytest.mark.parametrize("words", [True, False])
async def test_4_1_1_a_user_agrees(server: FederatedServer, ready: Any, words: bool) -> None:
    ask = await ready("ask")
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await befriend(romeo, ask, "ask")
    await ask.iq(wants("ask"))  # answered at once
    number = await challenge(romeo)
    await ask.iq(wants("ask"))
    await romeo.expect_nothing()  # one question is enough
    await forbidden(ask, request("ask", "get", EMPTY))
    romeo.send(f"<message to='a.example'><body>Yes {number}</body></message>" if words else by_form(number, "1"))
    told = await ask.expect(
        f"<iq {C} type='set' from='romeo@a.example' to='ask.a.example'><query xmlns='{M}' type='allowed'/></iq>"
    )
    ask.send(f"<iq type='result' from='ask.a.example' to='romeo@a.example' id='{told.get('id')}'/>")
    await ask.iq(request("ask", "get", EMPTY))
    await ask.iq(wants("ask"))
    await romeo.expect_nothing()  # asked no more


async def test_4_1_2_a_user_refuses(server: FederatedServer, ready: Any) -> None:
    ask = await ready("ask")
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await befriend(romeo, ask, "ask")
    await ask.iq(wants("ask"))
    number = await challenge(romeo)
    juliet = await server.client("juliet@a.example/y", presence=True)
    juliet.send(by_form(number, "1"))  # not hers to answer
    await juliet.expect("<message type='error'/>")
    romeo.send(by_form(number, "0"))
    await ask.expect(f"<iq {C} type='set' from='romeo@a.example'><query xmlns='{M}' type='rejected'/></iq>")
    await forbidden(ask, request("ask", "get", EMPTY))
    romeo.send(by_form(number, "1"))  # answered already
    await romeo.expect("<message type='error'/>")


async def test_4_2_to_4_4_what_it_may_do(server: FederatedServer, ready: Any) -> None:
    """Its own contacts only: reads, is told of changes, changes."""
    gate = await ready("gate")
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await befriend(romeo, gate, "gate")
    await gate.iq(wants("gate"))
    await romeo.iq(f"<iq type='set' id='s'>{Q}<item jid='nurse@b.example'/></query></iq>")
    await romeo.expect("<iq type='set'/>")
    await gate.iq(request("gate", "set", contact("gate")))
    await romeo.expect(f"<iq type='set'>{contact('gate')}</iq>")
    await gate.expect_all(
        f"<iq {C} type='set' from='romeo@a.example' to='gate.a.example'>{contact('gate')}</iq>",
        f"<presence {C} type='probe' to='123@gate.a.example'/>",
        f"<presence {C} type='!' from='romeo@a.example/x' to='123@gate.a.example'/>",
    )
    [query] = await gate.iq(request("gate", "get", EMPTY))
    assert sorted(item.get("jid", "") for item in query) == ["123@gate.a.example", "gate.a.example"]
    await forbidden(gate, request("gate", "set", f"{Q}<item jid='nurse@b.example' name='X'/></query>"))
    await forbidden(gate, request("gate", "set", f"{Q}<item jid='123@sub.gate.a.example'/></query>"))
    await romeo.iq(f"<iq type='set' id='t'>{contact('gate', 'name=' + repr('New'))}</iq>")
    await gate.expect(
        f"<iq {C} type='set'>{contact('gate', 'name=' + repr('New') + ' subscription=' + repr('both'))}</iq>"
    )
    await gate.iq(request("gate", "set", contact("gate", "subscription='remove'")))
    await romeo.expect("<iq type='set'/>")
    await romeo.expect(f"<iq type='set'>{Q}<item jid='123@gate.a.example' subscription='remove'/></query></iq>")
    [query] = await romeo.roster()
    assert sorted(item.get("jid", "") for item in query) == ["gate.a.example", "nurse@b.example"]


async def test_4_1_3_the_permission_ends_with_the_subscription(server: FederatedServer, ready: Any) -> None:
    ask = await ready("ask")
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await befriend(romeo, ask, "ask")
    await ask.iq(wants("ask"))
    romeo.send(by_form(await challenge(romeo), "1"))
    await ask.expect(f"<iq {C} type='set'/>")
    await ask.iq(request("ask", "get", EMPTY))
    romeo.send("<presence type='unsubscribed' to='ask.a.example'/>")
    await romeo.expect("<iq type='set'/>")
    kinds = {(await ask.receive()).get("type") for _ in range(2)}
    assert kinds == {"unavailable", "unsubscribed"}
    await forbidden(ask, request("ask", "get", EMPTY))
    await befriend(romeo, ask, "ask")
    await forbidden(ask, request("ask", "get", EMPTY))  # has to be asked for anew
    await ask.iq(wants("ask"))
    await challenge(romeo)


async def test_4_5_users_see_who_may_and_take_it_back(server: FederatedServer, ready: Any) -> None:
    gate, ask = await ready("gate"), await ready("ask")
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    listing = f"<iq type='get' id='l'><query xmlns='{M}'/></iq>"
    assert len((await romeo.iq(listing))[0]) == 0
    await befriend(romeo, gate, "gate")
    await befriend(romeo, ask, "ask")
    await ask.iq(wants("ask"))
    romeo.send(by_form(await challenge(romeo), "1"))
    await ask.expect(f"<iq {C} type='set'/>")
    for asked in (listing, f"<iq type='get' id='l' to='gate.a.example'><query xmlns='{M}'/></iq>"):
        [query] = await romeo.iq(asked)
        assert [(item.get("jid"), item.get("reason")) for item in query] == [
            ("ask.a.example", "Contacts of Icq"),
            ("gate.a.example", None),
        ]
    for client, name in ((gate, "gate"), (ask, "ask")):
        reject = f"<iq type='set' id='x' to='{name}.a.example'><query xmlns='{M}' type='reject'/></iq>"
        await romeo.iq(reject)
        await client.expect(f"<iq {C} type='set' from='romeo@a.example'><query xmlns='{M}' type='rejected'/></iq>")
        await forbidden(client, request(name, "get", EMPTY))
        error = await romeo.iq(reject, "error")
        assert error.find(f".//{{{ERR}}}item-not-found") is not None
    assert len((await romeo.iq(listing))[0]) == 0


async def test_a_component_that_is_not_to_ask(server: FederatedServer, ready: Any) -> None:
    none = await ready("none")
    error = await none.iq(wants("none"), "error")
    assert error.find(f".//{{{ERR}}}forbidden") is not None
    romeo = await server.client("romeo@a.example/x", presence=True)
    romeo.send(f"<iq type='get' id='l' to='none.a.example'><query xmlns='{M}'/></iq>")
    await none.expect(f"<iq {C} type='get' from='romeo@a.example/x'/>")  # what others are asked is theirs to answer
    await romeo.expect_nothing()
