"""The parser: the same items from every chunking, limits at their exact bounds, everything that RFC 6120 §11 forbids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from beamish.stream.names import NameLedger
from beamish.stream.parser import (
    Item,
    Nonza,
    ParserLimits,
    StreamEnd,
    StreamHeader,
    StreamParser,
    Unaddressable,
)
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError
from beamish.xmpp.stanza import Stanza

STREAM = "http://etherx.jabber.org/streams"
HEADER = f"<?xml version='1.0'?><stream:stream to='a.b' version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>"
HEADERS = (
    HEADER,
    f"<foo:stream xmlns:foo='{STREAM}' xmlns='jabber:client' xml:lang='de' to='x'>",
    f"<stream xmlns='{STREAM}' to='x'>",
    f"<s:stream xmlns:s='{STREAM}' xmlns='jabber:client' xmlns:e='urn:extra' xmlns:stream='urn:not-streams' to='x'>",
    f"<stream:stream\n\txmlns='jabber:client' xmlns:stream='{STREAM}' xmlns:c='jabber:client' from='me@a.b' >",
)
ELEMENTS = (
    "<message to='romeo@example.org' type='chat' id='1'><body>Hello &amp; goodbye</body></message>",
    '<presence id="a>b/>"/>',
    "<iq type='get' id=\"it's > 3\"><query xmlns='jabber:iq:roster'/></iq>",
    "<message><body><![CDATA[<iq> a > 'b & </message>]]></body></message>",
    "<message xml:lang='pt'><body>\u00e7\u00e3o \U0001f600</body><x xmlns='urn:a' a='&lt;&gt;&apos;&#10;&#9;'/></message>",
    "<m:message xmlns:m='jabber:client'><m:body>x</m:body></m:message>",
    "<message xmlns='jabber:client'><fwd xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body/></message></fwd>"
    "</message>",
    "<a xmlns='urn:xmpp:sm:3'/>",
    "<r  xmlns = 'urn:xmpp:sm:3'  ><b>\n</b></r >",
    "<presence to='not@@valid'/>",
    "<iq type='result' to='@'/>",
    "<presence><p:c xmlns:p='urn:p' p:hash='1' hash='2'/></presence>",
    "<message><body>a</body><body>b</body>c > d</message>",
    "<presence><c xmlns=''/></presence>",
)
BROKEN = (
    "<message><body></message>",
    "<message><body>&nbsp;</body></message>",
    "<message a='&undeclared;'/>",
    "<message>Tom & Jerry</message>",
    "<message>x &lt y</message>",
    "<message>&",
    "<message a='b & c'/>",
    "<message a='&amp'/>",
    "<message>&#x;</message>",
    "</message>&",
    "& x;",
    "<!-- it's a comment -->",
    "<message><!----></message>",
    "<?php echo 'x>' ?>",
    "<message><?pi?></message>",
    "<!DOCTYPE message>",
    "<!DOCTYPE m [<!ENTITY a 'b'>]>",
    "<message id='<'/>",
    "<message id='1' id='2'/>",
    "<foo:message/>",
    "<message><foo:body/></message>",
    "<message foo:a='1'/>",
    "<message xmlns:a='urn:u' xmlns:b='urn:u' a:x='1' b:x='2'/>",
    "<message>]]></message>",
    "<message>&#0;</message>",
    "<message>&#xFFFF;</message>",
    "<message from='@'/>",
    "text",
    "\ufeff<message/>",
    "\u00a0",
    "<![CDATA[x]]><message/>",
    "</message>",
    "<a:b:c xmlns:a='urn:x'/>",
    "<:a/>",
    "<message><a xmlns='not a uri'/></message>",
    "<message//>",
    "< message/>",
    "<?xml version='1.0'?>",
)


def canonical(el: etree._Element) -> bytes:
    """Canonical XML, prefixes rewritten: what every namespace-aware reader understands is the same."""
    return etree.canonicalize(etree.tostring(el, encoding="unicode", with_tail=False), rewrite_prefixes=True).encode()


def told(item: Item) -> tuple[object, ...]:
    """An item as a value that can be compared."""
    if isinstance(item, Stanza):
        # quotation marks may be the client's or ours, the addresses in the element or not; all else is the same
        content = [canonical(child) for child in item.el], item.el.text, [child.tail for child in item.el]
        relayed = canonical(Stanza.parse(item.to_wire()).el)
        return item.name, item.type, item.id, item.sender, item.to, item.lang, item.tags, relayed, *content
    if isinstance(item, Nonza):
        return "nonza", canonical(item.el)
    if isinstance(item, Unaddressable):
        return "unaddressable", item.reply and item.reply.to_wire()
    return (item,)


def run(
    pieces: Iterable[bytes], limits: ParserLimits | None = None, *, park: bool = False, owner: str | None = "me"
) -> list[tuple[object, ...]]:
    """Everything the pieces gave; the last entry is the error, if there was one."""
    parser = StreamParser(limits or ParserLimits(), NameLedger(), owner)
    out: list[tuple[object, ...]] = []
    for piece in pieces:
        try:
            out += map(told, parser.feed(piece))
        except StreamError as error:
            return [*out, *map(told, parser.taken), ("error", error.condition.value)]
        if park:
            parser.park()
        if out and out[-1] == (StreamEnd(),):
            break
    return out


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    marks = sorted({mark % (len(data) + 1) for mark in at})
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


white = st.text(" \t\r\n", max_size=3)
streams = st.builds(
    lambda header, parts, end: (header + "".join(w + p for w, p in parts) + end).encode(),
    st.sampled_from(HEADERS),
    st.lists(st.tuples(white, st.sampled_from(ELEMENTS)), max_size=6),
    st.sampled_from(("", "</stream:stream>", "\n", *BROKEN)) | st.sampled_from(BROKEN).map(lambda b: b + ELEMENTS[0]),
)
marks = st.lists(st.integers(0, 5_000), max_size=30)


@given(streams, marks)
def test_every_chunking_gives_the_same(data: bytes, at: list[int]) -> None:
    whole = run([data])
    assert run(cut(data, at)) == whole
    assert run(single(data)) == whole


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("before", ["", ELEMENTS[0], ELEMENTS[3] + "\n"])
@pytest.mark.parametrize("after", ["", ELEMENTS[0], "<presence/>" * 3])
def test_a_mistake_gives_one_error_and_nothing_behind_it(before: str, broken: str, after: str) -> None:
    data = (HEADER + before + broken + after).encode()
    whole = run([data])
    assert run(single(data)) == whole
    if after or broken[-1:] == ">" or broken.strip() not in ("text", "\u00a0"):
        assert whole[-1][0] == "error" or not after, whole
    errors = [entry for entry in whole if entry[0] == "error"]
    assert len(errors) <= 1
    stanzas = [entry for entry in whole if entry[0] in ("message", "presence", "iq")]
    assert len(stanzas) == (1 if before else 0)


@given(st.sampled_from(HEADERS), st.lists(st.tuples(white, st.sampled_from(ELEMENTS)), max_size=6))
def test_parking_between_stanzas_changes_nothing(header: str, parts: list[tuple[str, str]]) -> None:
    pieces = [header.encode(), *(p.encode() for pair in parts for p in pair if p)]
    whole = run([b"".join(pieces)])
    assert run(pieces, park=True) == whole
    assert run(single(b"".join(pieces)), park=True) == whole


def test_a_parked_parser_is_gone_and_comes_back() -> None:
    parser = StreamParser(ParserLimits(), NameLedger())
    assert not parser.park(), "there is nothing to come back to before the header"
    parser.feed(HEADER.encode())
    assert parser.park()
    assert parser.idle
    assert parser.feed(b" \n") == []
    assert parser.idle, "white space needs no parser"
    parser.feed(b"<mess")
    parser.feed(b"age id='/>")
    assert parser.idle, "half a tag needs no parser; what looks like an end may stand inside an attribute"
    [stanza] = parser.feed(b"'/><message>")
    assert isinstance(stanza, Stanza)
    assert stanza.id == "/>"
    assert not parser.park()
    parser.feed(b"</mess")
    assert not parser.park()
    parser.feed(b"age>")
    assert parser.park()


@pytest.mark.parametrize("ending", [f"</{p}stream>" for p in ("stream:",)] + ["</stream:stream >"])
def test_a_parked_stream_can_be_closed(ending: str) -> None:
    assert run([HEADER.encode(), ending.encode()], park=True)[-1] == (StreamEnd(),)


# ---- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("<stream to='x'>", "bad-format"),
        ("<stream xmlns='jabber:client' to='x'>", "invalid-namespace"),
        ("<stream:stream xmlns:stream='urn:x' xmlns='jabber:client'>", "invalid-namespace"),
        (f"<stream:error xmlns:stream='{STREAM}'>", "bad-format"),
        ("<html>", "bad-format"),
        (f"<!DOCTYPE stream><stream:stream xmlns:stream='{STREAM}'>", "restricted-xml"),
        (f"<!-- x --><stream:stream xmlns:stream='{STREAM}'>", "restricted-xml"),
        ("<stream:stream>", "not-well-formed"),
        ("hello", "not-well-formed"),
    ],
)
def test_a_bad_header_gives_the_error_that_the_rfc_names(text: str, condition: str) -> None:
    for pieces in ([text.encode()], single(text.encode())):
        out = run([*pieces, b"<a/>"])
        assert out[-1] == ("error", condition)
        assert not any(isinstance(entry[0], StreamHeader) for entry in out)


def test_the_header_is_told_as_written() -> None:
    parser = StreamParser(ParserLimits(), NameLedger())
    [header] = parser.feed(
        f"<stream:stream to='A' from='b@c' version='1.0' id='9' xml:lang='de' xmlns='jabber:client' "
        f"xmlns:stream='{STREAM}'>".encode()
    )
    assert header == StreamHeader("A", "b@c", "1.0", "de", "9", "jabber:client")


def test_the_streams_language_is_that_of_its_stanzas() -> None:
    header = HEADER.replace("to=", "xml:lang='de' to=")
    [_, first, second] = StreamParser(ParserLimits(), NameLedger()).feed(
        (header + "<message/><message xml:lang='fr'/>").encode()
    )
    assert isinstance(first, Stanza)
    assert isinstance(second, Stanza)
    assert (first.lang, second.lang) == ("de", "fr")
    assert b"xml:lang='de'" in first.to_wire()
    assert b"xml:lang='fr'" in second.to_wire()


# ---- errors in content ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (b"<!-- x -->", "restricted-xml"),
        (b"<message><!-- x --></message>", "restricted-xml"),
        (b"<?x y?>", "restricted-xml"),
        (b"<!DOCTYPE x>", "restricted-xml"),
        (b"<message><!DOCTYPE x></message>", "restricted-xml"),
        (b"<message>&x;</message>", "restricted-xml"),
        (b"<message>a & b</message>", "not-well-formed"),
        (b"<message>&amp</message>", "not-well-formed"),
        (b"<message>&;</message>", "not-well-formed"),
        (b"<message>&#;</message>", "not-well-formed"),
        (b"<message>&" + b"x" * 100, "not-well-formed"),
        (b"<message a='?a=b&c=d'/>", "not-well-formed"),
        (b"<message a='&x;'/>", "restricted-xml"),
        (b"<message><a></b></message>", "not-well-formed"),
        (b"<message><x:body/></message>", "not-well-formed"),
        (b"<message x:a=''/>", "not-well-formed"),
        (b"<message \x01/>", "not-well-formed"),
        (b"<message>\x01</message>", "not-well-formed"),
        (b"<?xml version='1.0'?>", "restricted-xml"),
        (b"<message>\xff</message>", "unsupported-encoding"),
        (b"<message>\xc3(</message>", "unsupported-encoding"),
        (b"<message>\xed\xa0\x80</message>", "unsupported-encoding"),
        (b"<message>\xc0\xaf</message>", "unsupported-encoding"),
        (b"text<message/>", "invalid-xml"),
        (b"<message/>text<message/>", "invalid-xml"),
        (b"\xef\xbb\xbf<message/>", "invalid-xml"),
        (b"<message from='@'/>", "invalid-from"),
    ],
)
def test_what_the_rfc_forbids_gives_its_error(text: bytes, condition: str) -> None:
    for pieces in ([HEADER.encode() + text], [HEADER.encode(), text], [HEADER.encode(), *single(text)]):
        assert run(pieces)[-1] == ("error", condition)


def test_predefined_entities_and_character_references_are_no_entities() -> None:
    [_, stanza] = StreamParser(ParserLimits(), NameLedger()).feed(
        HEADER.encode() + b"<message a='&lt;&#65;'><body>&amp;&lt;&gt;&quot;&apos;&#x41;</body></message>"
    )
    assert isinstance(stanza, Stanza)
    assert stanza.text("{jabber:client}body") == "&<>\"'A"


def test_forbidden_declarations_are_left_out_of_what_is_relayed() -> None:
    data = HEADER.encode() + b"<message xmlns:xml='urn:x' xmlns:e=''><body/></message>" * 3
    assert run(single(data)) == run([data])
    [_, stanza, *_] = StreamParser(ParserLimits(), NameLedger()).feed(data)
    assert isinstance(stanza, Stanza)
    assert stanza.to_wire() == b"<message><body/></message>"


def test_nothing_is_read_behind_the_end_of_the_stream() -> None:
    for data in (b"</stream:stream><message/>", b"</stream:stream>garbage & <"):
        assert run([HEADER.encode() + b"<presence/>" + data])[-1] == (StreamEnd(),)


# ---- limits -----------------------------------------------------------------------------------------------------------

LIMITS = ParserLimits(stanza_bytes=1_000, depth=5, elements=8, attributes=4)


def padded(size: int, form: str) -> bytes:
    """A message of exactly this many bytes."""
    before, after = form.split("@@")
    return (before + "x" * (size - len(before) - len(after)) + after).encode()


FORMS = (
    "<message><body>@@</body></message>",
    "<message id='@@'/>",
    "<message id='>>>>@@'/>",
    "<message><a b='@@'><c/></a></message>",
    "<message><body><![CDATA[@@]]></body></message>",
    "<message><a/>&#65;&#66;<b>@@</b><c></c></message>",
    "<message   id = '1'   ><body >@@</body\n></message >",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", ["", "<presence/>", "<presence/> \n ", "<message><body>y</body></message>" * 20])
def test_a_stanza_may_have_so_many_bytes_and_no_more(form: str, before: str) -> None:
    for extra, fits in ((0, True), (1, False), (500, False), (70_000, False)):
        element = padded(1_000 + extra, form)
        data = HEADER.encode() + before.encode() + element + b"<iq/>"
        for pieces in ([data], [*single(data[:3_500]), data[3_500:]], cut(data, [len(data) - 10, 300, 1_200])):
            out = run(pieces, LIMITS)
            assert (out[-1][0] == "iq") is fits, extra
            if not fits:
                assert out[-1] == ("error", "policy-violation")
                assert len(out) == 2 + before.count("<presence") + before.count("<message")


@given(st.integers(900, 1_100), st.sampled_from(FORMS), st.sampled_from(BROKEN), st.integers(0, 1_050), marks)
def test_near_the_limit_every_chunking_gives_the_same(
    size: int, form: str, bad: str, where: int, at: list[int]
) -> None:
    good = padded(size, form)
    for element in (good, good[:where] + bad.encode() + good[where:]):
        data = HEADER.encode() + b"<presence/>" + element + b"<presence/>"
        whole = run([data], LIMITS)
        assert run(cut(data, at), LIMITS) == whole
        assert run(single(data), LIMITS) == whole


def test_the_error_says_that_the_stanza_is_too_big() -> None:
    parser = StreamParser(LIMITS, NameLedger())
    with pytest.raises(StreamError) as caught:
        parser.feed(HEADER.encode() + padded(1_001, FORMS[0]))
    assert b"<stanza-too-big xmlns='urn:xmpp:errors'/>" in caught.value.to_bytes()


@pytest.mark.parametrize(
    "form", ["<message><body>#", "<message id='#", "<message id='>#", "<message><![CDATA[#", "<a#"]
)
def test_what_is_never_finished_is_cut_at_the_limit(form: str) -> None:
    """An attacker who sends `>` inside a quoted value must not start the count anew."""
    parser = StreamParser(LIMITS, NameLedger())
    parser.feed(HEADER.encode())
    parser.feed(form[:-1].encode())
    error, fed = flood(parser, (b"x>x>x>x>x>" if "'" in form else b"xxxxxxxxxx" for _ in range(200)))
    assert error == "policy-violation"
    assert len(form) - 1 + 10 * fed <= 1_010


def flood(parser: StreamParser, pieces: Iterable[bytes]) -> tuple[str, int]:
    """The condition that stopped a flood, and how many pieces that took."""
    fed = 0
    for piece in pieces:
        fed += 1
        try:
            parser.feed(piece)
        except StreamError as error:
            return error.condition.value, fed
    return "", fed


def test_an_endless_header_is_cut() -> None:
    parser = StreamParser(LIMITS, NameLedger())
    error, fed = flood(parser, (b"<stream a='", *[b"xxxxxxxxxx"] * 200))
    assert (error, fed) == ("policy-violation", 100)


@pytest.mark.parametrize(("depth", "fits"), [(5, True), (6, False)])
def test_depth_counts_the_stanza(depth: int, fits: bool) -> None:
    data = "<message>" + "<a>" * (depth - 1) + "</a>" * (depth - 1) + "</message><iq/>"
    assert_fits(data, fits)


@pytest.mark.parametrize(("elements", "fits"), [(8, True), (9, False)])
def test_elements_count_the_stanza(elements: int, fits: bool) -> None:
    for inner in ("<a/>", "<a></a>", "<a>x</a>"):
        assert_fits("<message>" + inner * (elements - 1) + "</message><iq/>", fits)
    assert_fits("<presence/>" * 20 + "<message>" + "<a/>" * (elements - 1) + "</message><iq/>", fits)


@pytest.mark.parametrize(("attributes", "fits"), [(4, True), (5, False)])
def test_attributes_count_for_each_element(attributes: int, fits: bool) -> None:
    some = " ".join(f"a{n}='x'" for n in range(attributes))
    assert_fits(f"<message {some}><b {some}/></message><iq/>", fits)
    assert_fits(f"<message><b {some}/></message><iq/>", fits)


def assert_fits(data: str, fits: bool) -> None:
    for pieces in ([(HEADER + data).encode()], [HEADER.encode(), *single(data.encode())]):
        out = run(pieces, LIMITS)
        assert (out[-1][0] == "iq") is fits
        assert fits or out[-1] == ("error", "policy-violation")


def test_a_huge_tag_is_refused_before_libxml2_learns_its_names() -> None:
    ledger = NameLedger()
    parser = StreamParser(ParserLimits(), ledger, "me")
    names = " ".join(f"n{n}=''" for n in range(20_000))
    with pytest.raises(StreamError, match="attributes"):
        parser.feed((HEADER + f"<message {names}/>").encode())


def test_white_space_between_stanzas_is_not_collected() -> None:
    parser = StreamParser(ParserLimits(), NameLedger())
    parser.feed(HEADER.encode() + b"<presence/>")
    for _ in range(1_000):
        assert parser.feed(b" \r\n\t") == []
    assert parser._root is not None
    assert not parser._root.text


def test_stanzas_are_not_collected() -> None:
    parser = StreamParser(ParserLimits(), NameLedger())
    parser.feed(HEADER.encode())
    for _ in range(100):
        parser.feed(b"<presence/>\n" * 10)
    assert parser._root is not None
    assert len(parser._root) == 0


# ---- content survives -------------------------------------------------------------------------------------------------

names = st.sampled_from(("a", "b", "body", "x", "q", "message"))
spaces = st.sampled_from(("", "urn:a", "urn:b", "jabber:client", "jabber:server", "urn:q'uote&"))
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from("\t\n\r<>&'\""), max_size=12
)


def markup(value: str) -> str:
    return "".join(f"&#{ord(c)};" if c in "<>&'\"\t\n\r" else c for c in value if c not in "\ufffe\uffff")


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    """Any XML without a declaration: default namespaces, prefixes declared anywhere, mixed content."""
    name, space, prefix = draw(names), draw(spaces), draw(st.sampled_from(("", "p", "q")))
    declaration = f" xmlns{':' + prefix if prefix else ''}='{markup(space)}'" if space or not prefix else ""
    if prefix and not space:
        prefix = ""
    attributes = "".join(
        f" {key}='{markup(value)}'"
        for key, value in draw(st.dictionaries(st.sampled_from("klm"), texts, max_size=2)).items()
    )
    if prefix and draw(st.booleans()):
        attributes += f" {prefix}:n='{markup(draw(texts))}'"
    if draw(st.booleans()):
        attributes += " xml:lang='en'"
    inner = markup(draw(texts))
    if depth:
        for child in draw(st.lists(elements(depth - 1), max_size=3)):
            inner += child + markup(draw(texts))
    tag = f"{prefix}:{name}" if prefix else name
    return f"<{tag}{declaration}{attributes}>{inner}</{tag}>"


@given(st.lists(elements(), max_size=4), st.sampled_from(HEADERS), st.sampled_from(("", "k")), marks)
@example(["<x xmlns=''/>"], HEADERS[4], "c", [])
def test_unknown_content_is_relayed_as_it_came(children: list[str], header: str, prefix: str, at: list[int]) -> None:
    tag = f"{prefix}:message" if prefix else "message"
    space = f" xmlns:{prefix}='jabber:client'" if prefix else " xmlns='jabber:client'"
    text = f"<{tag}{space} to='a@b' xml:lang='x'>{''.join(children)}</{tag}>"
    root = re.search(r"<([\w:]+)", header)
    assert root is not None
    sent = etree.fromstring(f"{header}{text}</{root[1]}>".encode())[0]
    items = [item for item in feed_all(cut((header + text).encode(), at)) if isinstance(item, Stanza)]
    [stanza] = items
    arrived = etree.fromstring(HEADER.encode() + stanza.to_wire() + b"</stream:stream>")[0]
    assert canonical(arrived) == canonical(sent)
    assert not any(el.prefix for el in arrived.iter() if str(el.tag).startswith(f"{{{ns.CLIENT}}}"))


def feed_all(pieces: Iterable[bytes]) -> list[Item]:
    parser = StreamParser(ParserLimits(), NameLedger(total=10_000_000, per_account=10_000_000), "me")
    return [item for piece in pieces for item in parser.feed(piece)]


# ---- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda n: f"<message><n{n}/></message>",
        lambda n: f"<message n{n}=''/>",
        lambda n: f"<message xmlns:p{n}='urn:x'/>",
        lambda n: f"<message xmlns:p='urn:x:{n}'/>",
        lambda n: f"<message><x xmlns='urn:{n}'/></message>",
        lambda n: f"<n{n}/>",
        lambda n: "<message><body>" + "".join(" \t"[n >> bit & 1] for bit in range(20)) + "</body></message>",
        lambda n: "<a xmlns='urn:a'></a >" + "".join(" \t"[n >> bit & 1] for bit in range(20)) + "<presence/>",
        lambda n: "<presence></presence >" + "".join(" \t"[n >> bit & 1] for bit in range(20)) + "<presence/>",
        lambda n: "<r>" + "".join(" \t"[n >> bit & 1] for bit in range(20)) + "</r>",
    ],
)
def test_whoever_invents_names_without_end_is_cut(form: Callable[[int], str]) -> None:
    ledger = NameLedger(total=1_000, per_account=50)
    parser = StreamParser(ParserLimits(), ledger, "me")
    parser.feed(HEADER.encode())
    error, _ = flood(parser, (b"<presence/>" + form(n).encode() for n in range(200)))
    assert error == "policy-violation"
    assert ledger.exhausted("me")
    other = StreamParser(ParserLimits(), ledger, "you")
    other.feed(HEADER.encode() + b"<message><something-else/></message>")


def test_names_in_input_that_breaks_are_charged_too() -> None:
    ledger = NameLedger(per_account=1_000)
    junk = " ".join(f"n{n}=''" for n in range(1_500))
    for _ in range(2):
        parser = StreamParser(ParserLimits(), ledger, "me")
        with pytest.raises(StreamError):
            parser.feed((HEADER + f"<message {junk} =>").encode())
    assert ledger.exhausted("me")


def test_a_tag_that_is_never_finished_teaches_libxml2_nothing() -> None:
    parser = StreamParser(ParserLimits(), NameLedger(), "me")
    parser.feed(HEADER.encode() + b"<presence/>")
    parser.feed(b"<message " + b" ".join(b"n%d=''" % n for n in range(1_000)))
    assert parser._size == 0, "libxml2 was given some of it"


def test_a_name_that_is_known_as_a_namespace_is_still_no_name() -> None:
    """A tag with an undeclared prefix looks to libxml2 like a name; it must not be taken for a known one."""
    data = (HEADER + "<message><x xmlns='foo:body'/></message><message><foo:body/></message>").encode()
    assert run([data])[-1] == ("error", "not-well-formed")


def test_the_end_of_a_stream_needs_no_parser() -> None:
    """Clients say goodbye after long silence; to make a parser for that would be a waste."""
    parser = StreamParser(ParserLimits(), NameLedger())
    parser.begin({None: ns.CLIENT, "stream": ns.STREAM}, "")
    [item] = parser.feed(b"\n</stream:stream>")
    assert isinstance(item, StreamEnd)
    assert not parser.begun
    assert parser._pull is None
    other = StreamParser(ParserLimits(), NameLedger())
    other.feed(f"<s:stream xmlns:s='{ns.STREAM}' xmlns='{ns.CLIENT}' to='a'>".encode())
    with pytest.raises(StreamError):
        other.feed(b"</stream:stream>")
