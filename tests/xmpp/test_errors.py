import pytest
from lxml import etree

from beamish.xmpp.errors import DEFAULT_KIND, Condition, Kind, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.xml import from_bytes, make

STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"


@pytest.mark.parametrize("condition", Condition)
def test_every_stanza_error(condition: Condition) -> None:
    error = StanzaError(condition, text="<why> & how")
    el = from_bytes(error.to_bytes())
    assert el.get("type") == DEFAULT_KIND[condition].value
    assert [child.tag for child in el] == [f"{{{STANZAS}}}{condition.value}", f"{{{STANZAS}}}text"]
    assert el[1].text == "<why> & how"
    assert condition.value in str(error)


def test_a_kind_and_a_condition_of_the_application() -> None:
    error = StanzaError(Condition.FORBIDDEN, Kind.WAIT, app=make("{urn:x}too-much", {"limit": "1"}))
    el = from_bytes(error.to_bytes("room@x"))
    assert (el.get("type"), el.get("by")) == ("wait", "room@x")
    assert el[1].tag == "{urn:x}too-much"


@pytest.mark.parametrize("condition", StreamErrorCondition)
def test_every_stream_error(condition: StreamErrorCondition) -> None:
    data = StreamError(condition, "a & b", app=b"<x xmlns='urn:x'/>").to_bytes()
    [el] = etree.fromstring(b"<s xmlns:stream='http://etherx.jabber.org/streams'>" + data + b"</s>")
    assert el.tag == "{http://etherx.jabber.org/streams}error"
    assert [child.tag for child in el] == [f"{{{STREAMS}}}{condition.value}", f"{{{STREAMS}}}text", "{urn:x}x"]
