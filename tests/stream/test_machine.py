"""The server's side of a client stream without sockets: RFC 6120 §4 to §7 as tables, and any chunking the same."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from beamish.stream.features import StreamFeature
from beamish.stream.gate import ParserLimits
from beamish.stream.machine import (
    Authenticated,
    AuthFailed,
    BindRequested,
    C2SMachine,
    C2SSettings,
    Event,
    KeysNeeded,
    Nonza,
    PasswordGiven,
    StartTls,
    State,
    StreamClosed,
    StreamFailed,
    StreamOpened,
)
from beamish.stream.names import NameLedger
from beamish.stream.sasl import FailureCondition, ScramKeys, decoy_keys, derive_keys
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

STREAM = "http://etherx.jabber.org/streams"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
HEADER = (
    f"<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>"
)
BIND = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>orchard</resource></bind></iq>"
STARTTLS = f"<starttls xmlns='{TLS}'/>"
KEYS = {a: derive_keys("secret", a, salt=b"0123456789abcdef", iterations=4096) for a in ("SHA-1", "SHA-256", "SHA-512")}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


RESPONSE = b"\0romeo\0secret"


def plain(user: str = "romeo", password: str = "secret", authzid: str = "") -> str:
    message = "\0".join((authzid, user, password))
    return f"<auth xmlns='{SASL}' mechanism='PLAIN'>{b64(message.encode())}</auth>"


def settings(**changes: Any) -> C2SSettings:
    ids = count(1)
    made = C2SSettings(
        serves=lambda domain: domain in ("example.org", "example.net"),
        new_id=lambda: f"id{next(ids)}",
        ledger=NameLedger(),
        default_domain="example.org",
        require_tls=False,
    )
    return replace(made, **changes)


class Driver:
    """Plays the connection: answers every event at once, and remembers all of them."""

    def __init__(
        self, machine: C2SMachine, bind: Callable[[C2SMachine, BindRequested], list[Event]] | None = None
    ) -> None:
        self.machine = machine
        self.events: list[Event] = []
        self.out = b""
        self._bind = bind

    def feed(self, *pieces: str | bytes) -> Driver:
        for piece in pieces:
            self._take(self.machine.receive(piece.encode() if isinstance(piece, str) else piece))
        return self

    def eof(self) -> Driver:
        self._take(self.machine.receive_eof())
        return self

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.append(event)
            self.out += self.machine.data_to_send()
            self._take(self._answer(event))
        self.out += self.machine.data_to_send()

    def _answer(self, event: Event) -> list[Event]:
        machine = self.machine
        if isinstance(event, KeysNeeded):
            known = event.username == "romeo"
            keys: ScramKeys = (
                KEYS[event.algorithm] if known else decoy_keys(b"x", event.username, event.algorithm, 4096)
            )
            return machine.keys(keys, known)
        if isinstance(event, PasswordGiven):
            return machine.password_checked(event.username == "romeo" and event.password == "secret")
        if isinstance(event, BindRequested):
            if self._bind is not None:
                return self._bind(machine, event)
            assert machine.jid is not None
            return machine.bound(machine.jid.with_resource(event.resource or "made-up"))
        if isinstance(event, StartTls):
            machine.tls_established(b"binding")
        return []

    @property
    def error(self) -> str:
        """The condition of the stream error that was sent, "" if none was."""
        found = re.findall(rb"<stream:error><([a-z-]+) xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", self.out)
        assert len(found) <= 1
        if found:
            assert self.out.endswith(b"</stream:error></stream:stream>")
            assert self.machine.closed
        return found[0].decode() if found else ""

    def told(self) -> list[str]:
        return [repr(e) if not isinstance(e, Stanza | Nonza) else f"{type(e).__name__} {told(e)}" for e in self.events]


def told(event: Stanza | Nonza) -> str:
    return repr(event.to_wire()) if isinstance(event, Stanza) else repr(etree.tostring(event.el, with_tail=False))


def driver(**changes: Any) -> Driver:
    secure = changes.pop("secure", False)
    binding = changes.pop("binding", None)
    return Driver(C2SMachine(settings(**changes), secure=secure, binding=binding))


def logged_in(**changes: Any) -> Driver:
    return driver(**changes).feed(HEADER, plain(), HEADER)


def bound(**changes: Any) -> Driver:
    got = logged_in(**changes).feed(BIND)
    assert got.machine.state is State.BOUND
    return got


def names(got: Driver) -> list[str]:
    return [type(event).__name__ for event in got.events]


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


# ---- SASL -------------------------------------------------------------------------------------------------------------


def failure(got: Driver) -> str:
    """The condition of the last SASL failure."""
    found = re.findall(rb"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><([a-z-]+)/>", got.out)
    return found[-1].decode() if found else ""


def auth(mechanism: str, payload: bytes | None = None) -> str:
    return f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{'' if payload is None else b64(payload)}</auth>"


@pytest.mark.parametrize(
    ("changes", "sent", "condition"),
    [
        ({}, plain(password="wrong"), "not-authorized"),
        ({}, plain(user="nobody"), "not-authorized"),
        ({}, plain(user="a b"), "not-authorized"),
        ({}, plain(authzid="juliet@example.org"), "invalid-authzid"),
        ({}, plain(authzid="@"), "invalid-authzid"),
        ({}, plain(authzid="romeo@example.org/x"), "invalid-authzid"),
        ({}, f"<auth xmlns='{SASL}' mechanism='PLAIN'>no base 64!</auth>", "incorrect-encoding"),
        ({}, f"<auth xmlns='{SASL}' mechanism='PLAIN'>A</auth>", "incorrect-encoding"),
        ({}, auth("PLAIN", b"nothing"), "malformed-request"),
        ({}, f"<auth xmlns='{SASL}' mechanism='PLAIN'>=</auth>", "malformed-request"),
        ({}, auth("SCRAM-SHA-1", b"rubbish"), "malformed-request"),
        ({}, auth("X-UNKNOWN", b"x"), "invalid-mechanism"),
        ({}, f"<auth xmlns='{SASL}'/>", "invalid-mechanism"),
        ({}, auth("ANONYMOUS"), "invalid-mechanism"),
        ({}, auth("SCRAM-SHA-1-PLUS", b"p=tls-server-end-point,,n=romeo,r=x"), "invalid-mechanism"),
        ({"require_tls": True}, plain(), "encryption-required"),
        ({"require_tls": True}, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x"), "encryption-required"),
        ({}, auth("PLAIN") + f"<abort xmlns='{SASL}'/>", "aborted"),
        ({}, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x") + f"<abort xmlns='{SASL}'/>", "aborted"),
        ({"mechanisms": frozenset(("SCRAM-SHA-1",))}, plain(), "invalid-mechanism"),
    ],
)
def test_every_failure_has_its_condition_and_can_be_mended(changes: dict[str, Any], sent: str, condition: str) -> None:
    got = driver(**changes).feed(HEADER, sent)
    assert failure(got) == condition
    assert isinstance(got.events[-1], AuthFailed)
    assert got.events[-1].condition == condition
    assert got.error == ""
    if not changes:
        got.feed(plain(), HEADER, BIND)
        assert got.machine.state is State.BOUND


def test_a_failure_says_whom_it_was_for() -> None:
    got = driver().feed(HEADER, plain(user="ROMEO", password="wrong"))
    assert isinstance(got.events[-1], AuthFailed)
    assert got.events[-1].jid == "romeo@example.org", "a throttle must not be fooled by the case"


@pytest.mark.parametrize("condition", [FailureCondition.TEMPORARY_AUTH_FAILURE, FailureCondition.ACCOUNT_DISABLED])
def test_the_caller_may_refuse(condition: FailureCondition) -> None:
    machine = C2SMachine(settings())
    machine.receive((HEADER + plain()).encode())
    [failed] = machine.auth_refused(condition, "later & <more>")
    assert isinstance(failed, AuthFailed)
    out = machine.data_to_send()
    assert f"<{condition.value}/><text xml:lang='en'>later &amp; &lt;more&gt;</text>".encode() in out


def test_a_bounded_number_of_attempts() -> None:
    got = driver(sasl_attempts=3).feed(HEADER)
    for _ in range(2):
        got.feed(plain(password="wrong"))
        assert got.error == ""
    got.feed(plain(password="wrong"))
    assert got.error == "policy-violation"
    assert failure(got) == "not-authorized"


def test_a_new_auth_takes_the_place_of_one_under_way() -> None:
    """RFC 6120 §6.4.2."""
    got = driver().feed(HEADER, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x"), plain())
    assert isinstance(got.events[-1], Authenticated)
    got = driver().feed(HEADER, auth("PLAIN"), auth("X"))
    assert failure(got) == "invalid-mechanism"


def test_an_empty_challenge_asks_for_the_initial_response() -> None:
    got = driver().feed(HEADER, auth("PLAIN"))
    assert got.out.endswith(f"<challenge xmlns='{SASL}'></challenge>".encode()) or got.out.endswith(
        f"<challenge xmlns='{SASL}'>=</challenge>".encode()
    )
    got.feed(f"<response xmlns='{SASL}'>{b64(RESPONSE)}</response>")
    assert isinstance(got.events[-1], Authenticated)


@pytest.mark.parametrize(
    "sent", [f"<response xmlns='{SASL}'/>", f"<abort xmlns='{SASL}'/>", f"<success xmlns='{SASL}'/>"]
)
def test_an_answer_to_nothing_is_not_authorized(sent: str) -> None:
    assert driver().feed(HEADER, sent).error == "not-authorized"


def scram(got: Driver, algorithm: str, gs2: bytes = b"n,,", binding: bytes = b"", plus: str = "") -> bytes:
    """Log in with SCRAM, as the client; returns the additional data of the success."""
    hash_ = "sha" + algorithm.removeprefix("SHA-")
    bare = b"n=romeo,r=abcdef"
    got.feed(auth(f"SCRAM-{algorithm}{plus}", gs2 + bare))
    [challenge] = re.findall(rb"<challenge [^>]*>([^<]+)<", got.out)
    first = base64.b64decode(challenge)
    fields = dict(part.split(b"=", 1) for part in first.split(b","))
    salted = hashlib.pbkdf2_hmac(hash_, b"secret", base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    client = hmac.digest(salted, b"Client Key", hash_)
    final = b"c=" + base64.b64encode(gs2 + binding) + b",r=" + fields[b"r"]
    message = b",".join((bare, first, final))
    proof = bytes(
        a ^ b for a, b in zip(client, hmac.digest(hashlib.new(hash_, client).digest(), message, hash_), strict=True)
    )
    got.feed(f"<response xmlns='{SASL}'>{b64(final + b',p=' + base64.b64encode(proof))}</response>")
    server = hmac.digest(hmac.digest(salted, b"Server Key", hash_), message, hash_)
    found = re.findall(rb"<success [^>]*>([^<]+)<", got.out)
    assert not found or base64.b64decode(found[0]) == b"v=" + base64.b64encode(server)
    return found[0] if found else b""


@pytest.mark.parametrize("algorithm", ["SHA-1", "SHA-256", "SHA-512"])
def test_scram_with_and_without_channel_binding(algorithm: str) -> None:
    assert scram(driver().feed(HEADER), algorithm)
    got = driver(secure=True, binding=b"end point").feed(HEADER)
    assert scram(got, algorithm, b"p=tls-server-end-point,,", b"end point", "-PLUS")
    got = driver(secure=True, binding=b"end point").feed(HEADER)
    assert not scram(got, algorithm, b"p=tls-server-end-point,,", b"another one", "-PLUS")
    assert failure(got) == "not-authorized"


def test_anonymous_users_get_a_name() -> None:
    got = driver(anonymous=True).feed(HEADER, auth("ANONYMOUS", b"trace"), HEADER, BIND)
    [event] = [event for event in got.events if isinstance(event, Authenticated)]
    assert event.anonymous
    assert got.machine.jid == f"{event.jid.local}/orchard".replace("/", "@example.org/")


def test_who_has_used_up_its_names_does_not_get_in() -> None:
    made = settings()
    made.ledger.lose(10_000, "romeo@example.org")
    got = Driver(C2SMachine(made)).feed(HEADER, plain())
    assert failure(got) == "temporary-auth-failure"


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
    assert driver(early_nonzas=resume).feed(HEADER, "<resume xmlns='urn:xmpp:sm:3'/>").error == "not-authorized"


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
