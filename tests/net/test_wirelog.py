import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.net import wirelog
from beamish.net.wirelog import Masker, WireLog

SECRET = base64.b64encode(b"\0romeo\0correct horse battery").decode()
LOGIN = (
    "<?xml version='1.0'?><stream:stream to='example.org' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
    f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN' note='>'>{SECRET}</auth>"
    f"<sasl:response xmlns:sasl='urn:ietf:params:xml:ns:xmpp-sasl'><![CDATA[{SECRET}]]></sasl:response>"
).encode()
AFTER = (
    f"<iq type='set' id='1'><query xmlns='jabber:iq:register'><username>romeo</username><password>{SECRET}</password>"
    f"</query></iq><message><body>hello</body></message><iq><x xmlns='jabber:x:data'><field var='FORM_TYPE'><value>plain"
    f"</value></field><field type='text-private' var='muc#roomconfig_roomsecret'><value>{SECRET}</value></field></x></iq>"
    f"<iq><query><PASSWORD><b>{SECRET}</b></PASSWORD></query></iq>"
).encode()


class Lines(list[tuple[str, str, str]]):
    """Takes the place of the logger."""

    def debug(self, event: str, *, stream: str, data: str) -> None:
        self.append((event, stream, data))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    taken = Lines()
    monkeypatch.setattr(wirelog, "log", taken)
    return taken


def crumbs(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % len(data) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_a_credential_is_hidden_however_the_bytes_are_cut(cuts: list[int]) -> None:
    for data, all_text in ((LOGIN, True), (LOGIN, False), (AFTER, False), (AFTER, True)):
        masker = Masker()
        shown = b"".join(masker.feed(piece, all_text) for piece in crumbs(data, cuts))
        assert not any(SECRET[at : at + 6].encode() in shown for at in range(len(SECRET) - 5))


def test_the_rest_is_shown_as_it_came() -> None:
    whole = Masker().feed(AFTER, False)
    dribbled = Masker()
    assert b"".join(dribbled.feed(AFTER[at : at + 1], False) for at in range(len(AFTER))) == whole
    assert whole == AFTER.replace(SECRET.encode(), "…".encode())


def test_before_a_session_is_bound_no_text_is_shown() -> None:
    assert Masker().feed(b"<a>text</a>", True) == "<a>…</a>".encode()


def test_what_precedes_the_first_tag_may_be_the_rest_of_a_password() -> None:
    assert Masker().feed(b"rest</password><body>hi</body>", False) == "…</password><body>hi</body>".encode()


def test_an_unfinished_tag_is_kept_only_so_far() -> None:
    masker = Masker()
    for _ in range(100):
        masker.feed(b"<a b='" + b"x" * 10_000, False)
    assert len(masker._rest) <= 4_096


@pytest.mark.parametrize(("way", "event"), [("received", "rx"), ("sent", "tx")])
def test_each_stream_and_direction_has_its_own_state(way: str, event: str, lines: Lines) -> None:
    wire = WireLog(True)
    getattr(wire, way)("one", None, b"<auth>secr")
    getattr(wire, way)("two", None, b"<presence/>")
    getattr(wire, way)("one", None, b"et</auth>")
    assert lines == [(event, "one", "<auth>…"), (event, "two", "<presence/>"), (event, "one", "</auth>")]
    wire.forget("one")
    wire.forget("two")
    assert not wire._maskers


def test_long_output_is_cut(lines: Lines) -> None:
    WireLog(True).sent("one", None, b"<a>" + b"<b/>" * 5_000)
    [(_, _, data)] = lines
    assert data.endswith("bytes)")
    assert len(data) < 4_200


FORM = "<x xmlns='jabber:x:data' type='{}'>{}</x>"


@pytest.mark.parametrize(
    "xml",
    [
        f"<services xmlns='urn:xmpp:extdisco:2'><service type='turn' host='t' username='1:x' password='{SECRET}'/></services>",
        f'<service type="turn" password = "{SECRET}" host="t"/>',
        f"<preauth xmlns='urn:xmpp:pars:0' token='{SECRET}'/>",
        f"<p:preauth xmlns:p='urn:xmpp:pars:0' p:token='{SECRET}'/>",
        f"<token xmlns='urn:xmpp:fast:0' expiry='2027' token='{SECRET}'/>",
        f"<x xmlns='jabber:x:conference' jid='room@conference.example.org' password='{SECRET}'/>",
        f"<query xmlns='jabber:iq:auth'><username>romeo</username><password>{SECRET}</password></query>",
        f"<query xmlns='jabber:iq:auth'><digest>{SECRET}</digest></query>",
        f"<handshake>{SECRET}</handshake>",
        f"<query xmlns='jabber:iq:register'><username>romeo</username><password>{SECRET}</password></query>",
        # forms: registration, 0133 add-user and change-user-password, a field of the type by any name, invitations
        FORM.format("submit", f"<field var='password'><value>{SECRET}</value></field>"),
        FORM.format("submit", f"<field var='password-verify'><value>{SECRET}</value></field>"),
        FORM.format("submit", f"<field var='old_password'><value>{SECRET}</value></field>"),
        FORM.format("submit", f"<field var='p&#97;ssword'><value>{SECRET}</value></field>"),
        FORM.format("form", f"<field type='text-private' var='pin'><value>{SECRET}</value></field>"),
        FORM.format("result", f"<field var='uri'><value>xmpp:x?preauth={SECRET}</value></field>"),
        FORM.format("result", f"<field var='landing-url'><value>https://x/{SECRET}</value></field>"),
        FORM.format("result", f"<item><field var='token'><value>{SECRET}</value></field></item>"),
        f"<slot><put url='https://x'><header name='Authorization'>Basic {SECRET}</header></put></slot>",
        f"<a b='{'x' * 5_000}' token='{SECRET}'/>",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_every_kind_of_credential_is_hidden(xml: str, size: int) -> None:
    data = f"<iq type='set' id='1'>{xml}</iq><message><body>hello</body></message>".encode()
    masker = Masker()
    shown = b"".join(masker.feed(data[at : at + size], False) for at in range(0, len(data), size))
    assert SECRET.encode() not in shown
    assert shown.startswith(b"<iq type='set' id='1'>")
    assert "…".encode() in shown
    assert shown.endswith(b"</iq><message><body>hello</body></message>")


def test_of_a_tag_that_was_too_long_only_the_name_is_shown() -> None:
    masker = Masker()
    pieces = [b"<iq><a b='", b"x" * 4_096, b"' c='", b"secret' d='", b"'/></iq>"]
    assert b"".join(map(masker.feed, pieces, [False] * 5)) == "<iq><a …></iq>".encode()


def test_what_is_no_credential_is_shown() -> None:
    plain = (
        b"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='a@b' name='Passwords'/></query></iq>"
        b"<message type='chat'><subject>password='x'</subject><token-less/></message>"
        b"<x xmlns='jabber:x:data'><field var='FORM_TYPE'><value>urn:xmpp:x</value></field></x>"
    )
    assert Masker().feed(plain, False) == plain
