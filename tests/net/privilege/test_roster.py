"""XEP-0356 §4: rosters in the hands of a component."""

from typing import Any

import pytest

from beamish.core import events
from beamish.testing.federated import FederatedServer
from beamish.testing.plugin import ExpectedErrors

C = "xmlns='jabber:component:accept'"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"
Q = "<query xmlns='jabber:iq:roster'>"


def ask(name: str, kind: str, inner: str = "", to: str = "romeo@a.example", sender: str = "") -> str:
    sender = sender or f"{name}.a.example"
    return f"<iq type='{kind}' id='r' from='{sender}' to='{to}'>{Q}{inner}</query></iq>"


NURSE = "<item jid='nurse@b.example' name='Nurse'><group>House</group></item>"


async def test_4_3_get_and_set_as_the_user_would(server: FederatedServer, ready: Any) -> None:
    romeo = await server.client("romeo@a.example/x", roster=True)
    both = await ready("both")
    await both.iq(ask("both", "set", NURSE))
    await both.expect(f"<iq {C} type='set' from='romeo@a.example'>{Q}{NURSE}</query></iq>")
    await romeo.expect(f"<iq type='set'>{Q}{NURSE}</query></iq>")
    got = await both.iq(ask("both", "get"))
    assert got.get("from") == "romeo@a.example" and got.get("to") == "both.a.example"
    [query] = got
    assert query.get("ver")
    [item] = query
    assert dict(item.items()) == {"jid": "nurse@b.example", "name": "Nurse", "subscription": "none"}
    assert [group.text for group in item] == ["House"]
    await both.iq(ask("both", "set", "<item jid='nurse@b.example' subscription='remove'/>"))
    removed = f"{Q}<item jid='nurse@b.example' subscription='remove'/></query>"
    await both.expect(f"<iq {C} type='set' from='romeo@a.example'>{removed}</iq>")
    await romeo.expect(f"<iq type='set'>{removed}</iq>")
    error = await both.iq(ask("both", "set", "<item jid='nurse@b.example' subscription='remove'/>"), "error")
    assert error.find(f".//{{{ERR}}}item-not-found") is not None


async def test_4_3_the_roster_of_somebody_who_is_not_there(server: FederatedServer, ready: Any) -> None:
    both = await ready("both")
    await both.iq(ask("both", "set", NURSE, to="benvolio@c.example"))
    await both.expect(f"<iq {C} type='set' from='benvolio@c.example'/>")
    benvolio = await server.client("benvolio@c.example/x")
    [query] = await benvolio.roster()
    assert [item.get("jid") for item in query] == ["nurse@b.example"]


@pytest.mark.parametrize(
    ("inner", "condition"),
    [
        ("", "bad-request"),
        (NURSE + NURSE, "bad-request"),
        ("<item name='nobody'/>", "bad-request"),
        ("<item jid='a@@b'/>", "jid-malformed"),
        ("<item jid='romeo@a.example'/>", "not-allowed"),
        ("<item jid='x@b.example'><group/></item>", "not-acceptable"),
        ("<item jid='x@b.example'><group>A</group><group>A</group></item>", "bad-request"),
        (f"<item jid='x@b.example' name='{'n' * 5000}'/>", "not-acceptable"),
        (f"<item jid='x@both.a.example' subscription='both' name='{'n' * 5000}'/>", "not-acceptable"),
        ("<item jid='x@both.a.example' subscription='both'><group/></item>", "not-acceptable"),
    ],
)
async def test_4_3_what_the_user_could_not_do(server: FederatedServer, ready: Any, inner: str, condition: str) -> None:
    both = await ready("both")
    error = await both.iq(ask("both", "set", inner), "error")
    assert error.find(f".//{{{ERR}}}{condition}") is not None
    [query] = await both.iq(ask("both", "get"))
    assert len(query) == 0


@pytest.mark.parametrize(
    ("name", "kind", "to", "sender", "condition"),
    [
        ("none", "get", "romeo@a.example", "", "forbidden"),
        ("none", "set", "romeo@a.example", "", "forbidden"),
        ("get", "set", "romeo@a.example", "", "forbidden"),
        ("set", "get", "romeo@a.example", "", "forbidden"),
        ("half", "get", "benvolio@c.example", "", "forbidden"),
        ("half", "set", "benvolio@c.example", "", "forbidden"),
        # the component itself has the privilege, its users do not
        ("both", "get", "romeo@a.example", "user@both.a.example", "forbidden"),
        ("both", "set", "romeo@a.example", "user@both.a.example", "forbidden"),
        ("both", "get", "nobody@a.example", "", "item-not-found"),
    ],
)
async def test_4_3_what_is_not_granted(
    server: FederatedServer, ready: Any, name: str, kind: str, to: str, sender: str, condition: str
) -> None:
    client = await ready(name)
    error = await client.iq(ask(name, kind, NURSE if kind == "set" else "", to, sender), "error")
    assert error.find(f".//{{{ERR}}}{condition}") is not None
    romeo = await server.client("romeo@a.example/x")
    [query] = await romeo.roster()
    assert len(query) == 0


async def test_what_is_granted_is_granted_for_the_domains_named(server: FederatedServer, ready: Any) -> None:
    half = await ready("half")
    await half.iq(ask("half", "set", NURSE))
    benvolio = await server.client("benvolio@c.example/x", roster=True)
    await benvolio.iq(f"<iq type='set' id='s'>{Q}{NURSE}</query></iq>")
    await half.expect(f"<iq {C} type='set' from='romeo@a.example'/>")  # … and nothing of benvolio
    half.send("<iq type='get' from='half.a.example' to='a.example' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await half.expect(f"<iq {C} type='result' id='p'/>")


async def test_4_4_pushes_tell_what_anybody_changes(server: FederatedServer, ready: Any) -> None:
    all_, get, set_ = await ready("all"), await ready("get"), await ready("set")
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await all_.expect(f"<presence {C} from='romeo@a.example/x'/>")
    await romeo.iq(f"<iq type='set' id='s'>{Q}{NURSE}</query></iq>")
    await romeo.expect(f"<iq type='set'>{Q}{NURSE}</query></iq>")
    push = await all_.expect(
        f"<iq {C} type='set' from='romeo@a.example' to='all.a.example' id='*'>{Q}{NURSE}</query></iq>"
    )
    all_.send(f"<iq type='result' from='all.a.example' to='romeo@a.example' id='{push.get('id')}'/>")
    romeo.send("<presence to='juliet@a.example' type='subscribe'/>")
    await romeo.expect("<iq type='set'/>")
    await all_.expect(
        f"<iq {C} type='set' from='romeo@a.example'>{Q}<item jid='juliet@a.example' ask='subscribe'/></query></iq>"
    )
    await romeo.iq(f"<iq type='set' id='t'>{Q}<item jid='nurse@b.example' subscription='remove'/></query></iq>")
    await all_.expect(f"<iq {C} type='set'>{Q}<item jid='nurse@b.example' subscription='remove'/></query></iq>")
    for client, name in ((get, "get"), (set_, "set")):  # to one it is switched off, the other may not read
        client.send(f"<iq type='get' from='{name}.a.example' to='a.example' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        await client.expect(f"<iq {C} type='result' id='p'/>")
    await romeo.expect("<iq type='set'/>")
    await romeo.expect_nothing()  # an answer to a push is not for the user


async def test_of_its_own_contacts_a_component_also_says_the_subscription(server: FederatedServer, ready: Any) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    set_ = await ready("set")
    await set_.iq(ask("set", "set", "<item jid='u@set.a.example' subscription='both' name='U'><group>G</group></item>"))
    await romeo.expect(
        f"<iq type='set'>{Q}<item jid='u@set.a.example' subscription='both' name='U'><group>G</group></item></query></iq>"
    )
    # presence begins to flow both ways
    await set_.expect_all(
        f"<presence {C} type='probe' from='romeo@a.example' to='u@set.a.example'/>",
        f"<presence {C} type='!' from='romeo@a.example/x' to='u@set.a.example'/>",
    )
    set_.send("<presence from='u@set.a.example/r' to='romeo@a.example'/>")
    await romeo.expect("<presence from='u@set.a.example/r' type='!'/>")
    await set_.iq(ask("set", "set", "<item jid='u@set.a.example' subscription='to'/>"))
    await romeo.expect(f"<iq type='set'>{Q}<item jid='u@set.a.example' subscription='to' name='!'/></query></iq>")
    await set_.expect(f"<presence {C} type='unavailable' from='romeo@a.example/x' to='u@set.a.example'/>")
    await set_.iq(ask("set", "set", "<item jid='u@set.a.example' subscription='remove'/>"))
    await romeo.expect(f"<iq type='set'>{Q}<item jid='u@set.a.example' subscription='remove'/></query></iq>")
    await set_.expect(f"<presence {C} type='unsubscribe' from='romeo@a.example' to='u@set.a.example'/>")


async def test_of_other_contacts_it_cannot_say_the_subscription(server: FederatedServer, ready: Any) -> None:
    both = await ready("both")
    await both.iq(ask("both", "set", "<item jid='juliet@a.example' subscription='both'/>"))
    await both.expect(f"<iq {C} type='set'>{Q}<item jid='juliet@a.example' subscription='none'/></query></iq>")


async def test_the_privileges_end_with_the_connection(server: FederatedServer, ready: Any) -> None:
    both = await ready("both")
    both.drop()
    romeo = await server.client("romeo@a.example/x", roster=True)
    while server.kernel.hooks[events.roster_changed].rows:
        await romeo.iq("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await romeo.iq(f"<iq type='set' id='s'>{Q}{NURSE}</query></iq>")


async def test_a_mistake_of_ours_is_an_error_and_not_the_end(
    server: FederatedServer, ready: Any, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    both = await ready("both")
    expected_errors.add("privileged_request_failed")

    async def fails(*_: object) -> None:
        raise RuntimeError("bug")

    with monkeypatch.context() as broken:
        broken.setattr("beamish.net.privilege.roster.check_account", fails)
        error = await both.iq(ask("both", "get"), "error")
    assert error.find(f".//{{{ERR}}}internal-server-error") is not None
    await both.iq(ask("both", "get"))
