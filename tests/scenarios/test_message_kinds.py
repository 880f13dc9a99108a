"""What becomes of each kind of message: archive, copies, offline storage, and a client that nobody looks at."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from beamish.testing.client import Client
from beamish.testing.world import World

CARBONS = "urn:xmpp:carbons:2"
CSI = "urn:xmpp:csi:0"
MAM = "urn:xmpp:mam:2"
HINTS = "xmlns='urn:xmpp:hints'"
NOW, HELD, DROPPED = "now", "held", "dropped"


@dataclass(frozen=True)
class Kind:
    """A message without its head, and what is to become of it."""

    inner: str
    archived: bool = True
    copied: bool = True
    offline: bool = True
    inactive: str = NOW
    type: str = "chat"


KINDS = {
    "text": Kind("<body>x</body>"),
    "text with a receipt requested (0184) and a chat state (0085)": Kind(
        "<body>x</body><request xmlns='urn:xmpp:receipts'/><active xmlns='http://jabber.org/protocol/chatstates'/>"
    ),
    "normal": Kind("<subject>s</subject><body>x</body>", type="normal"),
    "encrypted (0384)": Kind("<encrypted xmlns='eu.siacs.conversations.axolotl'/><store xmlns='urn:xmpp:hints'/>"),
    "encrypted (0384, 2)": Kind("<encrypted xmlns='urn:xmpp:omemo:2'/>"),
    "chat state (0085)": Kind(
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>", archived=False, offline=False, inactive=DROPPED
    ),
    "chat state in a thread (0085)": Kind(
        "<paused xmlns='http://jabber.org/protocol/chatstates'/><thread>t</thread>",
        archived=False,
        offline=False,
        inactive=DROPPED,
    ),
    "receipt (0184)": Kind("<received xmlns='urn:xmpp:receipts' id='1'/>", offline=False, inactive=HELD),
    "receipt (0184), normal": Kind(
        "<received xmlns='urn:xmpp:receipts' id='1'/>", offline=False, inactive=HELD, type="normal"
    ),
    "displayed marker (0333)": Kind("<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", inactive=HELD),
    "received marker (0333)": Kind("<received xmlns='urn:xmpp:chat-markers:0' id='1'/>", inactive=HELD),
    "marker with a hint (0333, 0334)": Kind(
        f"<acknowledged xmlns='urn:xmpp:chat-markers:0' id='1'/><store {HINTS}/>", inactive=HELD, type="normal"
    ),
    "correction (0308)": Kind("<body>y</body><replace xmlns='urn:xmpp:message-correct:0' id='1'/>"),
    "reply (0461)": Kind(
        "<body>&gt; x\ny</body><reply xmlns='urn:xmpp:reply:0' id='1' to='a@b'/>"
        "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='4'/></fallback>"
    ),
    "reaction (0444)": Kind(
        "<reactions xmlns='urn:xmpp:reactions:0' id='1'><reaction>\U0001f422</reaction></reactions>"
    ),
    "reaction taken back (0444)": Kind("<reactions xmlns='urn:xmpp:reactions:0' id='1'/>"),
    "retraction (0424)": Kind("<retract xmlns='urn:xmpp:message-retract:1' id='1'/>"),
    "retraction with a fallback (0424)": Kind(
        "<retract xmlns='urn:xmpp:message-retract:1' id='1'/><body>I take it back</body>"
        f"<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:message-retract:1'/><store {HINTS}/>"
    ),
    "call proposed (0353)": Kind(
        "<propose xmlns='urn:xmpp:jingle-message:0' id='1'><description xmlns='urn:xmpp:jingle:apps:rtp:1' media='audio'/>"
        "</propose>"
    ),
    "call accepted (0353)": Kind("<proceed xmlns='urn:xmpp:jingle-message:0' id='1'/>"),
    "call over (0353)": Kind("<finish xmlns='urn:xmpp:jingle-message:0' id='1'/>", type="normal"),
    "call invitation (0482)": Kind("<invite xmlns='urn:xmpp:call-invites:0'/>"),
    "invitation to a room (0249)": Kind("<x xmlns='jabber:x:conference' jid='a@b'/>", type="normal"),
    "file (0066)": Kind("<x xmlns='jabber:x:oob'><url>https://example.org/x</url></x>"),
    "rich text (0071)": Kind("<body>x</body><html xmlns='http://jabber.org/protocol/xhtml-im'/>"),
    "not to be stored (0334)": Kind(f"<body>x</body><no-store {HINTS}/>", archived=False, offline=False),
    "not for archives (0334)": Kind(f"<body>x</body><no-permanent-store {HINTS}/>", archived=False),
    "not to be copied (0334)": Kind(f"<body>x</body><no-copy {HINTS}/>", copied=False),
    "private (0280)": Kind(f"<body>x</body><private xmlns='{CARBONS}'/><no-copy {HINTS}/>", copied=False),
    "something unknown": Kind("<odd xmlns='urn:example'/>", archived=False),
    "something unknown, to be stored (0334)": Kind(f"<odd xmlns='urn:example'/><store {HINTS}/>"),
    "headline": Kind(
        "<subject>s</subject><body>x</body>", archived=False, copied=False, offline=False, type="headline"
    ),
}


def ids(client: Client) -> list[str]:
    """Ids of the messages that came; they are taken."""
    found = [el.get("id") or "" for el in client.inbox if el.tag == "{jabber:client}message"]
    client.inbox.clear()
    return found


def copies(client: Client, tag: str) -> int:
    """How many copies came, of what was sent or received; they are taken."""
    found = [el.find(f"{{{CARBONS}}}{tag}") is not None for el in client.inbox if el.tag == "{jabber:client}message"]
    assert all(found)
    client.inbox.clear()
    return len(found)


async def archived(client: Client) -> int:
    client.inbox.clear()
    await client.iq(f"<iq type='set' id='q'><query xmlns='{MAM}'/></iq>")
    found = [el for el in client.inbox if el.find(f"{{{MAM}}}result") is not None]
    client.inbox.clear()
    return len(found)


@pytest.mark.parametrize("name", KINDS)
async def test_what_becomes_of_it(world: World, name: str) -> None:
    kind = KINDS[name]

    def send(client: Client, to: str, id: str) -> None:
        client.send(f"<message type='{kind.type}' id='{id}' to='{to}'>{kind.inner}</message>")

    desk = await world.login("romeo@example.org/desk", presence=True)
    copied = [await world.login("romeo@example.org/copied", presence=True)]
    balcony = await world.login("juliet@example.org/balcony", presence=True)
    copied.append(await world.login("juliet@example.org/copied", priority=-1))
    for client in copied:
        await client.iq(f"<iq type='set' id='c'><enable xmlns='{CARBONS}'/></iq>")
    phone = await world.login("juliet@example.org/phone", presence=True)
    phone.send(f"<inactive xmlns='{CSI}'/>")
    await world.settle()
    for client in (desk, balcony, phone, *copied):
        client.inbox.clear()

    # to one device: it has it, other devices of both have copies
    send(desk, "juliet@example.org/balcony", "direct")
    await world.settle()
    assert ids(balcony) == ["direct"]
    assert (copies(copied[0], "sent"), copies(copied[1], "received")) == (kind.copied, kind.copied)
    assert ids(phone) == []

    # to all: what nobody looks at may have to wait
    send(desk, "juliet@example.org", "all")
    await world.settle()
    assert ids(balcony) == ["all"]
    assert ids(phone) == (["all"] if kind.inactive == NOW else [])
    phone.send(f"<active xmlns='{CSI}'/>")
    await world.settle()
    assert ids(phone) == (["all"] if kind.inactive == HELD else [])

    assert [await archived(client) for client in (desk, balcony)] == [2 * kind.archived] * 2
    assert desk.inbox == type(desk.inbox)()

    # to somebody who is away
    send(desk, "mercutio@example.org", "away")
    await world.settle()
    stored = await world.db.fetch("SELECT account FROM offline_message")
    assert stored == ([("mercutio@example.org",)] if kind.offline else [])
    lost = not kind.offline and not kind.archived and kind.type != "headline"
    assert [el.get("type") for el in desk.inbox] == (["error"] if lost else [])
    mercutio = await world.login("mercutio@example.org/street", presence=True)
    await world.settle()
    assert ids(mercutio) == (["away"] if kind.offline else [])
    assert await archived(mercutio) == kind.archived
