from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest
from lxml import etree

from beamish.stream.sasl import (
    MECHANISMS,
    Anonymous,
    FailureCondition,
    Offer,
    Plain,
    SaslFailure,
    Scram,
    advertisement,
    binding_types,
    channel_binding_feature,
    negotiate,
    offered,
)
from beamish.stream.sasl.mechanism import NeedKeys

BOUND = Offer(tls=True, bindings={"tls-server-end-point": b"hash", "tls-exporter": b"secret"})


def test_strongest_first() -> None:
    assert offered(replace(BOUND, anonymous=True)) == MECHANISMS
    assert MECHANISMS == (
        "SCRAM-SHA-512-PLUS",
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-512",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "PLAIN",
        "ANONYMOUS",
    )


@pytest.mark.parametrize(
    ("offer", "names"),
    [
        (Offer(tls=True), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"),
        (Offer(tls=False), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1"),
        (Offer(tls=False, bindings={"tls-exporter": b"x"}), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1"),
        (Offer(tls=False, plain_without_tls=True), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"),
        (Offer(tls=True, plain=False), "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1"),
        (replace(BOUND, plain=False, algorithms=frozenset({"SHA-1"})), "SCRAM-SHA-1-PLUS SCRAM-SHA-1"),
        (replace(BOUND, enabled=frozenset({"PLAIN", "SCRAM-SHA-256-PLUS"})), "SCRAM-SHA-256-PLUS PLAIN"),
        (Offer(tls=True, enabled=frozenset({"ANONYMOUS"})), ""),
        (Offer(tls=True, anonymous=True, enabled=frozenset({"ANONYMOUS"})), "ANONYMOUS"),
        (Offer(tls=True, algorithms=frozenset()), "PLAIN"),
    ],
)
def test_what_is_offered(offer: Offer, names: str) -> None:
    assert " ".join(offered(offer)) == names
    for name in MECHANISMS:
        if name in offered(offer):
            assert negotiate(name, offer).name == name
        else:
            with pytest.raises(SaslFailure):
                negotiate(name, offer)


def test_negotiation_gives_the_right_mechanism() -> None:
    offer = replace(BOUND, anonymous=True)
    assert isinstance(negotiate("SCRAM-SHA-256-PLUS", offer), Scram)
    assert isinstance(negotiate("PLAIN", offer), Plain)
    assert isinstance(negotiate("ANONYMOUS", offer), Anonymous)


@pytest.mark.parametrize(
    "name", ["", "plain", "CRAM-MD5", "SCRAM-SHA-384", "EXTERNAL", "ANONYMOUS", "SCRAM-SHA-1-PLUS"]
)
def test_unknown_or_not_offered(name: str) -> None:
    with pytest.raises(SaslFailure) as caught:
        negotiate(name, Offer(tls=True))
    assert caught.value.condition is FailureCondition.INVALID_MECHANISM


def test_plain_without_tls() -> None:
    with pytest.raises(SaslFailure) as caught:
        negotiate("PLAIN", Offer(tls=False))
    assert caught.value.condition is FailureCondition.ENCRYPTION_REQUIRED
    with pytest.raises(SaslFailure) as caught:
        negotiate("PLAIN", Offer(tls=False, plain=False))
    assert caught.value.condition is FailureCondition.INVALID_MECHANISM


@pytest.mark.parametrize(
    ("name", "enabled", "condition"),
    [
        ("PLAIN", {"SCRAM-SHA-1"}, FailureCondition.MECHANISM_TOO_WEAK),
        ("SCRAM-SHA-1", {"SCRAM-SHA-256", "SCRAM-SHA-512"}, FailureCondition.MECHANISM_TOO_WEAK),
        ("SCRAM-SHA-512", {"SCRAM-SHA-256-PLUS"}, FailureCondition.MECHANISM_TOO_WEAK),
        ("SCRAM-SHA-512", {"SCRAM-SHA-256"}, FailureCondition.INVALID_MECHANISM),
        ("SCRAM-SHA-256", {"PLAIN"}, FailureCondition.INVALID_MECHANISM),
        ("ANONYMOUS", {"SCRAM-SHA-256"}, FailureCondition.INVALID_MECHANISM),
        ("X-UNKNOWN", {"SCRAM-SHA-256"}, FailureCondition.INVALID_MECHANISM),
    ],
)
def test_weaker_than_policy_permits(name: str, enabled: set[str], condition: FailureCondition) -> None:
    """RFC 6120 §6.5.9: what the operator leaves out in favour of something stronger that this stream can have."""
    with pytest.raises(SaslFailure) as caught:
        negotiate(name, replace(BOUND, enabled=frozenset(enabled)))
    assert caught.value.condition is condition


def test_without_channel_binding_nothing_stronger_is_to_be_had() -> None:
    with pytest.raises(SaslFailure) as caught:
        negotiate("SCRAM-SHA-1", Offer(tls=True, enabled=frozenset({"SCRAM-SHA-256-PLUS"})))
    assert caught.value.condition is FailureCondition.INVALID_MECHANISM


def test_channel_binding_feature() -> None:
    feature = channel_binding_feature(BOUND)
    assert feature is not None
    assert feature.tag == "{urn:xmpp:sasl-cb:0}sasl-channel-binding"
    assert [child.tag for child in feature] == ["{urn:xmpp:sasl-cb:0}channel-binding"] * 2
    assert (
        tuple(child.get("type") for child in feature)
        == binding_types(BOUND)
        == (
            "tls-exporter",
            "tls-server-end-point",
        )
    )
    assert b"secret" not in etree.tostring(feature)


@pytest.mark.parametrize(
    "offer",
    [Offer(tls=True), replace(BOUND, tls=False), replace(BOUND, enabled=frozenset({"SCRAM-SHA-1"}))],
)
def test_no_feature_without_plus_mechanisms(offer: Offer) -> None:
    assert channel_binding_feature(offer) is None
    assert b"\x1f" not in advertisement(offer)


def test_a_binding_that_is_not_advertised_serves_all_the_same() -> None:
    offer = replace(BOUND, unnamed_bindings={"tls-unique": b"finished"})
    assert binding_types(offer) == binding_types(BOUND)
    assert advertisement(offer) == advertisement(BOUND)
    first = b"p=tls-unique,,n=romeo,r=abcdef"
    assert isinstance(negotiate("SCRAM-SHA-256-PLUS", offer).start(first), NeedKeys)
    with pytest.raises(SaslFailure):
        negotiate("SCRAM-SHA-256-PLUS", BOUND).start(first)
    assert not any(name.endswith("-PLUS") for name in offered(replace(offer, bindings={})))


def test_example_of_xep_0474() -> None:
    offer = replace(BOUND, plain=False, algorithms=frozenset({"SHA-1"}))
    hashed = hashlib.sha1(advertisement(offer)).digest()
    assert base64.b64encode(hashed) == b"G6k/rBLDqgOhRRaCuuatSDFkJ08="


def test_secrets_are_not_in_the_repr() -> None:
    assert "secret" not in repr(BOUND)
