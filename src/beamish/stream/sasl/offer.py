"""RFC 6120 §6.3.3 and §6.3.4: which mechanisms a stream offers, in order of strength, and the start of one of them.

Also XEP-0440 (which channel binding types there are) and what XEP-0474 makes a hash of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from beamish.stream.sasl.anonymous import Anonymous
from beamish.stream.sasl.failure import FailureCondition, SaslFailure
from beamish.stream.sasl.keys import ALGORITHMS, Algorithm
from beamish.stream.sasl.mechanism import Mechanism
from beamish.stream.sasl.plain import Plain
from beamish.stream.sasl.scram import Scram
from beamish.xmpp import ns
from beamish.xmpp.xml import Element, make

# Strongest first. Channel binding counts for more than the hash: it is what finds out an attacker in between.
_SCRAM: Final[dict[str, tuple[Algorithm, bool]]] = {
    f"SCRAM-{algorithm}{'-PLUS' if plus else ''}": (algorithm, plus)
    for plus in (True, False)
    for algorithm in reversed(ALGORITHMS)
}
_BY_STRENGTH: Final[tuple[str, ...]] = (*_SCRAM, "PLAIN")
MECHANISMS: Final[tuple[str, ...]] = (*_BY_STRENGTH, "ANONYMOUS")
"""Every mechanism there is, strongest first; what `Offer.enabled` may name."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a stream has and what the operator allows.

    tls: the stream is encrypted.
    bindings: channel binding type → its data on this connection; without TLS they count for nothing.
    unnamed_bindings: the same for types that clients may use, but that are not advertised.
    tls_version: the number of the version of TLS, as in `0304`, for XEP-0515; "" if unknown.
    plain: PLAIN may be used under TLS; `plain_without_tls`: also outside it (testing, trusted networks).
    anonymous: anybody may come in (RFC 4505 §5: off unless the operator decides otherwise).
    enabled: mechanisms that the configuration names; None for all.
    algorithms: hash functions that accounts have keys for.
    downgrade_protection: XEP-0474 and XEP-0515, the attributes `h` and `t` in SCRAM.
    """

    tls: bool
    bindings: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    unnamed_bindings: Mapping[str, bytes] = field(default_factory=dict, repr=False, kw_only=True)
    tls_version: str = field(default="", kw_only=True)
    plain: bool = True
    plain_without_tls: bool = False
    anonymous: bool = False
    enabled: frozenset[str] | None = None
    algorithms: frozenset[Algorithm] = frozenset(ALGORITHMS)
    downgrade_protection: bool = True


def offered(offer: Offer) -> tuple[str, ...]:
    """The mechanisms to advertise, strongest first. May be empty."""
    return _offered(
        offer.tls,
        bool(offer.bindings),
        offer.plain,
        offer.plain_without_tls,
        offer.anonymous,
        offer.enabled,
        offer.algorithms,
    )


@lru_cache(maxsize=64)
def _offered(
    tls: bool,
    bound: bool,
    plain: bool,
    plain_without_tls: bool,
    anonymous: bool,
    enabled: frozenset[str] | None,
    algorithms: frozenset[Algorithm],
) -> tuple[str, ...]:
    offer = Offer(tls, {"any": b""} if bound else {}, plain, plain_without_tls, anonymous, enabled, algorithms)
    return tuple(name for name in MECHANISMS if _permitted(name, offer))


def binding_types(offer: Offer) -> tuple[str, ...]:
    """The channel binding types to advertise by XEP-0440, sorted; empty if no -PLUS mechanism is offered."""
    if not any(name.endswith("-PLUS") for name in offered(offer)):
        return ()
    return tuple(sorted(offer.bindings))


def channel_binding_feature(offer: Offer) -> Element | None:
    """XEP-0440 §2: `<sasl-channel-binding/>`, to stand beside `<mechanisms/>`; None if there is nothing to bind to."""
    types = binding_types(offer)
    if not types:
        return None
    children = (make(f"{{{ns.SASL_CB}}}channel-binding", {"type": kind}) for kind in types)
    return make(f"{{{ns.SASL_CB}}}sasl-channel-binding", None, *children)


def advertisement(offer: Offer) -> bytes:
    """XEP-0474 §5.1: the text whose hash goes into the server-first-message. It holds only if what `offered` and
    `channel_binding_feature` give is what was advertised."""
    return _advertisement(offered(offer), binding_types(offer))


@lru_cache(maxsize=64)
def _advertisement(names: tuple[str, ...], types: tuple[str, ...]) -> bytes:
    text = "\x1e".join(sorted(names))
    if types:
        text += "\x1f" + "\x1e".join(types)
    return text.encode()


def negotiate(name: str, offer: Offer) -> Mechanism:
    """A fresh exchange by the mechanism that a client asked for.

    Raises `SaslFailure`: encryption-required for PLAIN that TLS would allow, mechanism-too-weak for one that the
    configuration leaves out in favour of stronger ones (RFC 6120 §6.5.9), invalid-mechanism for all else that is not offered.
    """
    if not _permitted(name, offer):
        if name == "PLAIN" and not offer.tls and offer.plain and _enabled(name, offer):
            raise SaslFailure(FailureCondition.ENCRYPTION_REQUIRED)
        if name in _BY_STRENGTH and not _enabled(name, offer) and _offers_stronger(name, offer):
            raise SaslFailure(FailureCondition.MECHANISM_TOO_WEAK)
        raise SaslFailure(FailureCondition.INVALID_MECHANISM)
    if name in _SCRAM:
        algorithm, plus = _SCRAM[name]
        return Scram(
            algorithm,
            plus=plus,
            bindings={**offer.unnamed_bindings, **offer.bindings},
            plus_advertised=bool(binding_types(offer)),
            advertised=advertisement(offer) if offer.downgrade_protection else None,
            tls_version=offer.tls_version if offer.downgrade_protection else "",
        )
    return _OTHERS[name]()


_OTHERS: Final[dict[str, Callable[[], Mechanism]]] = {"PLAIN": Plain, "ANONYMOUS": Anonymous}


def _offers_stronger(name: str, offer: Offer) -> bool:
    return any(stronger in _BY_STRENGTH[: _BY_STRENGTH.index(name)] for stronger in offered(offer))


def _enabled(name: str, offer: Offer) -> bool:
    return offer.enabled is None or name in offer.enabled


def _permitted(name: str, offer: Offer) -> bool:
    if not _enabled(name, offer):
        return False
    if name in _SCRAM:
        algorithm, plus = _SCRAM[name]
        return algorithm in offer.algorithms and (not plus or (offer.tls and bool(offer.bindings)))
    if name == "PLAIN":
        return offer.plain_without_tls or (offer.plain and offer.tls)
    return name == "ANONYMOUS" and offer.anonymous
