"""The server's side of a client stream without sockets: RFC 6120 §4 to §7 as tables, and any chunking the same."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from tests.stream.driver import (
    BIND,
    HEADER,
    SASL,
    STARTTLS,
    STREAM,
    TLS,
    Driver,
    b64,
    bound,
    driver,
    logged_in,
    names,
    plain,
    settings,
)

from beamish.stream.features import StreamFeature
from beamish.stream.gate import ParserLimits
from beamish.stream.machine import (
    Authenticated,
    BindRequested,
    C2SMachine,
    Nonza,
    PasswordGiven,
    State,
    StreamClosed,
    StreamFailed,
    StreamOpened,
)
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

# ---- the whole way ----------------------------------------------------------------------------------------------------


def test_the_way_to_a_bound_resource() -> None:
    got = bound()
    assert names(got) == [
        "StreamOpened", "PasswordGiven", "Authenticated", "StreamOpened", "BindRequested",
    ]  # fmt: skip
    assert got.machine.jid == "romeo@example.org/orchard"
    assert b"<jid>romeo@example.org/orchard</jid>" in got.out
    got.feed("<message to='juliet@example.org'><body>hi</body></message>")
    stanza = got.events[-1]
    assert isinstance(stanza, Stanza)
    assert stanza.to == "juliet@example.org"


SESSIONS = (
    HEADER + plain() + HEADER + BIND + "<message/>\n<presence to='a@b'/><a xmlns='urn:xmpp:sm:3'/></stream:stream>",
    HEADER
    + "\n"
    + plain(password="wrong")
    + plain()
    + "\n "
    + HEADER
    + BIND.replace("orchard", "")
    + "<iq type='get' id='1'/>",
    HEADER + "<message/>",
    HEADER + plain() + HEADER + "<message/>" + BIND,
    HEADER + plain() + HEADER + BIND + "<message></iq>",
    HEADER + STARTTLS,
    HEADER + STARTTLS + "\n",
    HEADER + f"<auth xmlns='{SASL}' mechanism='PLAIN'/><response xmlns='{SASL}'>{b64(b'x' * 9)}</response>" + plain(),
    HEADER + f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{b64(b'n,,n=romeo,r=abc')}</auth><abort xmlns='{SASL}'/>",
    HEADER + f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{b64(b'n,,n=romeo,r=abc')}</auth>" + plain() + HEADER,
    HEADER + "<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
    HEADER.replace("example.org", "nowhere"),
    HEADER + "<a>&b;</a>",
    HEADER + plain() + HEADER + "<a><!-- x --></a>",
    HEADER + plain() + HEADER + BIND + "<message/></stream:stream><message/>",
)
marks = st.lists(st.integers(0, 2_000), max_size=20)


@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_every_single_cut_gives_the_same_events(session: str) -> None:
    data = session.encode()
    whole = driver().feed(data).told()
    for at in range(1, len(data)):
        assert driver().feed(data[:at], data[at:]).told() == whole, data[:at][-20:]


@given(st.sampled_from(SESSIONS), marks)
def test_every_chunking_gives_the_same_events_and_bytes(session: str, at: list[int]) -> None:
    data = session.encode()
    cuts = sorted({mark % len(data) for mark in at})
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    whole = driver().feed(data)
    for parts in (pieces, [data[at : at + 1] for at in range(len(data))]):
        got = driver().feed(*parts)
        assert got.told() == whole.told()
        assert without_nonce(got.out) == without_nonce(whole.out)


def without_nonce(out: bytes) -> bytes:
    return re.sub(rb"(<challenge [^>]*>)[^<]*", rb"\1", out)


def test_a_slow_answer_keeps_what_follows_waiting() -> None:
    machine = C2SMachine(settings())
    [opened, given_] = machine.receive((HEADER + plain() + HEADER + BIND + "<message/>").encode())
    assert isinstance(opened, StreamOpened)
    assert isinstance(given_, PasswordGiven)
    assert b"success" not in machine.data_to_send()
    assert machine.receive(b"<presence/>") == []
    [done, _, asked] = machine.password_checked(True)
    assert isinstance(done, Authenticated)
    assert isinstance(asked, BindRequested)
    rest = machine.bound(JID.parse("romeo@example.org/orchard"))
    assert [s.name for s in rest if isinstance(s, Stanza)] == ["message", "presence"]


def test_what_waits_is_bounded() -> None:
    machine = C2SMachine(settings())
    machine.receive((HEADER + plain()).encode())
    events = [event for _ in range(300) for event in machine.receive(b"<a/>" * 500)]
    assert isinstance(events[0], StreamFailed)
    assert len(events) == 1
    assert machine.password_checked(True) == []


# ---- the header -------------------------------------------------------------------------------------------------------


def header(**attributes: str) -> str:
    given_ = {"to": "example.org", "version": "1.0", "xmlns": "jabber:client", "xmlns:stream": STREAM, **attributes}
    inner = " ".join(f"{key.replace('_', ':')}='{value}'" for key, value in given_.items() if value is not None)
    return f"<stream:stream {inner}>"


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (header(), ""),
        (header(to="EXAMPLE.org"), ""),
        (header(to="example.net"), ""),
        (header(version="1.1"), ""),
        (header(version="01.00"), ""),
        (header(version="2.0"), ""),
        (header(version=f"1.{'9' * 5000}"), ""),
        (header(version=f"{'9' * 5000}.0"), ""),
        (header(id="ignored"), ""),
        (header(**{"from": "romeo@example.org"}), ""),
        (header(to=None), "improper-addressing"),  # type: ignore[arg-type]
        (header(to=""), "improper-addressing"),
        (header(to="example.com"), "host-unknown"),
        (header(to="romeo@example.org"), "host-unknown"),
        (header(to="example.org/x"), "host-unknown"),
        (header(to="a b"), "host-unknown"),
        (header(version=None), "unsupported-version"),  # type: ignore[arg-type]
        (header(version="0.9"), "unsupported-version"),
        (header(version="1"), "unsupported-version"),
        (header(version="x.y"), "unsupported-version"),
        (header(version="\u0661.0"), "unsupported-version"),
        (header(version="-1.0"), "unsupported-version"),
        (header(xmlns="jabber:server"), "invalid-namespace"),
        (header(xmlns="urn:x"), "invalid-namespace"),
        (header(**{"xmlns:stream": "urn:x"}), "invalid-namespace"),
        (header(**{"from": "@"}), "invalid-from"),
        (f"<stream xmlns='{STREAM}' to='example.org' version='1.0'>", ""),
        (f"<s:stream xmlns:s='{STREAM}' xmlns='jabber:client' to='example.org' version='1.0'>", ""),
        ("<stream to='example.org' version='1.0'>", "bad-format"),
        (f"<stream:features xmlns:stream='{STREAM}'>", "bad-format"),
        ("<?xml version='1.0' encoding='utf-16'?>" + header(), "unsupported-encoding"),
        ("<?xml version='1.1'?>" + header(), "not-well-formed"),
        ("<!DOCTYPE x>" + header(), "restricted-xml"),
        ("GET / HTTP/1.1\r\n", "not-well-formed"),
        ("\x16\x03\x01\x02", "not-well-formed"),
        ("\ufeff" + header(), "not-well-formed"),
    ],
)
def test_headers(text: str, condition: str) -> None:
    got = driver().feed(text)
    assert got.error == condition
    assert got.out.count(b"<stream:stream ") == 1, "an error needs a stream to stand in"
    assert (b"<stream:features>" in got.out) is (condition == "")


def response(got: Driver) -> dict[str, str]:
    """The attributes of the last header that was sent."""
    el = etree.fromstring(got.out[got.out.rindex(b"<stream:stream") :].split(b">")[0] + b"/>")
    return dict(el.items())


def test_the_answer_names_host_stream_and_peer() -> None:
    got = driver().feed(header(to="Example.NET", **{"from": "Romeo@Example.net/res", "xml:lang": "de"}))
    assert response(got) == {
        "from": "example.net",
        "to": "romeo@example.net",
        "id": "id1",
        "version": "1.0",
        "{http://www.w3.org/XML/1998/namespace}lang": "en",
    }
    assert "to" not in response(driver().feed(header()))


@pytest.mark.parametrize("to", ["unknown.example", None, "example.org"])
def test_an_error_answer_comes_from_a_host_of_ours_and_goes_to_the_peer(to: str | None) -> None:
    got = driver().feed(header(to=to, version="0.9", **{"from": "romeo@example.net"}))  # type: ignore[arg-type]
    assert response(got)["from"] == "example.org"
    assert response(got)["to"] == "romeo@example.net"


def test_every_stream_has_an_id_of_its_own() -> None:
    got = bound()
    assert re.findall(rb" id='(id\d+)'", got.out) == [b"id1", b"id2"]


def test_after_authentication_the_host_and_the_name_must_stay() -> None:
    assert driver().feed(HEADER, plain(), header(to="example.net")).error == "host-unknown"
    assert driver().feed(HEADER, plain(), header(**{"from": "juliet@example.org"})).error == "invalid-from"
    assert driver().feed(HEADER, plain(), header(**{"from": "romeo@example.org/x"})).error == ""


def test_a_header_that_names_a_machine_names_nobody() -> None:
    """What sendxmpp writes, and all that is made of Net::XMPP."""
    machine = header(**{"from": "localhost"})
    got = driver(secure=True).feed(machine, plain(), machine)
    assert got.error == "" and got.machine.jid == "romeo@example.org"
    assert response(got)["to"] == "localhost"
    for name in ("build_host", "-", "My Mac.local"):
        machine = header(**{"from": name})
        got = driver(secure=True).feed(machine, plain(), machine)
        assert got.error == "" and got.machine.jid == "romeo@example.org", name
        assert "to" not in response(got)


def test_a_protected_header_must_not_name_somebody_else() -> None:
    somebody = header(**{"from": "juliet@example.org"})
    assert driver(secure=True).feed(somebody, plain()).error == "invalid-from"
    assert driver(secure=False).feed(somebody, plain()).error == "", "in the clear anybody may have written it"
    assert driver(secure=True).feed(header(**{"from": "romeo@example.org"}), plain()).error == ""


# ---- features ---------------------------------------------------------------------------------------------------------


def features(got: Driver) -> etree._Element:
    """The features that were sent last."""
    text = got.out[got.out.rindex(b"<stream:features>") :].split(b"</stream:features>")[0]
    return etree.fromstring(
        text.replace(b"<stream:features", f"<stream:features xmlns:stream='{STREAM}'".encode()) + b"</stream:features>"
    )


def offered(got: Driver) -> list[str]:
    return [etree.QName(el).localname for el in features(got)]


def mechanisms(got: Driver) -> list[str | None]:
    return [el.text for el in features(got).iter(f"{{{SASL}}}mechanism")]


def test_features_follow_the_state_of_the_stream() -> None:
    extra = StreamFeature(b"<x xmlns='urn:x'/>")
    assert offered(driver(require_tls=True).feed(HEADER)) == ["starttls"]
    assert features(driver(require_tls=True).feed(HEADER))[0][0].tag == f"{{{TLS}}}required"
    assert offered(driver().feed(HEADER)) == ["starttls", "mechanisms"]
    assert offered(driver(secure=True).feed(HEADER)) == ["mechanisms"]
    assert offered(driver(secure=True, binding=b"b").feed(HEADER)) == ["mechanisms", "sasl-channel-binding"]
    assert offered(driver(require_tls=True).feed(HEADER, STARTTLS, HEADER)) == ["mechanisms", "sasl-channel-binding"]
    assert offered(logged_in(features=(extra,))) == ["bind", "session", "x"]


def test_mechanisms_in_order_of_strength() -> None:
    scram = ["SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1"]
    assert mechanisms(driver(secure=True, binding=b"b").feed(HEADER)) == [
        *(f"{m}-PLUS" for m in scram),
        *scram,
        "PLAIN",
    ]
    assert mechanisms(driver(secure=True).feed(HEADER)) == [*scram, "PLAIN"]
    assert mechanisms(driver(anonymous=True).feed(HEADER)) == [*scram, "PLAIN", "ANONYMOUS"]
    assert mechanisms(driver(mechanisms=frozenset(("PLAIN",))).feed(HEADER)) == ["PLAIN"]


# ---- STARTTLS ---------------------------------------------------------------------------------------------------------


def test_starttls_begins_a_new_stream() -> None:
    got = driver(require_tls=True).feed(HEADER, STARTTLS)
    assert got.out.endswith(f"<proceed xmlns='{TLS}'/>".encode())
    got.feed(HEADER, plain(), HEADER, BIND)
    assert got.machine.state is State.BOUND


@pytest.mark.parametrize("behind", ["<message/>", HEADER, plain(), "x", "\x16\x03\x01", "\n<"])
def test_nothing_said_in_the_clear_is_heard_after_the_handshake(behind: str) -> None:
    for pieces in ([HEADER + STARTTLS + behind], [HEADER + STARTTLS, behind]):
        machine = C2SMachine(settings(require_tls=True))
        events = [event for piece in pieces for event in machine.receive(piece.encode())]
        assert isinstance(events[-1], StreamFailed)
        assert not any(isinstance(event, PasswordGiven | Stanza) for event in events)
        assert machine.data_to_send().endswith(b"</stream:error></stream:stream>")
        assert machine.closed


@pytest.mark.parametrize("way", ["secure", "twice", "authenticated"])
def test_starttls_where_it_is_not_offered_is_a_failure_of_its_own(way: str) -> None:
    got = {
        "secure": lambda: driver(secure=True).feed(HEADER),
        "twice": lambda: driver().feed(HEADER, STARTTLS, HEADER),
        "authenticated": lambda: logged_in(),
    }[way]()
    got.feed(STARTTLS)
    assert got.out.endswith(f"<failure xmlns='{TLS}'/></stream:stream>".encode())
    assert got.machine.closed
    assert got.error == ""


# ---- what may be said when --------------------------------------------------------------------------------------------

MESSAGE = "<message to='a@b'/>"
SESSION = "<iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>"


@pytest.mark.parametrize("sent", [MESSAGE, "<presence/>", "<iq type='get' id='1'><a xmlns='b'/></iq>", BIND, SESSION, "<x/>",
                                  "<message to='@'/>", "<a xmlns='urn:xmpp:sm:3'/>", HEADER[21:-1] + "/>"])  # fmt: skip
def test_before_authentication_nothing_else_is_authorized(sent: str) -> None:
    got = driver().feed(HEADER, sent)
    assert got.error == "not-authorized"
    assert not any(isinstance(event, Stanza | Nonza) for event in got.events)


@pytest.mark.parametrize("sent", [MESSAGE, "<presence/>", "<iq type='get' id='1'><a xmlns='b'/></iq>", SESSION, "<x/>",
                                  BIND.replace("set", "get"), plain(), "<message to='@'/>"])  # fmt: skip
def test_before_binding_nothing_else_is_authorized(sent: str) -> None:
    got = logged_in().feed(sent)
    assert got.error == "not-authorized"
    assert not any(isinstance(event, Stanza | Nonza) for event in got.events)


def test_before_the_restart_nothing_is_read_but_a_header() -> None:
    assert driver().feed(HEADER, plain(), BIND).error != ""


def test_some_elements_and_iqs_may_come_early() -> None:
    iq = "{jabber:iq:register}query"
    sent = "<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>"
    got = driver(early_iqs=frozenset((iq,))).feed(HEADER, sent)
    assert isinstance(got.events[-1], Stanza)
    resume = frozenset(("{urn:xmpp:sm:3}resume",))
    got = logged_in(early_nonzas=resume).feed("<resume xmlns='urn:xmpp:sm:3' previd='x'/>")
    assert isinstance(got.events[-1], Nonza)
    other = frozenset(("{urn:x}early",))
    assert driver(early_nonzas=other).feed(HEADER, "<early xmlns='urn:x'/>").error == "not-authorized"


@pytest.mark.parametrize("name", ["enable", "resume"])
def test_stream_management_before_authentication_fails_without_ending_the_stream(name: str) -> None:
    """XEP-0198 §3."""
    sent = f"<{name} xmlns='urn:xmpp:sm:3'/>"
    got = driver(early_nonzas=frozenset((f"{{urn:xmpp:sm:3}}{name}",))).feed(HEADER, sent)
    assert got.error == ""
    assert not any(isinstance(event, Nonza) for event in got.events)
    assert (
        b"<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        in (got.out)
    )
    assert driver().feed(HEADER, sent).error == "not-authorized"


def test_the_peers_own_error_is_not_answered_with_another() -> None:
    """RFC 6120 §4.9.1.1."""
    sent = "<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
    for got in (driver().feed(HEADER, sent), logged_in().feed(sent), bound().feed(MESSAGE + sent + MESSAGE)):
        failed = got.events[-1]
        assert isinstance(failed, StreamFailed)
        assert failed.by_peer
        assert failed.error.condition.value == "system-shutdown"
        assert got.error == ""
        assert got.out.endswith(b"</stream:stream>")
        assert got.machine.closed


# ---- binding ----------------------------------------------------------------------------------------------------------


def bind(resource: str = "", id_: str = "1") -> str:
    inner = f"<resource>{resource}</resource>" if resource else ""
    return f"<iq type='set' id='{id_}'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>{inner}</bind></iq>"


@pytest.mark.parametrize(
    ("asked", "got_"),
    [("", "made-up"), ("balcony", "balcony"), ("a b@c/d", "a b@c/d"), ("&lt;&apos;", "<'"), ("\u2126", "\u03a9")],
)
def test_a_resource_is_asked_for_or_made_up(asked: str, got_: str) -> None:
    got = logged_in().feed(bind(asked))
    assert got.machine.jid == f"romeo@example.org/{got_}"
    answer = etree.fromstring(got.out[got.out.rindex(b"<iq") :])
    assert answer.get("id") == "1"
    assert answer.findtext(".//{*}jid") == f"romeo@example.org/{got_}"


@pytest.mark.parametrize(
    "sent",
    [
        bind(" leading"),
        bind("x" * 1024),
        bind("a&#9;b"),
        bind("x", ""),
        bind("x").replace("</bind>", "</bind><other xmlns='urn:x'/>"),
    ],
)
def test_what_cannot_be_bound_is_a_bad_request_and_may_be_tried_again(sent: str) -> None:
    got = logged_in().feed(sent)
    assert b"<bad-request " in got.out
    assert b"type='error'" in got.out
    assert got.feed(bind("x")).machine.state is State.BOUND


def test_a_request_without_an_id_is_answered_without_one() -> None:
    """RFC 6120 §8.1.3 wants one, but iksemel's has none, and so it could not log in."""
    got = logged_in().feed(bind("x").replace(" id='1'", ""))
    answer = etree.fromstring(got.out[got.out.rindex(b"<iq") :])
    assert (answer.get("type"), answer.get("id")) == ("result", None)
    assert got.machine.state is State.BOUND
    taken = Driver(C2SMachine(settings()), lambda machine, _: machine.bind_refused(StanzaError(Condition.CONFLICT)))
    taken.feed(HEADER, plain(), HEADER, bind("x").replace(" id='1'", ""))
    assert b"<iq type='error'><error " in taken.out
    assert taken.machine.state is State.OFFERED


def test_attempts_to_bind_are_bounded() -> None:
    """RFC 6120 §7.7.3."""
    got = Driver(
        C2SMachine(settings(bind_attempts=5)), lambda machine, _: machine.bind_refused(StanzaError(Condition.CONFLICT))
    )
    got.feed(HEADER, plain(), HEADER, bind("x") * 4)
    assert got.error == ""
    assert got.out.count(b"<conflict ") == 4
    assert got.feed(bind("x")).error == "policy-violation"


def test_a_resource_can_be_refused() -> None:
    got = Driver(
        C2SMachine(settings()),
        lambda machine, _: machine.bind_refused(StanzaError(Condition.RESOURCE_CONSTRAINT)),
    ).feed(HEADER, plain(), HEADER, bind("x"))
    assert b"<iq type='error' id='1'><error type='wait'><resource-constraint " in got.out
    assert got.machine.state is State.OFFERED


# ---- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: driver().feed(HEADER), logged_in, bound])
def test_closing_is_answered_once(make: Callable[[], Driver]) -> None:
    got = make().feed("</stream:stream>")
    assert isinstance(got.events[-1], StreamClosed)
    assert got.out.count(b"</stream:stream>") == 1
    got.feed(MESSAGE)
    assert isinstance(got.events[-1], StreamClosed), "nothing is read behind it"


def test_the_end_of_the_connection_is_an_answer_too() -> None:
    got = bound().eof()
    assert isinstance(got.events[-1], StreamClosed)
    assert got.out.endswith(b"</stream:stream>")
    assert driver().eof().out == b"", "there is no stream to close"
    assert names(bound().feed("</stream:stream>").eof())[-1] == "StreamClosed"


def test_we_may_close_first_and_still_hear_the_rest() -> None:
    """RFC 6120 §4.4 rule 2."""
    got = bound()
    got.machine.close()
    got.feed(MESSAGE, "</stream:stream>")
    assert names(got)[-2:] == ["Stanza", "StreamClosed"]
    assert got.out.count(b"</stream:stream>") == 1


@pytest.mark.parametrize(
    ("sent", "condition"),
    [
        ("<message><a></message>", "not-well-formed"),
        ("<x:message/>", "not-well-formed"),
        ("<!-- x -->", "restricted-xml"),
        ("text<message/>", "invalid-xml"),
        (b"<message>\xff</message>", "unsupported-encoding"),
        ("<message>" + "x" * 20_000 + "</message>", "policy-violation"),
        ("<message from='@'/>", "invalid-from"),
    ],
)
def test_errors_of_a_bound_stream(sent: str | bytes, condition: str) -> None:
    got = bound(limits=ParserLimits(stanza_bytes=10_000)).feed(
        MESSAGE.encode() + (sent if isinstance(sent, bytes) else sent.encode())
    )
    assert got.error == condition
    assert sum(isinstance(event, Stanza) for event in got.events) == 1, "what came before it counts"


def test_before_authentication_bytes_are_counted() -> None:
    limit = 10_000
    rest = limit - len(HEADER)
    fits = HEADER + " " * (rest - len(plain())) + plain()
    assert isinstance(driver(unauthenticated_bytes=limit).feed(fits).events[-1], Authenticated)
    for pieces in ([HEADER + " " * (rest - len(plain()) + 1) + plain()], [HEADER, *[" "] * (rest + 1)]):
        assert driver(unauthenticated_bytes=limit).feed(*pieces).error == "policy-violation"
    got = driver(unauthenticated_bytes=limit).feed(HEADER + plain() + HEADER + BIND + "<message/>" * 10_000)
    assert sum(isinstance(event, Stanza) for event in got.events) == 10_000, "afterwards they are not"


def test_no_credential_in_a_representation() -> None:
    got = driver().feed(HEADER, plain())
    assert "secret" not in repr(got.events)
