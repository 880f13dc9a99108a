"""The gate before authentication: what it lets through, and what it answers."""

import pyexpat
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.stream.gate import Gate, ParserLimits
from beamish.stream.intake import Intake
from beamish.stream.names import NameLedger
from beamish.stream.parser import Nonza, StreamHeader, StreamParser
from beamish.xmpp.errors import StreamError
from beamish.xmpp.jid import JID

STREAM = "http://etherx.jabber.org/streams"
HEADER = f"<stream:stream to='a.b' version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>"
ROMEO = JID.parse("romeo@example.org")
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"


def segments(data: bytes) -> list[bytes]:
    """Pieces that end at a `>`, as the stream machine makes them."""
    return [part + b">" for part in data.split(b">")[:-1]] + [rest for rest in (data.split(b">")[-1],) if rest]


def passed(text: str | bytes, owner: str | None = None, limits: ParserLimits | None = None) -> bytes:
    gate = Gate(limits or ParserLimits(), NameLedger(), owner)
    data = text.encode() if isinstance(text, str) else text
    return b"".join(map(gate.feed, segments(data)))


def error_of(data: bytes, pieces: list[bytes] | None = None, owner: str | None = None) -> str:
    gate = Gate(ParserLimits(), NameLedger(), owner)
    try:
        for piece in segments(data) if pieces is None else pieces:
            gate.feed(piece)
    except StreamError as error:
        return error.condition.value
    return ""


def test_an_owner_gets_through_what_it_sent() -> None:
    text = HEADER + "<my:own xmlns:my='urn:x' my:a='1'>\n text</my:own>"
    assert passed(text, "me") == text.encode()


def test_of_a_strangers_input_only_what_is_known_remains() -> None:
    text = HEADER + (
        f"<auth xmlns='{SASL}' mechanism='PLAIN' xmlns:ga='urn:google' ga:full='true' odd='1' xml:lang='de'>AGE=</auth>"
        "<some:thing xmlns:some='urn:thing' to='x' other='y'><inner/>text</some:thing>"
    )
    assert passed(text).decode() == HEADER.replace(" to='a.b' version='1.0'", "").replace(
        ">", " to='a.b' version='1.0'>"
    ) + (
        f"<auth xmlns='{SASL}' mechanism='PLAIN' xml:lang='de'>AGE=</auth>"
        "<unknown xmlns='urn:beamish:unknown' to='x'><unknown xmlns='urn:beamish:unknown'></unknown>text</unknown>"
    )


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        f"<x:stream xmlns:x='{STREAM}' xmlns='jabber:client' to='a&amp;b'>",
        f"<stream xmlns='{STREAM}' xml:lang='de'>",
        f"<stream:stream xmlns='jabber:server' xmlns:stream='{STREAM}'>",
        f"<stream:stream xmlns='' xmlns:stream='{STREAM}'>",
    ],
)
def test_the_header_keeps_its_meaning(header: str) -> None:
    ledger = NameLedger()
    direct = StreamParser(ParserLimits(), ledger, "me").feed(header.encode())
    filtered = StreamParser(ParserLimits(), ledger, None).feed(passed(header))
    assert direct == filtered
    assert isinstance(direct[0], StreamHeader)


def test_a_foreign_content_namespace_is_still_foreign() -> None:
    [header] = StreamParser(ParserLimits(), NameLedger()).feed(passed(HEADER.replace("jabber:client", "urn:x")))
    assert isinstance(header, StreamHeader)
    assert header.content_ns == "urn:beamish:unknown"


def test_text_survives_escaping() -> None:
    data = passed(HEADER + f"<auth xmlns='{SASL}' mechanism='&lt;&apos;\"'>a&amp;&#60;<![CDATA[<]]></auth>")
    [_, auth] = StreamParser(ParserLimits(), NameLedger()).feed(data)
    assert isinstance(auth, Nonza)
    assert auth.el.text == "a&<<"
    assert auth.el.get("mechanism") == "<'\""


def test_long_blank_texts_are_dropped() -> None:
    assert b"  " not in passed(HEADER + f"<auth xmlns='{SASL}'>{' ' * 16}</auth>")
    assert b" " * 15 in passed(HEADER + f"<auth xmlns='{SASL}'>{' ' * 15}</auth>")


@pytest.mark.parametrize("owner", [None, "me"])
@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "not-well-formed"),
        (b"hello", "not-well-formed"),
        (b" <?xml version='1.0'?>", "not-well-formed"),
        (b"\xff\xfe<\x00?\x00", "unsupported-encoding"),
        (b"\xfe\xff\x00<", "unsupported-encoding"),
        (b"\x00<\x00?", "unsupported-encoding"),
        (b"<\x00?\x00x\x00m\x00", "unsupported-encoding"),
        (b"<?xml version='1.0' encoding='UTF-16'?>", "unsupported-encoding"),
        (b"<?xml version='1.0' encoding='ISO-8859-1'?>", "unsupported-encoding"),
        (b"<?xml version='1.0' encoding='UTF-8' standalone='no'?>", ""),
        (b"<?xml version='1.1'?>", "not-well-formed"),
        (b"<!DOCTYPE stream>", "restricted-xml"),
        (b"<!DOCTYPE s [<!ENTITY x 'y'>]>", "restricted-xml"),
        (b"<!-- hello -->", "restricted-xml"),
        (b"<?php x ?>", "restricted-xml"),
        (HEADER.encode() + b"<a>&x;</a>", "restricted-xml"),
        (HEADER.encode() + b"<a><!-- --></a>", "restricted-xml"),
        (HEADER.encode() + b"<x:a/>", "not-well-formed"),
        (HEADER.encode() + b"<a></b>", "not-well-formed"),
        (HEADER.encode() + b"text<a/>", "invalid-xml"),
        (HEADER.encode() + b"<a>\xff</a>", "unsupported-encoding"),
        (HEADER.encode() + b"<a>\xed\xa0\x80</a>", "unsupported-encoding"),
        (HEADER.encode() + b"<a b='\xe4'/>", "unsupported-encoding"),
        (HEADER.encode() + b"<a></b>\xff", "not-well-formed"),
        (HEADER.encode() + b"<?xml version='1.0'?>", "restricted-xml"),
        (b"<stream:stream>", "not-well-formed"),
        (HEADER.encode() + "<a>\u00e4\U0001f600</a>".encode(), ""),
    ],
)
def test_what_is_forbidden_gives_its_error(data: bytes, condition: str, owner: str | None) -> None:
    assert error_of(data, owner=owner) == condition
    assert error_of(data, [data[at : at + 1] for at in range(len(data))], owner) == condition


@given(st.text(max_size=200), st.lists(st.integers(0, 400), max_size=10))
def test_any_cut_gives_the_same(text: str, at: list[int]) -> None:
    data = (HEADER + f"<auth xmlns='{SASL}'>{text}</auth>").encode(errors="surrogatepass")
    marks = sorted({mark % len(data) for mark in at})
    finer = [piece for a, b in zip([0, *marks], [*marks, len(data)], strict=True) for piece in segments(data[a:b])]
    assert error_of(data, finer) == error_of(data)
    if not error_of(data):
        gate = Gate(ParserLimits(), NameLedger())
        assert b"".join(map(gate.feed, finer)) == passed(data)


LIMITS = ParserLimits(stanza_bytes=600, depth=5, elements=8, attributes=4)


def test_size_is_exact() -> None:
    for size, fits in ((600, True), (601, False), (900, False)):
        element = f"<auth xmlns='{SASL}'>" + "x" * (size - len(f"<auth xmlns='{SASL}'></auth>")) + "</auth>"
        for text in (element, " \n" + element, element + "\n" + element):
            gate = Gate(LIMITS, NameLedger())
            gate.feed(HEADER.encode())
            if fits:
                for piece in segments(text.encode()):
                    gate.feed(piece)
                continue
            fed = b""
            with pytest.raises(StreamError, match="larger"):  # noqa: PT012
                for at in range(len(text)):
                    fed += text[at : at + 1].encode()
                    gate.feed(text[at : at + 1].encode())
            assert len(fed.strip()) == 601


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("<a>" * 5 + "</a>" * 5, "<a>" * 6),
        ("<a>" + "<b/>" * 7 + "</a>", "<a>" + "<b/>" * 8),
        ("<a b='' c='' d='' e=''/>" * 5, "<a b='' c='' d='' e='' f=''/>"),
    ],
)
def test_other_limits_are_exact(good: str, bad: str) -> None:
    passed(HEADER.replace(" version='1.0'", "") + good, limits=LIMITS)
    with pytest.raises(StreamError):
        passed(HEADER.replace(" version='1.0'", "") + bad, limits=LIMITS)


def test_who_begins_with_tls_where_starttls_is_wanted_is_named() -> None:
    with pytest.raises(StreamError, match="STARTTLS") as caught:
        Gate(ParserLimits(), NameLedger(), None).feed(bytes.fromhex("1603010200010001fc0303"))
    assert caught.value.condition.value == "not-well-formed"
    with pytest.raises(StreamError) as caught:
        Gate(ParserLimits(), NameLedger(), None).feed(b"GET / HTTP/1.1\r\n")
    assert caught.value.condition.value == "not-well-formed" and not caught.value.text


class Counting:
    """Expat, with a count of the bytes it reads: it begins an unfinished token anew with every piece."""

    def __init__(self, *args: str) -> None:
        vars(self)["parser"] = pyexpat.ParserCreate(*args)
        vars(self)["given"] = vars(self)["read"] = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parser, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.parser, name, value)

    def Parse(self, data: bytes, final: bool) -> None:
        begun = self.given - max(self.parser.CurrentByteIndex, 0) if self.given else 0
        vars(self)["read"] += begun + len(data)
        vars(self)["given"] += len(data)
        self.parser.Parse(data, final)


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("owner", [None, ROMEO])
@pytest.mark.parametrize(
    "text",
    [
        "<auth a='" + ">" * 20_000,
        '<auth a="' + "'>" * 10_000,
        "<auth" + " a='>'" * 200,
        "<auth " + " " * 20_000,
        "<" + "a" * 20_000,
        "<auth a='" + "x" * 20_000 + "'/><auth/>",
        "<auth>&" + "a" * 20_000,
        "<auth>" + ">" * 20_000,
        "<auth><![CDATA[" + ">" * 20_000,
        "<!-- " + "<>" * 10_000,
        "<!DOCTYPE a SYSTEM '" + ">" * 20_000,
        "<?xml " + ">" * 20_000,
    ],
)
def test_a_long_token_in_small_pieces_is_not_read_over_and_over(
    text: str, owner: JID | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Counting] = []

    def create(*args: str) -> Counting:
        made.append(Counting(*args))
        return made[-1]

    monkeypatch.setattr("beamish.stream.gate.pyexpat", SimpleNamespace(**{**vars(pyexpat), "ParserCreate": create}))
    source = Intake(ParserLimits(), NameLedger(), 100_000)
    source.begin(owner)
    header = b"" if text.startswith(("<!", "<?")) else HEADER.encode()
    data = header + text.encode()
    with suppress(StreamError):
        for at in range(0, len(data), size):
            source.add(data[at : at + size])
            while source:
                source.take()
    [parser] = made
    assert parser.read < 5 * len(data) + 600 * 600


@pytest.mark.parametrize("owner", [None, ROMEO])
@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("<auth>" + ">" * 20_000, 3),
        ("<auth><![CDATA[" + ">" * 20_000, 3),
        ("<auth a='" + ">" * 20_000, 2),
        ("<auth a='" + ">" * 20_000 + "'><b/>", 3),
    ],
)
def test_what_ends_no_tag_ends_no_segment(text: str, most: int, owner: JID | None) -> None:
    source = Intake(ParserLimits(), NameLedger(), 100_000)
    source.begin(owner)
    source.add(HEADER.encode() + text.encode())
    rounds = 0
    while source:
        source.take()
        rounds += 1
    assert rounds <= most + 1


TOKENS = st.lists(
    st.sampled_from(
        (
            "<a",
            ">",
            "/>",
            "'",
            '"',
            " b=",
            "x" * 700,
            ">" * 600,
            "<![CDATA[",
            "]]>",
            "]",
            "&amp;",
            "</a>",
            "<",
            "&",
            "?>",
        )
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("owner", [None, "me"])
@given(text=TOKENS, at=st.lists(st.integers(0, 4000), max_size=8))
def test_any_cut_of_long_tokens_gives_the_same(text: str, at: list[int], owner: str | None) -> None:
    data = (HEADER + "<auth>" + text + "</auth><auth/>").encode()

    def result(pieces: list[bytes]) -> tuple[bytes, str]:
        gate = Gate(ParserLimits(), NameLedger(), owner)
        out = b""
        try:
            for piece in pieces:
                start = 0
                while start < len(piece):
                    end = gate.end_of(piece, start)
                    out += gate.feed(piece[start:end])
                    start = end
            gate.feed(b"", last=True)
        except StreamError as error:
            return b"", error.condition.value
        return out, ""

    marks = sorted({mark % len(data) for mark in at})
    pieces = [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]
    whole = result([data])
    assert result(pieces) == whole
    assert result(segments(data)) == whole
    assert result([data[at : at + 1] for at in range(len(data))]) == whole


@pytest.mark.parametrize("owner", [None, "me"])
@given(text=TOKENS, size=st.integers(1, 700))
def test_expat_is_given_whole_tokens_only(text: str, size: int, owner: str | None) -> None:
    """What it could not finish it may put off for ever: in some distributions nobody can tell it not to."""
    data = (HEADER + "<auth>" + text + "</auth><auth/>").encode()
    gate = Gate(ParserLimits(), NameLedger(), owner)
    pieces = []
    expat = gate._parser

    def parse(piece: bytes, last: bool) -> int:
        status: int = expat.Parse(piece, last)
        pieces.append(piece)
        pending = sum(map(len, pieces)) - expat.CurrentByteIndex
        # a tag that follows is longer than these, so it is looked at in any case
        assert pending <= (2 if piece.endswith((b"]", b"\r")) else 0), piece[-20:]
        return status

    gate._parser = SimpleNamespace(Parse=parse)  # type: ignore[assignment]
    with suppress(StreamError):
        for at in range(0, len(data), size):
            piece, start = data[at : at + size], 0
            while start < len(piece):
                end = gate.end_of(piece, start)
                gate.feed(piece[start:end])
                start = end
    assert pieces


def test_no_segment_goes_beyond_the_end_of_an_element() -> None:
    text = "<auth a='>'>x>y<![CDATA[</auth><a ']]></auth>"
    for size in (1, 2, 3, 1000):
        gate = Gate(ParserLimits(), NameLedger(), "me")
        gate.feed(HEADER.encode())
        data, held, ends = (text * 3).encode(), b"", []
        given = 0
        for at in range(0, len(data), size):
            held += data[at : at + size]
            while held:
                cut = gate.end_of(held, 0)
                gate.feed(held[:cut])
                given += cut
                held = held[cut:]
                if gate.between:
                    ends.append(given)
        assert sorted(set(ends)) == [len(text), 2 * len(text), 3 * len(text)]
