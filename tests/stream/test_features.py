"""Stream features: when they are offered, how they are written, and what is joined once for all streams."""

from __future__ import annotations

import pytest
from lxml import etree
from tests.stream.driver import HEADER, bound, driver, logged_in

from beamish.stream import features
from beamish.stream.features import BIND, SESSION, Has, StreamFeature, joined
from beamish.xmpp import ns

WAYS = [
    Has.NOTHING,
    Has.SECURE,
    Has.AUTHENTICATED,
    Has.SECURE | Has.AUTHENTICATED,
    Has.SECURE | Has.AUTHENTICATED | Has.BOUND,
]


@pytest.mark.parametrize(
    ("needs", "forbids", "expected"),
    [
        (Has.AUTHENTICATED, Has.BOUND, [False, False, True, True, False]),
        (Has.NOTHING, Has.AUTHENTICATED, [True, True, False, False, False]),
        (Has.NOTHING, Has.NOTHING, [True, True, True, True, True]),
        (Has.SECURE, Has.BOUND, [False, True, False, True, False]),
        (Has.SECURE | Has.AUTHENTICATED, Has.BOUND, [False, False, False, True, False]),
        (Has.BOUND, Has.NOTHING, [False, False, False, False, True]),
        (Has.NOTHING, Has.SECURE | Has.BOUND, [True, False, True, False, False]),
    ],
)
def test_when_a_feature_is_offered(needs: Has, forbids: Has, expected: list[bool]) -> None:
    feature = StreamFeature(b"<x xmlns='urn:x'/>", needs=needs, forbids=forbids)
    assert [feature.offered(have) for have in WAYS] == expected


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (features.starttls(True), f"<starttls xmlns='{ns.TLS}'><required/></starttls>"),
        (features.starttls(False), f"<starttls xmlns='{ns.TLS}'/>"),
        (
            features.mechanisms(("SCRAM-SHA-256", "PLAIN")),
            f"<mechanisms xmlns='{ns.SASL}'><mechanism>SCRAM-SHA-256</mechanism><mechanism>PLAIN</mechanism></mechanisms>",
        ),
        (features.limits(1000, None), f"<limits xmlns='{ns.LIMITS}'><max-bytes>1000</max-bytes></limits>"),
        (
            features.limits(1000, 60),
            f"<limits xmlns='{ns.LIMITS}'><max-bytes>1000</max-bytes><idle-seconds>60</idle-seconds></limits>",
        ),
        (BIND.xml, f"<bind xmlns='{ns.BIND}'/>"),
        (SESSION.xml, f"<session xmlns='{ns.SESSION}'><optional/></session>"),
    ],
)
def test_how_they_are_written(xml: bytes, expected: str) -> None:
    """RFC 6120 §5.4.1, §6.4.1, §7.4; XEP-0478."""
    assert etree.canonicalize(xml.decode()) == etree.canonicalize(expected)


def test_channel_binding_types_stand_beside_the_mechanisms() -> None:
    """XEP-0440 §2: a feature of its own."""
    offered = etree.fromstring(b"<f>" + features.mechanisms(("X",), ("tls-exporter", "tls-server-end-point")) + b"</f>")
    assert [str(el.tag) for el in offered] == [f"{{{ns.SASL}}}mechanisms", f"{{{ns.SASL_CB}}}sasl-channel-binding"]
    assert [el.get("type") for el in offered[1]] == ["tls-exporter", "tls-server-end-point"]


def test_what_stays_the_same_is_joined() -> None:
    made = [f"<n>{n}</n>".encode() for n in range(2)]

    def of_domain(domain: str) -> bytes:
        return domain.encode()

    assert joined([]) == (b"<stream:features></stream:features>",)
    assert joined([made[0], StreamFeature(made[1])]) == (b"<stream:features><n>0</n><n>1</n></stream:features>",)
    parts = joined([made[0], StreamFeature(b"", of_domain=of_domain), made[1]])
    assert parts == (b"<stream:features><n>0</n>", of_domain, b"<n>1</n></stream:features>")


def offered(out: bytes) -> list[str]:
    """Names of the features sent last, in order (XEP-0170)."""
    sent = out[out.rindex(b"<stream:features>") :].replace(b"stream:features", b"features")
    return [str(el.tag).rpartition("}")[2] for el in etree.fromstring(sent)]


def test_each_stream_is_offered_what_fits_it() -> None:
    own = (
        StreamFeature(b"<early xmlns='urn:x'/>", needs=Has.NOTHING, forbids=Has.AUTHENTICATED),
        StreamFeature(b"<late xmlns='urn:x'/>"),
        StreamFeature(b"<both xmlns='urn:x'/>", needs=Has.NOTHING),
        StreamFeature(b"<safe xmlns='urn:x'/>", needs=Has.SECURE),
    )
    assert offered(driver(features=own).feed(HEADER).out) == ["starttls", "mechanisms", "early", "both"]
    assert offered(driver(features=own, require_tls=True).feed(HEADER).out) == ["starttls"]
    assert offered(logged_in(features=own).out) == ["bind", "session", "late", "both"]
    secure = driver(features=own, secure=True, binding=b"x").feed(HEADER)
    assert offered(secure.out) == ["mechanisms", "sasl-channel-binding", "early", "both", "safe"]


def test_streams_of_one_server_do_not_share_what_they_must_not() -> None:
    """The same settings serve all streams: with TLS and without, to every host, before and after authentication."""
    own = (StreamFeature(b"", needs=Has.NOTHING, of_domain=lambda domain: f"<of xmlns='urn:x'>{domain}</of>".encode()),)
    first = driver(features=own)
    settings = first.machine._settings
    first.feed(HEADER)
    for domain in ("example.org", "example.net"):
        for secure in (False, True):
            other = driver(secure=secure)
            other.machine._settings = settings
            other.feed(HEADER.replace("example.org", domain))
            assert f">{domain}</of>".encode() in other.out
            assert ("starttls" in offered(other.out)) is not secure
    assert len(settings.offers) == 4


def test_a_bound_stream_has_had_its_features() -> None:
    assert bound().out.count(b"<stream:features>") == 2
