"""XEP-0356 §6: requests in the name of accounts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from beamish.net.privilege.iqs import PrivilegedIqs
from beamish.testing.component import component
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

C = "xmlns='jabber:component:accept'"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"
PUBSUB = "http://jabber.org/protocol/pubsub"
PING = "<ping xmlns='urn:xmpp:ping'/>"
CREATE = f"<pubsub xmlns='{PUBSUB}'><create node='urn:example:n'/></pubsub>"


def iq(kind: str, inner: str, extra: str = "", id_: str = "inner", space: str = "jabber:client") -> str:
    return f"<iq xmlns='{space}' type='{kind}' id='{id_}'{extra}>{inner}</iq>"


def wrap(
    kind: str, inner: str, to: str = "romeo@a.example", name: str = "iq", id_: str = "outer", sender: str = ""
) -> str:
    sender = sender or f"{name}.a.example"
    return (
        f"<iq type='{kind}' id='{id_}' from='{sender}' to='{to}'>"
        f"<privileged_iq xmlns='urn:xmpp:privilege:2'>{inner}</privileged_iq></iq>"
    )


def answered(inner: str, kind: str = "result", extra: str = "") -> str:
    return (
        f"<iq {C} type='{kind}' id='outer' from='romeo@a.example' to='iq.a.example'><privilege xmlns='urn:xmpp:privilege:2'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></privilege>{extra}</iq>"
    )


@pytest.mark.parametrize("origin", ["", " from='romeo@a.example'"])
async def test_6_3_to_the_account_itself(server: FederatedServer, ready: Any, origin: str) -> None:
    client = await ready("iq")
    client.send(wrap("set", iq("set", CREATE, origin)))
    await client.expect(
        answered("<iq xmlns='jabber:client' type='result' id='inner' from='romeo@a.example' to='romeo@a.example'/>")
    )
    romeo = await server.client("romeo@a.example/x")
    items = await romeo.iq(
        "<iq type='get' to='romeo@a.example' id='d'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>"
    )
    assert [item.get("node") for item in items[0]] == ["urn:example:n"]


async def test_6_3_what_only_the_user_may_read_and_write(server: FederatedServer, ready: Any) -> None:
    client = await ready("iq")
    client.send(
        wrap("set", iq("set", "<query xmlns='jabber:iq:private'><notes xmlns='urn:example:n'>N</notes></query>"))
    )
    await client.expect(answered("<iq xmlns='jabber:client' type='result' id='inner'/>"))
    romeo = await server.client("romeo@a.example/x")
    got = await romeo.iq(
        "<iq type='get' id='g'><query xmlns='jabber:iq:private'><notes xmlns='urn:example:n'/></query></iq>"
    )
    assert got.findtext(".//{urn:example:n}notes") == "N"


async def test_6_3_to_another_account_a_client_and_the_server(server: FederatedServer, ready: Any) -> None:
    juliet = await server.client("juliet@a.example/y", presence=True)
    juliet.send("<presence to='romeo@a.example'/>")
    client = await ready("iq")
    for to in ("a.example", "c.example"):
        client.send(wrap("get", iq("get", PING, f" to='{to}'")))
        await client.expect(answered(f"<iq xmlns='jabber:client' type='result' id='inner' from='{to}'/>"))
    client.send(wrap("get", iq("get", PING, " to='juliet@a.example/y'")))
    asked = await juliet.expect(f"<iq type='get' from='romeo@a.example' to='juliet@a.example/y'>{PING}</iq>")
    juliet.send(f"<iq type='result' to='romeo@a.example' id='{asked.get('id')}'/>")
    await client.expect(
        answered("<iq xmlns='jabber:client' type='result' id='inner' from='juliet@a.example/y' to='romeo@a.example'/>")
    )


async def test_6_3_an_error_is_an_answer(server: FederatedServer, ready: Any) -> None:
    client = await ready("iq")
    client.send(wrap("get", iq("get", f"<pubsub xmlns='{PUBSUB}'><items node='none'/></pubsub>")))
    missing = f"<error type='cancel'><item-not-found xmlns='{ERR}'/></error>"
    await client.expect(answered(f"<iq xmlns='jabber:client' type='error' id='inner'>{missing}</iq>", "error", missing))


@pytest.mark.parametrize(
    ("stanza", "condition"),
    [
        (wrap("get", iq("get", PING), to="romeo@a.example/x"), "forbidden"),
        (wrap("get", iq("get", PING), to="a.example"), "forbidden"),
        (wrap("get", iq("get", PING), to="nobody@a.example"), "forbidden"),
        (wrap("get", iq("get", PING), to="user@none.a.example"), "forbidden"),
        (wrap("get", iq("get", PING), to="user@elsewhere.example"), "forbidden"),
        (wrap("get", iq("get", PING), sender="user@iq.a.example"), "forbidden"),
        (wrap("get", iq("get", "<query xmlns='jabber:iq:version'/>")), "forbidden"),
        (wrap("get", iq("get", "<query xmlns='jabber:iq:private'><a xmlns='b'/></query>")), "forbidden"),
        (wrap("set", iq("set", PING)), "forbidden"),
        (wrap("get", iq("get", PING, space="jabber:server")), "forbidden"),
        (wrap("get", iq("get", PING, " from='juliet@a.example'")), "forbidden"),
        (wrap("get", iq("get", PING, " from='romeo@a.example/x'")), "forbidden"),
        (wrap("get", iq("set", CREATE)), "forbidden"),
        (wrap("set", iq("get", CREATE)), "forbidden"),
        (wrap("set", iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>")), "forbidden"),
        (wrap("get", ""), "bad-request"),
        (wrap("get", iq("get", PING) + iq("get", PING)), "bad-request"),
        (wrap("get", iq("get", PING + PING)), "bad-request"),
        (wrap("get", iq("get", "")), "bad-request"),
        (wrap("get", iq("get", PING, id_="")), "bad-request"),
        (wrap("get", iq("get", PING, " to='@'")), "jid-malformed"),
        (wrap("get", "<message xmlns='jabber:client'/>"), "bad-request"),
    ],
)
async def test_6_3_what_is_refused(server: FederatedServer, ready: Any, stanza: str, condition: str) -> None:
    client = await ready("iq")
    client.send(stanza)
    await client.expect(f"<iq {C} type='error' id='outer'><error><{condition} xmlns='{ERR}'/></error></iq>")


@pytest.mark.parametrize("name", ["none", "both"])
async def test_a_component_without_the_permission(server: FederatedServer, ready: Any, name: str) -> None:
    client = await ready(name)
    client.send(wrap("get", iq("get", PING), name=name))
    await client.expect(f"<iq {C} type='error' id='outer'><error><forbidden xmlns='{ERR}'/></error></iq>")


async def test_of_a_domain_it_has_nothing_to_do_with(server: FederatedServer, ready: Any) -> None:
    half = await ready("half")
    half.send(wrap("set", iq("set", CREATE), to="benvolio@c.example", name="half"))
    await half.expect(f"<iq {C} type='error' id='outer'><error><forbidden xmlns='{ERR}'/></error></iq>")


async def test_a_request_to_another_server(tmp_path: Path) -> None:
    """XEP-0376, for which this was made: subscribing a user somewhere else."""
    ca, names = Authority(tmp_path), Directory()
    settings: dict[str, Any] = {"components": {"iq.a.example": {"secret": "s", "iq": {PUBSUB: "both"}}}}
    async with (
        FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",), settings=settings) as a,
        FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",)) as b,
    ):
        names.serve("pubsub.b.example", b.s2s_port)
        juliet = await b.client("juliet@b.example/y")
        await juliet.iq(
            f"<iq type='set' to='pubsub.b.example' id='c'><pubsub xmlns='{PUBSUB}'><create node='news'/></pubsub></iq>"
        )
        client = await component(a, "iq.a.example", "s")
        await client.expect(f"<message {C}/>")
        subscribe = f"<pubsub xmlns='{PUBSUB}'><subscribe node='news' jid='romeo@a.example'/></pubsub>"
        client.send(wrap("set", iq("set", subscribe, " to='pubsub.b.example'")))
        await client.expect(
            answered(
                "<iq xmlns='jabber:client' type='result' id='inner' from='pubsub.b.example' to='romeo@a.example'>"
                f"<pubsub xmlns='{PUBSUB}'><subscription node='news' jid='romeo@a.example' subscription='subscribed'/>"
                "</pubsub></iq>"
            )
        )
        # the component goes while an answer is under way, which hurts nobody
        client.send(wrap("set", iq("set", subscribe, " to='pubsub.b.example'"), id_="last"))
        client.drop()
        romeo = await a.client("romeo@a.example/x", presence=True)
        await juliet.iq(
            f"<iq type='set' to='pubsub.b.example' id='p'><pubsub xmlns='{PUBSUB}'><publish node='news'><item id='i'>"
            "<e xmlns='urn:example'/></item></publish></pubsub></iq>"
        )
        await romeo.expect("<message from='pubsub.b.example'/>")


async def test_who_waits_for_answers_is_bounded_and_waits_not_for_ever(
    server: FederatedServer, ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PrivilegedIqs.__init__

    def small(self: PrivilegedIqs, *args: Any) -> None:
        made(self, *args, seconds=0.3, limit=1)

    monkeypatch.setattr(PrivilegedIqs, "__init__", small)
    juliet = await server.client("juliet@a.example/y", presence=True)
    juliet.send("<presence to='romeo@a.example'/>")
    client = await ready("iq")
    client.send(wrap("get", iq("get", PING, " to='juliet@a.example/y'"), id_="1"))
    await juliet.expect("<iq type='get'/>")
    client.send(wrap("get", iq("get", PING, " to='a.example'"), id_="2"))
    await client.expect(f"<iq {C} type='error' id='2'><error><resource-constraint xmlns='{ERR}'/></error></iq>")
    await client.expect(f"<iq {C} type='error' id='1'><error><remote-server-timeout xmlns='{ERR}'/></error></iq>")
    client.send(wrap("get", iq("get", PING, " to='a.example'"), id_="outer"))
    await client.expect(answered("<iq xmlns='jabber:client' type='result' id='inner'/>"))


async def test_requests_do_not_hold_up_what_follows(server: FederatedServer, ready: Any) -> None:
    juliet = await server.client("juliet@a.example/y", presence=True)
    juliet.send("<presence to='romeo@a.example'/>")
    client = await ready("iq")
    client.send(wrap("get", iq("get", PING, " to='juliet@a.example/y'")))
    await juliet.expect("<iq type='get'/>")
    client.send(f"<iq type='get' from='iq.a.example' to='a.example' id='p'>{PING}</iq>")
    async with asyncio.timeout(10):
        await client.expect(f"<iq {C} type='result' id='p'/>")


async def test_a_user_who_blocks_somebody_asks_them_nothing(server: FederatedServer, ready: Any) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    juliet = await server.client("juliet@a.example/y", presence=True)
    juliet.send("<presence to='romeo@a.example'/>")
    await romeo.iq("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='juliet@a.example'/></block></iq>")
    client = await ready("iq")
    client.send(wrap("get", iq("get", PING, " to='juliet@a.example/y'")))
    refused = f"<error type='cancel'><not-acceptable xmlns='{ERR}'/></error>"
    await client.expect(answered(f"<iq xmlns='jabber:client' type='error' id='inner'>{refused}</iq>", "error", refused))
