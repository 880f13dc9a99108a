"""The short way says what the long way says, or nothing at all."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from beamish.stream.items import Item
from beamish.stream.markup import is_uri
from beamish.stream.names import NameLedger
from beamish.stream.parser import ParserLimits, StreamParser
from beamish.stream.quick import PLAIN, QuickReader, reader_for
from beamish.xmpp.errors import StreamError
from beamish.xmpp.stanza import Stanza

HEADER = (
    b"<stream:stream to='a.b' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
    b" xml:lang='de'>"
)
LONG = ParserLimits(attributes=15)
"""Limits with which nothing goes the short way; nothing here comes near them."""
NAMES = ("body", "subject", "x", "active", "origin-id", "show", "c", "m:body", "1a", "xml", "stream:error", "é")
SPACES = ("", "jabber:client", "urn:xmpp:sid:0", "http://jabber.org/protocol/chatstates", "not a uri", "stream")
ATTRIBUTES = ("id", "type", "xml:lang", "from", "to", "xmlns", "xmlns:m", "m:a", "ver", "xml:space", "xml:id")
VALUES = (
    "",
    "1",
    "a'b",
    'a"b',
    "&lt;",
    "&amp;&apos;",
    "&",
    "<",
    ">",
    "x y",
    "\t",
    "\n",
    "é",
    "\ufffe",
    "romeo@a.b/o",
    "@",
)
TEXTS = (
    "",
    "Hello",
    "&lt;b&gt; &amp;",
    "&#10;",
    "& ",
    "a > b",
    "]]>",
    " " * 20,
    "\n ",
    "\r",
    "\x0b",
    "ü\U0001f600",
    "\uffff",
)
MARKUP = ("<!-- x -->", "<![CDATA[x]]>", "<?pi?>", "<!DOCTYPE a>", "</stream:stream>", "</body>", "<", "/>")


def everything(data: bytes, limits: ParserLimits, ledger: NameLedger) -> tuple[list[object], bool]:
    """What a stream of these bytes says, as values, and whether an error ends it.

    Not which one: text between stanzas is called one thing at the beginning of a read and may be called another inside.
    """
    parser = StreamParser(limits, ledger, "me")
    parser.feed(HEADER)
    try:
        items, failed = parser.feed(data), False
    except StreamError:
        items, failed = parser.taken, True
    return [told(item) for item in items], failed


def told(item: Item) -> object:
    """A stanza as all its parts and what others would read in it."""
    if not isinstance(item, Stanza):
        return type(item).__name__
    own = [canonical(child) for child in item.el], item.el.text, [child.tail for child in item.el]
    relayed = canonical(Stanza.parse(item.to_wire()).el)
    return item.name, item.type, item.id, item.sender, item.to, item.lang, item.tags, own, relayed


def canonical(el: etree._Element) -> str:
    return etree.canonicalize(etree.tostring(el, encoding="unicode", with_tail=False), rewrite_prefixes=True)


def known() -> NameLedger:
    """A ledger that has met most of the names here, so that stanzas with them may go the short way."""
    ledger = NameLedger()
    ledger.learn(name for name in (*NAMES, *ATTRIBUTES) if ":" not in name)
    spaces = [space for space in SPACES if space and is_uri(space)]  # what is none never gets into a ledger
    ledger.learn(f"{{{space}}}{name}" for space in spaces for name in NAMES if ":" not in name)
    ledger.spaces |= {"urn:xmpp:sid:0", "http://jabber.org/protocol/chatstates", " " * 20}
    return ledger


@st.composite
def attributes(draw: st.DrawFn) -> str:
    pairs = draw(st.lists(st.tuples(st.sampled_from(ATTRIBUTES), st.sampled_from(VALUES + SPACES)), max_size=3))
    quote = draw(st.sampled_from("''\""))
    return "".join(f" {name}={quote}{value}{quote}" for name, value in pairs)


@st.composite
def elements(draw: st.DrawFn, names: tuple[str, ...] = NAMES, depth: int = 4) -> str:
    name, start = draw(st.sampled_from(names)), draw(attributes())
    if depth == 0 or draw(st.booleans()):
        return f"<{name}{start}{draw(st.sampled_from(('/>', ' />', '></' + name + '>')))}"
    inner = draw(st.lists(st.one_of(st.sampled_from(TEXTS), elements(depth=depth - 1)), max_size=3))
    return f"<{name}{start}>{''.join(inner)}</{name}>"


stanzas = elements(("message", "presence", "iq"))
# a reference to white space between stanzas is refused where it begins a read, as it does behind a plain one
BETWEEN = tuple(text for text in TEXTS if text != "&#10;")
streams = st.lists(st.one_of(stanzas, stanzas, st.sampled_from(MARKUP + BETWEEN)), max_size=4).map("".join)


@given(streams)
@example("<message to='romeo@a.b/o' type='chat' id='1'><body>Hello</body><active xmlns='urn:xmpp:sid:0'/></message>")
@example("<iq id='1' id='1' id='1' id='1'/>")
@example("<message to='a.b' to='a.b' to='a.b' to='a.b'/>")
@example("<message><x xmlns='urn:xmpp:sid:0' id='1' id='2'/></message>")
@example("<message><x xmlns=\"urn:xmpp:sid:0\" id=\"='1\"/><x xmlns='urn:xmpp:sid:0' id='2'/></message>")
@example("<presence><x xmlns='urn:xmpp:sid:0'><c/><c xmlns='' id='1'/></x></presence>  \n<presence/>")
@example("<presence><x><c/></x><x xmlns=''><c/></x></presence>")
@example("<presence to='@'/>")
@example("<presence to='a\"b@c'/>")
@example('<presence id="it\'s"/>')
@example("<presence></presence><stream:features/>")
@example("<message>\u00fc</message>")
@example("<message>\ufffe</message>")
@example("<presence/>text")
def test_it_says_what_the_parser_says(data: str) -> None:
    octets = data.encode()
    assert everything(octets, ParserLimits(), known()) == everything(octets, LONG, known())


@given(streams, st.integers(0, 200), st.binary(min_size=1, max_size=2))
def test_damaged_bytes_are_no_different(data: str, at: int, damage: bytes) -> None:
    octets = data.encode()
    octets = octets[:at] + damage + octets[at + 1 :]
    (short, short_error), (long, long_error) = (
        everything(octets, ParserLimits(), known()),
        everything(octets, LONG, known()),
    )
    # which of two errors it is that is named first may depend on where libxml2 begins
    assert (short, bool(short_error)) == (long, bool(long_error))


@pytest.mark.parametrize(
    "data",
    [
        "<message to='romeo@a.b' type='chat' id='1'><body>Hello &amp; so on</body></message>",
        "<message xmlns='jabber:client'><body xml:lang='de'>ü</body><origin-id xmlns='urn:xmpp:sid:0' id='1'/></message>",
        "<presence/>",
        '<presence type="unavailable" />',
        "<presence><x xmlns='urn:xmpp:sid:0'><c>1</c><c ver='2'/></x></presence>",
        "<iq type='get' id='p'><active xmlns='http://jabber.org/protocol/chatstates'/></iq>",
    ],
)
def test_what_clients_say_goes_the_short_way(data: str) -> None:
    octets = data.encode()
    found = reader_for(ParserLimits(), known()).read(octets, 0, "")
    assert found is not None
    assert found[1] == len(octets)


def test_a_stanza_with_a_name_that_is_not_known_is_left_to_the_parser() -> None:
    ledger = NameLedger()
    reader = QuickReader(ParserLimits(), ledger)
    unknown = b"<message><x xmlns='urn:new'><y z='1'/></x></message>"
    assert reader.read(unknown, 0, "") is None
    parser = StreamParser(ParserLimits(), ledger, "me")
    parser.feed(HEADER)
    parser.feed(unknown)
    assert reader.read(unknown, 0, "") is not None


@pytest.mark.parametrize(
    "limits",
    [ParserLimits(attributes=15), ParserLimits(depth=2), ParserLimits(stanza_bytes=20), ParserLimits(elements=4)],
)
def test_narrow_limits_are_left_to_the_parser(limits: ParserLimits) -> None:
    assert QuickReader(limits, NameLedger()).read(b"<message><body>Hello</body></message>", 0, "") is None


def test_no_input_takes_it_long() -> None:
    """Possessive repetitions do not go back; with others, these would take years."""
    for data in (
        b"<message" + b" a='1'" * 5_000,
        b"<message>" + b"<x/>" * 5_000,
        b"<message><body>" + b"&amp;" * 20_000,
    ):
        assert PLAIN.match(data) is None


def test_stanzas_behind_an_unfinished_one_go_the_short_way_too() -> None:
    """A read that ends in the middle of a stanza must not make the next one slow, nor may anything change its order."""
    one = b"<message id='%d'><body>" + b"x" * 100 + b"</body></message>"
    data = b"".join(one % n for n in range(100))
    for cut in (3, 20, 40, 130, 5_000):
        parser = StreamParser(ParserLimits(), known(), "me")
        parser.feed(HEADER)
        items = [*parser.feed(data[:cut]), *parser.feed(data[cut:])]
        assert [item.id for item in items if isinstance(item, Stanza)] == [str(n) for n in range(100)]
        assert sum(1 for item in items if isinstance(item, Stanza) and item._el is not None) <= 1
