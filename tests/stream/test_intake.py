"""Elements one at a time, and the same ones whether they are recognised by their bytes or parsed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from beamish.stream.gate import ParserLimits
from beamish.stream.intake import Intake
from beamish.stream.items import Nonza, StreamEnd, StreamHeader, Unaddressable
from beamish.stream.known import KnownBind, KnownStep
from beamish.stream.names import NameLedger
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

ROMEO = JID.parse("romeo@example.org")


def intake(owner: JID | None = None, *, recognise: bool = True, room: int = 10_000, **limits: int) -> Intake:
    made = Intake(ParserLimits(**limits), NameLedger(), room, recognise=recognise)
    made.begin(owner, restarted=owner is not None)
    return made


def plain(item: object) -> object:
    """An item in words that do not tell how it was found."""
    if isinstance(item, Unaddressable):
        return item.reason, item.reply and item.reply.to_wire()
    if isinstance(item, Nonza):
        if item.tag in (f"{{{ns.SASL}}}{name}" for name in ("auth", "response", "abort")) or item.tag.endswith("tls"):
            return KnownStep(item.tag, item.el.get("mechanism", ""), item.el.text)
        # the prefixes that lxml invents are numbered on through a document
        return re.sub(rb"\bns\d+\b", b"ns", etree.tostring(item.el, with_tail=False))
    if isinstance(item, Stanza):
        bind = item.payload
        if (
            bind is not None
            and bind.tag == f"{{{ns.BIND}}}bind"
            and item.type == "set"
            and item.id
            and len(item.el) == 1
        ):
            return KnownBind(item.id, bind.findtext(f"{{{ns.BIND}}}resource") or "")
        return item.to_wire()
    return item


def taken(source: Intake, *pieces: bytes) -> list[object]:
    """Everything that comes out, with the error that ended it."""
    found: list[object] = []
    for piece in pieces:
        source.add(piece)
        while source:
            try:
                found += map(plain, source.take())
            except StreamError as error:
                return [*found, error.condition, error.text]
    return found


SPACE = st.sampled_from(("", "", "", " ", "\n", "\t \r\n"))
GAP = st.sampled_from((" ", " ", "\n  "))
TEXT = st.sampled_from(("", "a", "PLAIN", "1.0", "a.example", "ä", "a b", "x&amp;y", "&#65;", "a>b", "0" * 40, "'"))


@st.composite
def tags(draw: st.DrawFn, name: str, required: dict[str, str], optional: tuple[str, ...]) -> str:
    """A start tag without its `>`, in any of many spellings, now and then a wrong one."""
    given_ = dict(required)
    for key in draw(st.lists(st.sampled_from(optional), max_size=3)) if optional else []:
        given_[key] = draw(TEXT)
    if draw(st.integers(0, 9)) == 0 and given_:
        given_.pop(draw(st.sampled_from(sorted(given_))))
    out = f"<{name}"
    for key in draw(st.permutations(sorted(given_))):
        value = given_[key]
        quote = '"' if "'" in value else draw(st.sampled_from("'\""))
        equals = draw(st.sampled_from(("=", "=", "=", " = ")))
        out += f"{draw(GAP)}{key}{equals}{quote}{value}{quote}"
    return out + draw(SPACE)


HEADERS = st.builds(
    lambda declaration, tag: declaration + tag + ">",
    st.sampled_from(
        ("", "<?xml version='1.0'?>", '<?xml version="1.0" encoding="utf-8" ?>\n', "<?xml version='1.1'?>")
    ),
    tags(
        "stream:stream",
        {"xmlns": ns.CLIENT, "xmlns:stream": ns.STREAM, "to": "example.org", "version": "1.0"},
        ("from", "id", "xml:lang", "unknown", "xmlns:x", "to"),
    ),
)
STEPS = st.sampled_from(("auth", "response", "abort", "starttls")).flatmap(
    lambda name: st.builds(
        lambda space, tag, inner: space + tag + (f">{inner}</{name}>" if inner is not None else "/>"),
        SPACE,
        tags(name, {"xmlns": ns.TLS if name == "starttls" else ns.SASL}, ("mechanism", "x")),
        st.sampled_from((None, "", "=", "QUJD", "QU JD", "Q&#85;", "<x/>")),
    )
)
BINDS = st.builds(
    lambda space, iq, bind, inner: (
        f"{space}{iq}>{bind}" + (f">{inner}</bind></iq>" if inner is not None else "/></iq>")
    ),
    SPACE,
    tags("iq", {"type": "set", "id": "b1"}, ("xmlns", "to", "xml:lang")),
    tags("bind", {"xmlns": ns.BIND}, ("x",)),
    st.sampled_from(
        (None, "", "<resource/>", "<resource>or'chard</resource>", "<resource>&lt;ä</resource>", " ", "<x/>")
    ),
)
OTHERS = st.sampled_from(
    ("<message/>", "<presence to='a@b'/>", "</stream:stream>", "<r xmlns='urn:xmpp:sm:3'/>", "x", "<!--", "\n")
)


@given(
    HEADERS,
    st.lists(st.one_of(STEPS, BINDS, OTHERS), max_size=4),
    st.sampled_from((None, ROMEO)),
    st.lists(st.integers(0, 999)),
)
def test_recognised_or_parsed_is_the_same(head: str, rest: list[str], owner: JID | None, marks: list[int]) -> None:
    data = (head + "".join(rest)).encode()
    parsed = taken(intake(owner, recognise=False), data)
    assert taken(intake(owner), data) == parsed
    cuts = sorted({mark % len(data) for mark in marks})
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert taken(intake(owner), *pieces) == parsed


HEADER = f"<stream:stream xmlns='{ns.CLIENT}' xmlns:stream='{ns.STREAM}' to='example.org' version='1.0'>".encode()
AUTH = f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>QUJD</auth>".encode()
BIND = f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'/></iq>".encode()


def test_the_usual_way_needs_no_parser() -> None:
    source = intake()
    [header, auth] = taken(source, HEADER + AUTH)
    assert isinstance(header, StreamHeader)
    assert auth == KnownStep(f"{{{ns.SASL}}}auth", "PLAIN", "QUJD")
    assert source.parser.idle
    source.begin(ROMEO, restarted=True)
    assert taken(source, b"\n" + HEADER + BIND)[1] == KnownBind("b", "")
    assert source.parser.idle


def test_a_parser_takes_over_and_hands_back() -> None:
    source = intake()
    found = taken(source, HEADER + AUTH + b"<message><body>&lt;</body></message>" + AUTH + b"</stream:stream>")
    assert [type(item) for item in found] == [StreamHeader, KnownStep, bytes, KnownStep, StreamEnd]
    assert b"&lt;" in bytes(found[2])  # type: ignore[call-overload]


def test_one_element_at_a_time() -> None:
    source = intake()
    source.add(HEADER + AUTH + b" <abort")
    assert len(source.take()) == 1
    assert not source.blank
    assert len(source.take()) == 1
    assert source.drop() == b" <abort"
    assert not source
    source.add(b" \n")
    assert source.blank


@pytest.mark.parametrize("recognise", [True, False])
def test_strangers_have_little_room(recognise: bool) -> None:
    exactly = len(HEADER) + 2 * len(AUTH)
    enough = taken(intake(recognise=recognise, room=exactly), HEADER + AUTH + AUTH)
    assert [type(item) for item in enough] == [StreamHeader, KnownStep, KnownStep]
    short = taken(intake(recognise=recognise, room=exactly - 1), HEADER + AUTH + AUTH)
    assert short[2:] == ["too much data before authentication"] or short[-1] == "too much data before authentication"
    assert KnownStep not in map(type, short[2:])
    free = taken(intake(ROMEO, recognise=recognise, room=1), HEADER + AUTH + AUTH)
    assert len(free) == 3


@pytest.mark.parametrize("recognise", [True, False])
def test_the_size_of_an_element_is_limited(recognise: bool) -> None:
    size = max(len(HEADER), len(AUTH))
    assert len(taken(intake(recognise=recognise, stanza_bytes=size), HEADER + AUTH)) == 2
    over = taken(intake(recognise=recognise, stanza_bytes=size - 1), HEADER + AUTH)
    assert str(over[-1]).startswith("stanza larger than")
