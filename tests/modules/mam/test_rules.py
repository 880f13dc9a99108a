"""What belongs into an archive."""

from __future__ import annotations

import pytest

from beamish.core.content import survey
from beamish.modules.mam.rules import belongs, without_forged_ids
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

OWNER = JID.parse("juliet@example.org")
HINT = "xmlns='urn:xmpp:hints'"


def archived(inner: str, type: str = "chat") -> bool:
    stanza = Stanza.parse(f"<message type='{type}'>{inner}</message>".encode())
    return belongs(stanza.type, survey(stanza))


@pytest.mark.parametrize(
    "inner",
    [
        "<body>x</body>",
        "<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
        "<openpgp xmlns='urn:xmpp:openpgp:0'/>",
        "<received xmlns='urn:xmpp:receipts' id='1'/>",
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
        "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
        "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>",
        "<proceed xmlns='urn:xmpp:jingle-message:0' id='1'/>",
        "<invite xmlns='urn:xmpp:call-invites:0'/>",
        "<x xmlns='jabber:x:conference' jid='room@c'/>",
        "<x xmlns='jabber:x:oob'><url>https://example.org/x</url></x>",
        f"<odd xmlns='urn:example'/><store {HINT}/>",
    ],
)
@pytest.mark.parametrize("type", ["chat", "normal", "", "strange"])
def test_archived(inner: str, type: str) -> None:
    assert archived(inner, type)


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "<body/>",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "<request xmlns='urn:xmpp:receipts'/>",
        "<markable xmlns='urn:xmpp:chat-markers:0'/>",
        "<odd xmlns='urn:example'/>",
        "<event xmlns='http://jabber.org/protocol/pubsub#event'/>",
        f"<body>x</body><no-store {HINT}/>",
        f"<body>x</body><no-permanent-store {HINT}/>",
        f"<body>x</body><no-store {HINT}/><store {HINT}/>",
        "<body>x</body><received xmlns='urn:xmpp:carbons:2'/>",
        "<body>x</body><result xmlns='urn:xmpp:mam:2'/>",
    ],
)
def test_not_archived(inner: str) -> None:
    assert not archived(inner)


@pytest.mark.parametrize("type", ["groupchat", "headline", "error"])
def test_types_that_are_never_archived(type: str) -> None:
    assert not archived(f"<body>x</body><store {HINT}/>", type)


def test_forged_ids_go_and_others_stay() -> None:
    ids = "".join(
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='{n}'/>"
        for n, by in enumerate(["juliet@example.org", "JULIET@Example.org", "room@c.example.org", "@", ""])
    )
    stanza = Stanza.parse(f"<message><body>x</body>{ids}<origin-id xmlns='urn:xmpp:sid:0' id='o'/></message>".encode())
    left = without_forged_ids(stanza, OWNER)
    assert [el.get("id") for el in left.el if el.get("id")] == ["2", "3", "4", "o"]
    assert left.text("{jabber:client}body") == "x"
    assert without_forged_ids(left, OWNER) is left
