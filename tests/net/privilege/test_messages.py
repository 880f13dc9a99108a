"""XEP-0356 §5: messages in the name of accounts and of the server."""

from typing import Any

import pytest

from beamish.core.services import AccountsService
from beamish.testing.federated import FederatedServer
from beamish.xmpp.jid import JID

C = "xmlns='jabber:component:accept'"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"


def wrap(inner: str, name: str = "say", to: str = "a.example", version: int = 2, sender: str = "") -> str:
    return (
        f"<message id='m' from='{sender or name + '.a.example'}' to='{to}'><privilege xmlns='urn:xmpp:privilege:{version}'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></privilege></message>"
    )


def message(sender: str = "romeo@a.example", to: str = "juliet@a.example/y") -> str:
    origin = f" from='{sender}'" if sender else ""
    target = f" to='{to}'" if to else ""
    return f"<message xmlns='jabber:client'{origin}{target} type='chat' id='i'><body>As if</body></message>"


@pytest.mark.parametrize("version", [1, 2])
async def test_5_3_in_the_name_of_an_account(server: FederatedServer, ready: Any, version: int) -> None:
    juliet = await server.client("juliet@a.example/y", presence=True)
    say = await ready("say")
    say.send(wrap(message(), version=version))
    await juliet.expect("<message from='romeo@a.example' type='chat' id='i'><body>As if</body></message>")


async def test_5_1_in_the_name_of_the_server(server: FederatedServer, ready: Any) -> None:
    juliet = await server.client("juliet@a.example/y", presence=True)
    say = await ready("say")
    say.send(wrap(message("a.example")))
    await juliet.expect("<message from='a.example' type='chat' id='i'><body>As if</body></message>")


@pytest.mark.parametrize(
    ("name", "to", "inner", "condition"),
    [
        ("none", "a.example", message(), "forbidden"),
        ("both", "a.example", message(), "forbidden"),
        ("half", "c.example", message("benvolio@c.example"), "forbidden"),
        ("say", "a.example", message("romeo@a.example/x"), "forbidden"),
        ("say", "a.example", message("benvolio@c.example"), "forbidden"),
        ("say", "a.example", message("x@elsewhere.example"), "forbidden"),
        ("say", "a.example", message("nobody@a.example"), "forbidden"),
        ("say", "a.example", message(""), "forbidden"),
        ("say", "a.example", message(to=""), "bad-request"),
        ("say", "a.example", message(to="@"), "jid-malformed"),
        ("say", "a.example", message("@"), "jid-malformed"),
        ("say", "a.example", "<presence xmlns='jabber:client'/>", "bad-request"),
        ("say", "a.example", "", "bad-request"),
        ("say", "a.example", message().replace("jabber:client", "jabber:server"), "bad-request"),
    ],
)
async def test_5_1_what_is_not_granted(
    server: FederatedServer, ready: Any, name: str, to: str, inner: str, condition: str
) -> None:
    juliet = await server.client("juliet@a.example/y", presence=True)
    client = await ready(name)
    if name == "half":
        await client.expect(f"<presence {C}/>")
    client.send(wrap(inner, name, to))
    await client.expect(f"<message {C} type='error' id='m'><error><{condition} xmlns='{ERR}'/></error></message>")
    await juliet.expect_nothing()


async def test_users_of_the_component_and_messages_to_users_are_no_privileged_ones(
    server: FederatedServer, ready: Any
) -> None:
    juliet = await server.client("juliet@a.example/y", presence=True)
    say = await ready("say")
    say.send(wrap(message(), sender="user@say.a.example"))
    await say.expect(f"<message {C} type='error' to='user@say.a.example'/>")
    say.send(wrap(message(), to="juliet@a.example/y"))
    await juliet.expect("<message from='say.a.example'><privilege xmlns='urn:xmpp:privilege:2'/></message>")
    await juliet.iq("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert not [el for el in juliet.inbox if el.tag.endswith("message")]


async def test_a_locked_account_says_nothing(server: FederatedServer, ready: Any) -> None:
    await server.kernel.service(AccountsService).disable(JID.parse("romeo@a.example"))
    say = await ready("say")
    say.send(wrap(message()))
    await say.expect(f"<message {C} type='error'><error><forbidden xmlns='{ERR}'/></error></message>")


async def test_they_are_archived_and_copied_like_the_users_own(server: FederatedServer, ready: Any) -> None:
    """What a gateway's user wrote with the other network's program shows up on all devices."""
    romeo = await server.client("romeo@a.example/x", presence=True)
    await romeo.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    say = await ready("say")
    say.send(wrap(message(to="friend@say.a.example")))
    await say.expect(f"<message {C} from='romeo@a.example' to='friend@say.a.example' id='i'/>")
    copy = await romeo.expect("<message from='romeo@a.example'><sent xmlns='urn:xmpp:carbons:2'/></message>")
    assert copy.findtext(".//{jabber:client}body") == "As if"
    romeo.send("<iq type='set' id='m'><query xmlns='urn:xmpp:mam:2'/></iq>")
    kept = await romeo.expect("<message><result xmlns='urn:xmpp:mam:2'/></message>")
    assert kept.findtext(".//{jabber:client}body") == "As if"
    await romeo.expect("<iq type='result' id='m'/>")


async def test_a_user_who_blocks_somebody_writes_to_them_no_more_than_else(server: FederatedServer, ready: Any) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    juliet = await server.client("juliet@a.example/y", presence=True)
    await romeo.iq("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='juliet@a.example'/></block></iq>")
    say = await ready("say")
    say.send(wrap(message()))
    say.send(wrap(message("a.example")))
    await juliet.expect("<message from='a.example'/>")
