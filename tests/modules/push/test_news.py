"""Which messages are worth it, for whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.core.content import survey
from beamish.modules.push.news import concerns_all, is_news, news
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PersonalStanza, Stanza

JULIET = JID.parse("juliet@example.org")
OMEMO = "<encrypted xmlns='{}'><header sid='1'/>{}</encrypted>"
DELAY = "<delay xmlns='urn:xmpp:delay' stamp='2024-01-01T00:00:00Z'/>"

WORTH_IT = (
    "<body>x</body>",
    "<body>x</body><subject>y</subject>",
    f"<body>offline</body>{DELAY}",
    "<body/><body xml:lang='de'>x</body>",
    OMEMO.format("eu.siacs.conversations.axolotl", "<payload>x</payload>"),
    OMEMO.format("urn:xmpp:omemo:2", "<payload>x</payload>"),
    OMEMO.format("urn:xmpp:omemo:1", "<payload>x</payload>") + "<store xmlns='urn:xmpp:hints'/>",
    OMEMO.format("eu.siacs.conversations.axolotl", "") + "<body>for old clients</body>",
    "<openpgp xmlns='urn:xmpp:openpgp:0'>x</openpgp>",
    "<x xmlns='jabber:x:encrypted'>x</x>",
    "<x xmlns='jabber:x:oob'><url>https://example.org/</url></x>",
    "<x xmlns='jabber:x:conference' jid='a@b'/>",
    "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x>",
    "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>",
    "<propose xmlns='urn:xmpp:jingle-message:1' id='1'/><no-store xmlns='urn:xmpp:hints'/>",
    "<invite xmlns='urn:xmpp:call-invites:0' id='1'/>",
    "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='1'/>",
    "<body>x</body><active xmlns='http://jabber.org/protocol/chatstates'/>",
)
NOT_WORTH_IT = (
    "",
    "<body/>",
    "<subject>x</subject>",
    "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
    "<received xmlns='urn:xmpp:receipts' id='1'/>",
    "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
    "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
    "<retract xmlns='urn:xmpp:message-retract:1' id='1'/><body>for old clients</body>",
    "<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='n'/></event><body>x</body>",
    OMEMO.format("eu.siacs.conversations.axolotl", ""),
    OMEMO.format("urn:xmpp:omemo:2", ""),
    "<ringing xmlns='urn:xmpp:jingle-message:0' id='1'/>",
    "<retract xmlns='urn:xmpp:jingle-message:0' id='1'/>",
    "<body>x</body><no-store xmlns='urn:xmpp:hints'/>",
    "<result xmlns='urn:xmpp:mam:2' id='1'><body xmlns='jabber:client'>x</body></result>",
    "<odd xmlns='urn:example'/>",
)


def message(inner: str, type: str = "chat", sender: str = "romeo@example.net/orchard", to: str = "") -> Stanza:
    at = f" to='{to}'" if to else ""
    return Stanza.parse(f"<message type='{type}' from='{sender}'{at}>{inner}</message>".encode())


def copy(inner: str, tag: str = "received", sender: str = "juliet@example.org") -> Stanza:
    content = (
        f"<{tag} xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<message xmlns='jabber:client' type='chat' from='romeo@example.net/orchard'>{inner}</message></forwarded></{tag}>"
    )
    return PersonalStanza.build("message", "chat", sender=JID.parse(sender), content=content.encode())


@pytest.mark.parametrize("inner", WORTH_IT)
def test_worth_it(inner: str) -> None:
    stanza = message(inner)
    assert news(stanza, JULIET) is stanza
    found = news(copy(inner), JULIET)
    assert found is not None
    assert found.sender == "romeo@example.net/orchard"


@pytest.mark.parametrize("inner", NOT_WORTH_IT)
def test_not_worth_it(inner: str) -> None:
    assert news(message(inner), JULIET) is None
    assert news(copy(inner), JULIET) is None


@pytest.mark.parametrize("type", ["error", "headline"])
def test_types_that_are_not(type: str) -> None:
    assert news(message("<body>x</body>", type), JULIET) is None


def test_what_the_account_said_itself() -> None:
    assert news(message("<body>x</body>", sender="juliet@example.org/desktop"), JULIET) is None
    assert news(copy("<body>x</body>", "sent"), JULIET) is None


def test_a_copy_that_somebody_else_invented() -> None:
    assert news(copy("<body>x</body>", sender="romeo@example.net/orchard"), JULIET) is None


@pytest.mark.parametrize("inner", ["", "<message xmlns='jabber:client' from='a@@b'><body>x</body></message>"])
def test_copies_of_nothing(inner: str) -> None:
    content = (
        f"<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></received>"
    )
    assert news(Stanza.build("message", sender=JULIET, content=content.encode()), JULIET) is None


def test_rooms() -> None:
    room = "balcony@conference.example.net"
    said = message("<body>x</body>", "groupchat", f"{room}/Romeo")
    assert news(said, JULIET, {JID.parse(f"{room}/Juliet")}) is said
    assert news(said, JULIET, {JID.parse(f"{room}/Romeo")}) is None
    assert news(message(f"<body>x</body>{DELAY}", "groupchat", f"{room}/Romeo"), JULIET) is None
    whispered = message("<body>x</body>", "chat", f"{room}/Romeo")
    assert news(whispered, JULIET, {JID.parse(f"{room}/Romeo")}) is whispered  # directed presence, and an answer to it


@pytest.mark.parametrize(
    ("inner", "type", "to", "all_of_them"),
    [
        ("", "chat", "", True),
        ("", "chat", "juliet@example.org/a", True),
        ("<private xmlns='urn:xmpp:carbons:2'/>", "chat", "juliet@example.org/a", False),
        ("<no-copy xmlns='urn:xmpp:hints'/>", "chat", "juliet@example.org/a", False),
        ("<x xmlns='http://jabber.org/protocol/muc#user'/>", "chat", "juliet@example.org/a", False),
        ("<private xmlns='urn:xmpp:carbons:2'/>", "chat", "juliet@example.org", True),
        ("", "groupchat", "juliet@example.org/a", False),
    ],
)
def test_what_is_for_one_device_alone(inner: str, type: str, to: str, all_of_them: bool) -> None:
    stanza = message(f"<body>x</body>{inner}", type, to=to)
    assert concerns_all(stanza, survey(stanza)) is all_of_them


@given(
    st.lists(st.sampled_from(WORTH_IT + NOT_WORTH_IT), max_size=4).map("".join),
    st.sampled_from(["chat", "normal", "groupchat", "headline", "error", "odd"]),
)
def test_of_any_mixture_a_copy_is_judged_as_the_message_is(inner: str, type: str) -> None:
    stanza = message(inner, type)
    worth = news(stanza, JULIET) is not None
    assert worth is is_news(stanza, survey(stanza))
    if type == "chat":
        assert (news(copy(inner), JULIET) is not None) is worth
    if type in ("headline", "error"):
        assert not worth


@given(st.lists(st.sampled_from(NOT_WORTH_IT), max_size=5).map("".join))
def test_things_that_are_not_worth_it_are_not_together(inner: str) -> None:
    assert news(message(inner), JULIET) is None
