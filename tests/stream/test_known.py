"""What is told from bytes alone: the usual forms, and nothing that is not beyond doubt."""

from __future__ import annotations

import pytest

from beamish.stream import known
from beamish.stream.gate import ParserLimits
from beamish.stream.items import StreamHeader
from beamish.stream.known import KnownBind, KnownStep
from beamish.xmpp import ns

SPACES = f"xmlns='{ns.CLIENT}' xmlns:stream='{ns.STREAM}'"


def header(text: str) -> StreamHeader | None:
    data = b"junk" + text.encode()
    found = known.header(data, 4)
    assert found is None or found[1] == len(data)
    return None if found is None else found[0]


def element(text: str) -> KnownStep | KnownBind | None:
    data = b"junk" + text.encode()
    found = known.element(data, 4)
    assert found is None or found[1] == len(data)
    return None if found is None else found[0]


@pytest.mark.parametrize(
    "text",
    [
        f"<stream:stream {SPACES} to='a.example' version='1.0'>",
        f"<?xml version='1.0'?><stream:stream {SPACES} to='a.example' version='1.0'>",
        f'<?xml version="1.0" encoding="UTF-8"?>\n<stream:stream version = "1.0" to="a.example"\n {SPACES} >',
        f"<?xml version='1.0' ?><stream:stream to='a.example' {SPACES} version='1.0'>",
    ],
)
def test_headers_as_clients_write_them(text: str) -> None:
    assert header(text) == StreamHeader("a.example", "", "1.0", "", "", ns.CLIENT)


def test_every_attribute_of_a_header() -> None:
    found = header(f"<stream:stream {SPACES} to='a' from='b@a' id='c' xml:lang='de' version='1.1'>")
    assert found == StreamHeader("a", "b@a", "1.1", "de", "c", ns.CLIENT)


@pytest.mark.parametrize(
    "text",
    [
        f" <stream:stream {SPACES} to='a'>",
        f"<stream:stream {SPACES} to='a' to='a'>",
        f"<stream:stream {SPACES} to='a&amp;b'>",
        f"<stream:stream {SPACES} to='ä'>",
        f"<stream:stream {SPACES} to='a\tb'>",
        f"<stream:stream {SPACES} to='a>b'>",
        f"<stream:stream {SPACES} to=a>",
        f"<stream:stream {SPACES} to='a'/>",
        f"<stream:stream {SPACES} tofrom='a'>",
        f"<stream:stream {SPACES} xmlns:db='jabber:server:dialback'>",
        f"<stream:stream{SPACES}>",
        f"<stream:stream xmlns:stream='{ns.STREAM}' to='a'>",
        f"<stream:stream xmlns='jabber:server' xmlns:stream='{ns.STREAM}' to='a'>",
        f"<stream:stream xmlns='{ns.CLIENT}' xmlns:stream='urn:x' to='a'>",
        f"<stream xmlns='{ns.STREAM}' to='a'>",
        f"<?xml version='1.1'?><stream:stream {SPACES}>",
        f"<?xml version='1.0' encoding='utf-16'?><stream:stream {SPACES}>",
        f"<?xml version='1.0' standalone='yes'?><stream:stream {SPACES}>",
        f"<!DOCTYPE x><stream:stream {SPACES}>",
        f"<stream:stream {SPACES} to='a'",
        "",
    ],
)
def test_other_headers_are_left_to_the_parsers(text: str) -> None:
    assert header(text) is None


@pytest.mark.parametrize(
    ("text", "step"),
    [
        (f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>AGEAYg==</auth>", KnownStep("auth", "PLAIN", "AGEAYg==")),
        (f'\n <auth mechanism="X" xmlns="{ns.SASL}">=</auth >', KnownStep("auth", "X", "=")),
        (f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'/>", KnownStep("auth", "PLAIN", None)),
        (f"<auth xmlns='{ns.SASL}'></auth>", KnownStep("auth", "", None)),
        (f"<response xmlns='{ns.SASL}'>Yz1iaXdz</response>", KnownStep("response", "", "Yz1iaXdz")),
        (f"<response xmlns='{ns.SASL}' />", KnownStep("response", "", None)),
        (f"<abort xmlns='{ns.SASL}'/>", KnownStep("abort", "", None)),
    ],
)
def test_steps_of_sasl(text: str, step: KnownStep) -> None:
    assert element(text) == KnownStep(f"{{{ns.SASL}}}{step.tag}", step.mechanism, step.text)


def test_starttls() -> None:
    assert element(f"<starttls xmlns='{ns.TLS}'/>") == KnownStep(f"{{{ns.TLS}}}starttls", "", None)
    assert element(f"<starttls xmlns='{ns.TLS}'></starttls>") == KnownStep(f"{{{ns.TLS}}}starttls", "", None)


@pytest.mark.parametrize(
    "text",
    [
        f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>AGEA",
        f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>AGEA\nYg==</auth>",
        f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>AGEA<b/></auth>",
        f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>AGEA</response>",
        f"<auth xmlns='{ns.SASL}' mechanism='PLAIN' mechanism='PLAIN'/>",
        f"<auth xmlns='{ns.SASL}' mechanism='PLAIN' xmlns:ga='http://www.google.com/talk/protocol/auth'/>",
        f"<auth xmlns='{ns.SASL}' mechanism='a\"b'/>",
        f"<response xmlns='{ns.SASL}' mechanism='PLAIN'/>",
        f"<response xmlns='{ns.TLS}'/>",
        f"<starttls xmlns='{ns.SASL}'/>",
        f"<a:auth xmlns:a='{ns.SASL}' mechanism='PLAIN'/>",
        "<auth/>",
        "<auth mechanism='PLAIN'/>",
        f"<authx xmlns='{ns.SASL}'/>",
    ],
)
def test_other_steps_are_left_to_the_parsers(text: str) -> None:
    assert element(text) is None


BIND = f"<bind xmlns='{ns.BIND}'/>"


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        (f"<iq type='set' id='b'>{BIND}</iq>", KnownBind("b", "")),
        (f"\n<iq id=\"b 1\" type='set' xmlns='jabber:client' >{BIND}</iq >", KnownBind("b 1", "")),
        (f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'></bind></iq>", KnownBind("b", "")),
        (f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'><resource/></bind></iq>", KnownBind("b", "")),
        (f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'><resource></resource></bind></iq>", KnownBind("b", "")),
        (
            f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'><resource>O'Hara \"x\"</resource></bind></iq>",
            KnownBind("b", 'O\'Hara "x"'),
        ),
    ],
)
def test_requests_to_bind(text: str, bind: KnownBind) -> None:
    assert element(text) == bind


@pytest.mark.parametrize(
    "text",
    [
        f"<iq type='get' id='b'>{BIND}</iq>",
        f"<iq type='set'>{BIND}</iq>",
        f"<iq type='set' id=''>{BIND}</iq>",
        f"<iq type='set' id='b' to='example.org'>{BIND}</iq>",
        f"<iq type='set' id='b' from='a@b'>{BIND}</iq>",
        f"<iq type='set' id='b' xmlns='jabber:server'>{BIND}</iq>",
        f"<iq type='set' id='b'>{BIND}{BIND}</iq>",
        f"<iq type='set' id='b'>{BIND}",
        "<iq type='set' id='b'><bind xmlns='urn:x'/></iq>",
        "<iq type='set' id='b'><bind/></iq>",
        f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'><resource>a&lt;b</resource></bind></iq>",
        f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'><resource>ä</resource></bind></iq>",
        f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'><resource>a</resource><x/></bind></iq>",
        f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'> </bind></iq>",
        "<iq type='set' id='b'><query xmlns='jabber:iq:auth'/></iq>",
        "<message/>",
    ],
)
def test_other_requests_are_left_to_the_parsers(text: str) -> None:
    assert element(text) is None


def test_limits_that_would_have_to_be_looked_at() -> None:
    assert known.permits(ParserLimits())
    assert known.permits(ParserLimits(depth=3, elements=3, attributes=7))
    assert not known.permits(ParserLimits(depth=2))
    assert not known.permits(ParserLimits(elements=2))
    assert not known.permits(ParserLimits(attributes=6))
