"""XEP-0292 §5: vcard-temp and vCard4. Pure."""

from hypothesis import given
from hypothesis import strategies as st

from beamish.modules.vcard.convert import to_temp, to_v4
from beamish.testing.match import mismatch
from beamish.xmpp.xml import from_bytes, make, to_bytes

TEMP = """<vCard xmlns='vcard-temp'><FN>Peter Saint-Andre</FN>
<N><FAMILY>Saint-Andre</FAMILY><GIVEN>Peter</GIVEN><MIDDLE/></N><NICKNAME>stpeter</NICKNAME>
<URL>https://stpeter.im/</URL><BDAY>1966-08-06</BDAY>
<ORG><ORGNAME>XMPP Standards Foundation</ORGNAME><ORGUNIT/></ORG><TITLE>Executive Director</TITLE><ROLE>Patron Saint</ROLE>
<TEL><WORK/><VOICE/><NUMBER>303-308-3282</NUMBER></TEL><TEL><WORK/><FAX/><NUMBER/></TEL>
<ADR><WORK/><PREF/><EXTADD>Suite 600</EXTADD><STREET>1899 Wynkoop Street</STREET><LOCALITY>Denver</LOCALITY>
<REGION>CO</REGION><PCODE>80202</PCODE><CTRY>USA</CTRY></ADR>
<EMAIL><INTERNET/><HOME/><USERID>stpeter@jabber.org</USERID></EMAIL><JABBERID>stpeter@jabber.org</JABBERID>
<GEO><LAT>39.59</LAT><LON>-105.01</LON></GEO><DESC>More about me</DESC><MAILER>none</MAILER>
<CATEGORIES><KEYWORD>a</KEYWORD><KEYWORD>b</KEYWORD></CATEGORIES>
<PHOTO><TYPE>image/png</TYPE><BINVAL>AAAA</BINVAL></PHOTO><LOGO><EXTVAL>https://stpeter.im/logo.png</EXTVAL></LOGO>
<KEY><CRED>secret?</CRED></KEY></vCard>"""
V4 = """<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'><fn><text>Peter Saint-Andre</text></fn>
<n><surname>Saint-Andre</surname><given>Peter</given></n><nickname><text>stpeter</text></nickname>
<url><uri>https://stpeter.im/</uri></url><bday><date>1966-08-06</date></bday>
<org><text>XMPP Standards Foundation</text></org><title><text>Executive Director</text></title>
<role><text>Patron Saint</text></role>
<tel><parameters><type><text>work</text><text>voice</text></type></parameters><uri>tel:303-308-3282</uri></tel>
<adr><parameters><type><text>work</text></type><pref><integer>1</integer></pref></parameters><ext>Suite 600</ext>
<street>1899 Wynkoop Street</street><locality>Denver</locality><region>CO</region><code>80202</code><country>USA</country></adr>
<email><parameters><type><text>home</text></type></parameters><text>stpeter@jabber.org</text></email>
<impp><uri>xmpp:stpeter@jabber.org</uri></impp><geo><uri>geo:39.59,-105.01</uri></geo><note><text>More about me</text></note>
<categories><text>a</text><text>b</text></categories><logo><uri>https://stpeter.im/logo.png</uri></logo>
<key><text>secret?</text></key></vcard>"""


def test_to_vcard4() -> None:
    made = to_v4(from_bytes(TEMP.encode()))
    assert not mismatch(from_bytes(V4.encode()), made)
    assert made.find("{urn:ietf:params:xml:ns:vcard-4.0}photo") is None
    assert len(made.findall("{urn:ietf:params:xml:ns:vcard-4.0}tel")) == 1


def test_to_vcard_temp() -> None:
    made = to_temp(from_bytes(V4.encode()))
    want = TEMP.replace("<MIDDLE/>", "").replace("<ORGUNIT/>", "").replace("<TEL><WORK/><FAX/><NUMBER/></TEL>", "")
    want = want.replace("<MAILER>none</MAILER>", "").replace("DESC>", "NOTE>")
    want = want.replace("<PHOTO><TYPE>image/png</TYPE><BINVAL>AAAA</BINVAL></PHOTO>", "")
    assert not mismatch(from_bytes(want.encode()), made)


def test_both_ways_and_back_is_at_rest() -> None:
    once = to_v4(from_bytes(TEMP.encode()))
    assert to_bytes(to_v4(to_temp(once))) == to_bytes(once)


def test_odd_cards_do_no_harm() -> None:
    for xml in (
        "<vCard xmlns='vcard-temp'><N/><TEL/><GEO/><ORG/><EMAIL/><ADR><HOME/></ADR><UNKNOWN>x</UNKNOWN></vCard>",
        "<vCard xmlns='vcard-temp'/>",
        "<vCard xmlns='vcard-temp'><GEO><LAT>;</LAT><LON>0</LON></GEO><GEO><LAT>here</LAT><LON>there</LON></GEO></vCard>",
    ):
        assert len(to_v4(from_bytes(xml.encode()))) == 0
    odd = "<n/><tel/><geo><uri>geo:1</uri></geo><geo><uri>geo:;x,0</uri></geo><impp><uri>sip:x</uri></impp>"
    card = from_bytes(f"<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'>{odd}</vcard>".encode())
    assert len(to_temp(card)) == 0


names = st.sampled_from(["FN", "N", "TEL", "ADR", "EMAIL", "ORG", "GEO", "NOTE", "URL", "PHOTO", "KEY", "X"])
parts = st.sampled_from(
    ["NUMBER", "FAMILY", "STREET", "USERID", "ORGNAME", "LAT", "LON", "EXTVAL", "CRED", "HOME", "PREF"]
)
texts = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=6)


@given(st.lists(st.tuples(names, texts, st.lists(st.tuples(parts, texts), max_size=3)), max_size=6))
def test_any_card_can_be_converted_and_comes_to_rest(
    properties: list[tuple[str, str, list[tuple[str, str]]]],
) -> None:
    card = make("{vcard-temp}vCard")
    for name, text, inner in properties:
        children = [make(f"{{vcard-temp}}{part}", None, value) for part, value in inner]
        card.append(make(f"{{vcard-temp}}{name}", None, text, *children))
    first = to_v4(to_temp(to_v4(card)))
    assert to_bytes(to_v4(to_temp(first))) == to_bytes(first)
