"""What messages are found to hold."""

from __future__ import annotations

import pytest

from beamish.core.content import Holds as H
from beamish.core.content import chat_state_only, content_of, forget, survey, words
from beamish.core.events import Context
from beamish.stream.gate import ParserLimits
from beamish.stream.names import NameLedger
from beamish.stream.quick import QuickReader
from beamish.xmpp.stanza import Stanza

HINT = "xmlns='urn:xmpp:hints'"
STATE = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
MUC = "http://jabber.org/protocol/muc#user"


def message(inner: str, type: str = "chat") -> Stanza:
    return Stanza.parse(f"<message type='{type}' id='1'>{inner}</message>".encode())


@pytest.mark.parametrize(
    ("inner", "held"),
    [
        ("", 0),
        ("<body/>", 0),
        ("<body>x</body>", H.BODY),
        ("<body>x</body><thread>t</thread>", H.BODY | H.ASIDE),
        (STATE, H.STATE),
        ("<request xmlns='urn:xmpp:receipts'/>", H.RECEIPT_REQUEST),
        ("<received xmlns='urn:xmpp:receipts' id='1'/>", H.RECEIPT),
        ("<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", H.MARKER),
        ("<encrypted xmlns='urn:xmpp:omemo:2'/>", H.ENCRYPTED),
        ("<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>", H.CALL),
        (f"<x xmlns='{MUC}'/>", H.MUC_USER),
        (f"<x xmlns='{MUC}'><invite from='a@b'/></x>", H.INVITATION),
        ("<x xmlns='jabber:x:conference' jid='r@c'/>", H.INVITATION),
        (f"<no-copy {HINT}/><store {HINT}/>", H.NO_COPY | H.STORE),
        ("<anything xmlns='urn:example'/>", H.OTHER),
        ("<body xmlns='http://www.w3.org/1999/xhtml'>x</body>", H.OTHER),
    ],
)
def test_survey(inner: str, held: int) -> None:
    assert survey(message(inner)) == held


@pytest.mark.parametrize(
    "inner",
    [
        "<body>x</body>",
        "<body></body>",
        "<body/>",
        "<body>&amp;</body>",
        "<body>x</body><body xml:lang='de'>y</body>",
        "<body></body><body xml:lang='de'>y</body>",
        "<body xml:lang='de'>x</body>",
        "<subject>s</subject><body>x</body>",
        f"{STATE}<body></body>",
        "<thread><body>x</body></thread><body></body>",
        f"<x xmlns='{MUC}'/><body>x</body>",
    ],
)
@pytest.mark.parametrize("kind", ["chat", "error"])
def test_what_the_bytes_tell_is_what_the_tree_holds(inner: str, kind: str) -> None:
    ledger = NameLedger()
    ledger.learn(f"{{jabber:client}}{name}" for name in ("body", "thread", "subject"))
    ledger.learn((f"{{{MUC}}}x", "{urn:xmpp:hints}no-store", "{http://jabber.org/protocol/chatstates}composing"))
    data = f"<message type='{kind}' id='1'>{inner}<no-store {HINT}/></message>".encode()
    found = QuickReader(ParserLimits(), ledger).read(data, 0, "")
    assert found is not None
    assert isinstance(found[0], Stanza) and found[0].known_tags is not None
    assert survey(found[0]) == survey(message(f"{inner}<no-store {HINT}/>", kind))


def test_hints_in_errors_mean_nothing() -> None:
    assert survey(message(f"<body>x</body><no-store {HINT}/>", "error")) == H.BODY


@pytest.mark.parametrize(
    ("inner", "only"),
    [
        (STATE, True),
        (f"{STATE}<thread>t</thread><no-store {HINT}/>", True),
        (f"{STATE}<body>x</body>", False),
        (f"{STATE}<odd xmlns='urn:example'/>", False),
        ("", False),
    ],
)
def test_chat_states_alone(inner: str, only: bool) -> None:
    assert chat_state_only(survey(message(inner))) is only


def test_text_in_all_languages() -> None:
    two = "<body>good</body><body xml:lang='de'>gut</body><body/>"
    for made in (message(two), Stanza.thaw(message(two).to_wire())):
        assert (survey(made), words(made)) == (H.BODY, "good\ngut")
    for inner, found in (
        ("<subject>s</subject>", None),
        ("<body/>", None),
        ("<body></body>", None),
        ("<body>a &lt;b&gt; &amp;amp; &#228;</body>", "a <b> &amp; ä"),
        ("<x xmlns='urn:x'><body>not this</body></x>", None),
        ("<x xmlns='urn:x'><body>not this</body></x><body>this</body>", "this"),
    ):
        assert words(message(inner)) == words(Stanza.thaw(message(inner).to_wire())) == found


def test_one_look_for_a_context() -> None:
    ctx = Context(message("<body>x</body>"))
    assert content_of(ctx) == H.BODY
    ctx.stanza = message("<subject>s</subject>")
    assert content_of(ctx) == H.BODY
    forget(ctx)
    assert content_of(ctx) == H.SUBJECT
