"""Stanzas: taken, frozen, changed and read again without loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import AddressMalformed, SenderMalformed, Stanza, content_bytes, insert_child, take
from beamish.xmpp.xml import escape_attr, escape_text, make

ROMEO, JULIET = JID.parse("romeo@example.org/orchard"), JID.parse("juliet@example.org")
WRAP = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'%s>%s</stream:stream>"
characters = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")
texts = st.text(characters | st.sampled_from("\t\n\r<>&'\""), max_size=30)


def element(text: str | bytes, declarations: str = "") -> etree._Element:
    data = text if isinstance(text, bytes) else text.encode()
    return etree.fromstring(WRAP % (declarations.encode(), data))[0]


def meaning(wire: bytes) -> str:
    """Canonical XML of a stanza on a client's stream; prefixes do not matter."""
    return etree.canonicalize(etree.tostring(element(wire), encoding="unicode", with_tail=False), rewrite_prefixes=True)


@given(texts, texts, texts, texts)
def test_every_character_survives(id_: str, resource: str, attribute: str, text: str) -> None:
    sent = (
        f"<message id='{escape_attr(id_)}' foo='{escape_attr(attribute)}' to='a@b' type='chat'>"
        f"<x xmlns='urn:x' a='{escape_attr(attribute)}'>{escape_text(text)}</x></message>"
    )
    stanza = take(element(sent))
    assert stanza.id == id_
    assert meaning(stanza.to_wire()) == meaning(sent.encode())
    again = Stanza.parse(stanza.to_wire())
    assert (again.head, again.body, again.id, again.to) == (stanza.head, stanza.body, stanza.id, stanza.to)
    assert again.el.get("foo") == attribute
    assert again.el[0].text or not text


ROUND = (
    "<message/>",
    "<message to='a@b/&lt;&apos;' from='c@d/&quot;'/>",
    "<presence xml:lang='de'><status>weg</status></presence>",
    "<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='a@b'/></query></iq>",
    "<message><body>a</body><p:x xmlns:p='urn:p' p:y='1'><z xmlns=''/></p:x></message>",
    "<message p:foo='1' xmlns:p='urn:p'><p:x/></message>",
    "<message><f xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>b</body></message></f></message>",
    "<message><fwd xmlns='urn:f'><message xmlns='jabber:server'/></fwd>tail<body/>text</message>",
    "<c:message xmlns:c='jabber:client' c:a='1'><c:body><d xmlns='urn:d'><c:e/><f xmlns=''/></d></c:body></c:message>",
    "<message><c:body xmlns:c='jabber:client'>x</c:body></message>",
    "<message><x xmlns='urn:x' xmlns:xs='urn:xs' xs:type='xs:string'>q</x></message>",
    "<message><stream:x/></message>",
)


@pytest.mark.parametrize("text", ROUND)
def test_what_is_taken_says_the_same(text: str) -> None:
    stanza = take(element(text))
    assert meaning(stanza.to_wire()) == meaning(text.encode())
    assert meaning(Stanza.parse(stanza.to_wire()).to_wire()) == meaning(text.encode())
    assert meaning(stanza.detached().to_wire()) == meaning(text.encode())
    assert not any(el.prefix for el in element(stanza.to_wire()).iter() if str(el.tag).startswith("{jabber:client}")), (
        "RFC 6120 §4.8.5"
    )


@pytest.mark.parametrize("space", ["jabber:server", "jabber:component:accept"])
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("<message xmlns='{}'><body>x</body></message>", "<message><body>x</body></message>"),
        ("<s:message xmlns:s='{}'><s:body>x</s:body></s:message>", "<message><body>x</body></message>"),
        ("<s:iq xmlns:s='{}' type='get' id='1'/>", "<iq type='get' id='1'/>"),
        (
            "<s:iq xmlns:s='{}' type='get'><q xmlns='urn:q' s:a='1'/></s:iq>",
            "<iq type='get'><q xmlns='urn:q' xmlns:s='{}' s:a='1'/></iq>",
        ),
        (
            "<message xmlns='{}'><f xmlns='urn:f'><message xmlns='jabber:client'><body>x</body></message></f></message>",
            "<message><f xmlns='urn:f'><message xmlns='jabber:client'><body>x</body></message></f></message>",
        ),
        (
            "<s:message xmlns:s='{}'><f xmlns='urn:f'><s:message><s:body>x</s:body></s:message></f></s:message>",
            "<message><f xmlns='urn:f'><message xmlns='{}'><body>x</body></message></f></message>",
        ),
        (
            "<s:message xmlns:s='{}'><c:body xmlns:c='jabber:client'>x</c:body></s:message>",
            "<message><body>x</body></message>",
        ),
    ],
)
def test_stanzas_of_other_streams_that_name_their_namespace(space: str, text: str, meant: str) -> None:
    text, meant = text.format(space), meant.format(space)
    el = etree.fromstring(f"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>{text}</stream:stream>")[0]
    stanza = take(el, name=str(el.tag).rpartition("}")[2])
    assert meaning(stanza.to_wire()) == meaning(meant.encode())
    assert stanza.el.tag == f"{{jabber:client}}{stanza.name}"
    assert meaning(stanza.detached().to_wire()) == meaning(Stanza.parse(stanza.to_wire()).to_wire())


def test_prefixes_of_the_stream_header_come_along_where_they_are_used() -> None:
    used = take(element("<message><e:x e:a='1'/></message>", " xmlns:e='urn:e' xmlns:unused='urn:u'"))
    assert used.to_wire() == b"<message xmlns:e='urn:e'><e:x e:a=\"1\"/></message>"


def test_a_stream_prefix_that_means_something_else_is_declared() -> None:
    header = b"<s xmlns='http://etherx.jabber.org/streams' xmlns:stream='urn:evil'>%s</s>"
    stanza = take(etree.fromstring(header % b"<message xmlns='jabber:client'><stream:x/></message>")[0])
    assert element(stanza.to_wire())[0].tag == "{urn:evil}x"


@given(st.sampled_from(ROUND), texts.filter(bool))
def test_addresses_are_spliced(text: str, resource: str) -> None:
    stanza = take(element(text))
    to, sender = JID.of("a", "b", resource), JID.of("c", "d", resource)
    stamped = stanza.replace(sender=sender, to=to)
    el = element(stamped.to_wire())
    assert (el.get("to"), el.get("from")) == (str(to), str(sender))
    frozen = stamped.freeze()
    assert frozen.addressed(JULIET.wire) == stamped.replace(to=JULIET).to_wire()
    assert stanza.replace() is not stanza
    assert stanza.replace().to_wire() == stanza.to_wire()


@pytest.mark.parametrize("text", ROUND)
def test_a_child_more_or_less(text: str) -> None:
    stanza = take(element(text))
    child = b"<delay xmlns='urn:xmpp:delay' stamp='x'/>"
    more = stanza.with_child(child)
    inserted = insert_child(stanza.to_wire(), stanza.name, child)
    assert meaning(more.to_wire()) == meaning(inserted)
    delay = more.child("{urn:xmpp:delay}delay")
    assert delay is not None
    assert len(more.el) == len(stanza.el) + 1
    again = more.without(delay)
    assert [el.tag for el in again.el] == [el.tag for el in stanza.el]
    for got, was in zip(again.el, stanza.el, strict=True):
        assert etree.canonicalize(etree.tostring(got, encoding="unicode", with_tail=False), rewrite_prefixes=True) == (
            etree.canonicalize(etree.tostring(was, encoding="unicode", with_tail=False), rewrite_prefixes=True)
        )
    assert stanza.without() is stanza
    assert stanza.without(*stanza.el).body == b"/>"


@pytest.mark.parametrize("text", ROUND)
def test_children_stand_alone(text: str) -> None:
    for child in take(element(text)).el:
        alone = element(content_bytes(child))
        assert alone.tag == child.tag
        assert alone.text == child.text
        assert dict(alone.items()) == dict(child.items())


@pytest.mark.parametrize("text", ROUND)
def test_children_of_a_stanza_that_left_its_stream_have_no_prefix_either(text: str) -> None:
    """A prefix is made up for what has lost the declaration; clients that look for `body` do not find `ns0:body`."""
    el = element(text)
    stanza = take(el)
    root = el.getparent()
    assert root is not None
    root.remove(el)
    for child, was in zip(stanza.el, take(element(text)).el, strict=True):
        alone = content_bytes(child)
        assert not any(e.prefix for e in element(alone).iter("{jabber:client}*"))
        assert meaning(alone) == meaning(content_bytes(was))


def test_malformed_addresses() -> None:
    with pytest.raises(AddressMalformed) as caught:
        take(element("<iq to='a b@c' id='&amp;' type='get'/>"))
    assert caught.value.reply is not None
    assert caught.value.reply.to_wire().startswith(b"<iq type='error' id='&amp;'><error type='modify'><jid-malformed ")
    for text in ("<iq to='@' type='result'/>", "<message to='@' type='error'/>"):
        with pytest.raises(AddressMalformed) as caught:
            take(element(text))
        assert caught.value.reply is None
    with pytest.raises(SenderMalformed):
        take(element("<message from='@' to='@'/>"))
    with pytest.raises(ValueError, match="not a stanza"):
        Stanza.parse(b"<message to='@'/>")


@pytest.mark.parametrize("data", [b"", b"x", b"<message", b"<message><body></message>", b"<message>&x;</message>"])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a stanza"):
        Stanza.parse(data)


def test_stanzas_of_our_own() -> None:
    made = Stanza.build("iq", "get", id="<1>", sender=ROMEO, to=JULIET, lang="en", content=make("{urn:x}q", {"a": "1"}))
    assert meaning(made.to_wire()) == meaning(
        f"<iq type='get' id='&lt;1>' xml:lang='en' from='{ROMEO}' to='{JULIET}'><q xmlns='urn:x' a='1'/></iq>".encode()
    )
    assert made.payload is not None
    assert made.payload.tag == "{urn:x}q"
    assert Stanza.build("presence").to_wire() == b"<presence/>"


def test_answers() -> None:
    request = take(element(f"<iq type='get' id='1' from='{ROMEO}' to='{JULIET}'><q xmlns='urn:x'/></iq>"))
    assert request.reply(b"<a xmlns='b'/>").to_wire() == (
        f"<iq type='result' id='1' from='{JULIET}' to='{ROMEO}'><a xmlns='b'/></iq>".encode()
    )
    error = request.error(StanzaError(Condition.FORBIDDEN), by="x'y")
    assert error is not None
    assert b"by='x&apos;y'" in error.to_wire()
    assert (error.type, error.id, error.sender, error.to) == ("error", "1", JULIET, ROMEO)
    assert error.error(StanzaError(Condition.FORBIDDEN)) is None, "RFC 6120 §8.3.1 rule 8"
    assert request.reply().error(StanzaError(Condition.FORBIDDEN)) is None


def test_reading() -> None:
    stanza = take(element("<message><error/><body>a</body><body>b</body><subject/></message>"))
    assert stanza.text("{jabber:client}body") == "a"
    assert stanza.text("{jabber:client}subject") == ""
    assert stanza.text("{jabber:client}thread") is None
    assert stanza.payload is not None
    assert stanza.payload.tag == "{jabber:client}body"
    assert stanza.detached().child("{jabber:client}body") is not None
    assert "message" in repr(stanza)


class TestThaw:
    @pytest.mark.parametrize(
        "data",
        [
            b"<message from='a@b/c' to='d@e'/>",
            b"<message/>",
            b"<presence type='unavailable' from='a@b/c'/>",
            b"<message to='d@e'><body>x</body></message>",
            b"<message type='chat' id='&apos;&amp;&lt;&gt;&quot;&#9;&#10;' xml:lang='en' "
            b"from='b@b/c&amp;d&apos;' to='d@e'><body>"
            b"from='x@y' to='z'&gt;</body></message>",
            b"<message xmlns:p='urn:p' p:from='not an address' from='a@b/c' to='d@e'>"
            b"<p:x to='1'/><message xmlns='urn:y'/></message>",
            b"<iq type='result' id='1' from='a@b/c' to='d@e'/>",
        ],
    )
    def test_it_reads_what_parse_reads(self, data):
        data = Stanza.parse(data).to_wire()
        thawed, parsed = Stanza.thaw(data), Stanza.parse(data)
        for name in ("name", "type", "id", "sender", "to", "lang", "head", "body"):
            assert getattr(thawed, name) == getattr(parsed, name), name
        assert thawed.to_wire() == data
        assert thawed.el.tag == parsed.el.tag

    @pytest.mark.parametrize(
        "data", [b"", b"<message", b"<message from='@' to='a@b'/>", b"<message>", b"hello", b"<iq></message>"]
    )
    def test_damage_is_told(self, data):
        with pytest.raises(ValueError, match="stanza"):
            Stanza.thaw(data)
