"""Whatever is in a message arrives as it was written: live, from offline storage, from the archive, in copies."""

from __future__ import annotations

import pytest
from lxml import etree

from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.xml import Element

XHTML = (
    "<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'><p style='color: red'>"
    "Wow, I&apos;m <em>green</em>\n  with <strong>envy</strong>! &lt;3 \U0001f49a &#x9; <br/></p></body></html>"
)
PAYLOADS = {
    "xhtml": f"<body>Wow</body>{XHTML}",
    "unknown": "<body>x</body><a xmlns='urn:one' b='1' xml:lang='de'><c xmlns=''>t<d/>u</c> </a>",
    "prefixes": "<body>x</body><p:a xmlns:p='urn:p' p:b='&quot;&apos;&gt;'><q xmlns='urn:q' xmlns:r='urn:r' r:s='p:t'/></p:a>",
    "receipt": "<body>x</body><request xmlns='urn:xmpp:receipts'/>",
    "event": "<body>x</body><x xmlns='jabber:x:event'><offline/><delivered/><composing/></x>",
    "marker": "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
    "correction": "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='1'/>",
    "reaction": "<reactions xmlns='urn:xmpp:reactions:0' id='1'><reaction>\U0001f44b\U0001f3fd</reaction></reactions>",
    "reply": "<body>&gt; y\nx</body><reply xmlns='urn:xmpp:reply:0' id='1' to='a@b'/><fallback xmlns='urn:xmpp:fallback:0' "
    "for='urn:xmpp:reply:0'><body start='0' end='4'/></fallback>",
    "omemo": "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'><key rid='2'>AA==</key></header></encrypted>"
    "<store xmlns='urn:xmpp:hints'/>",
}
ADDED = ("{urn:xmpp:sid:0}stanza-id", "{urn:xmpp:delay}delay")


Tree = tuple[str, tuple[tuple[str, str], ...], str, tuple[tuple["Tree", str], ...]]


def tree(el: Element) -> Tree:
    """Everything in an element that XML tells apart: name, attributes, texts, children with what follows them."""
    attributes = tuple(sorted((str(key), str(value)) for key, value in el.items()))
    return str(el.tag), attributes, el.text or "", tuple((tree(child), child.tail or "") for child in el)


def canonical(message: Element) -> list[Tree]:
    """The children but those that servers add."""
    return [tree(child) for child in message if child.tag not in ADDED]


def written(inner: str) -> list[Tree]:
    return canonical(etree.fromstring(f"<message xmlns='jabber:client'>{inner}</message>"))


async def archived(client: Client) -> Element:
    client.inbox.clear()
    await client.iq("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
    found = client.inbox.popleft().find(".//{jabber:client}message")
    assert found is not None
    return found


@pytest.mark.parametrize("name", PAYLOADS)
async def test_the_same_on_every_way(world: World, name: str) -> None:
    inner = PAYLOADS[name]
    desk = await world.login("romeo@example.org/desk", presence=True)
    phone = await world.login("romeo@example.org/phone", presence=True)
    await phone.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    await world.settle()
    phone.inbox.clear()
    stanza = f"<message type='chat' id='m' to='juliet@example.org' xml:lang='en'>{inner}</message>"
    desk.send(stanza)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    offline = next(el for el in juliet.inbox if el.get("id") == "m")
    copy = (await phone.receive()).find("{urn:xmpp:carbons:2}sent//{jabber:client}message")
    assert copy is not None
    kept = [await archived(desk), await archived(juliet)]
    juliet.inbox.clear()
    desk.send(stanza)
    live = await juliet.receive()
    for el in (offline, copy, *kept, live):
        assert canonical(el) == written(inner)
        assert el.get("{http://www.w3.org/XML/1998/namespace}lang") == "en"
