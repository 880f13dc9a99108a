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
