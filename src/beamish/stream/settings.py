"""What a client stream offers and tolerates, and where it can stand."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from beamish.stream.features import StreamFeature
from beamish.stream.gate import ParserLimits
from beamish.stream.names import NameLedger
from beamish.stream.sasl.keys import ALGORITHMS, Algorithm

ALL_ALGORITHMS: Final[frozenset[Algorithm]] = frozenset(ALGORITHMS)


class State(Enum):
    """Where a stream stands; see the drawing at the head of `stream.machine`."""

    HEADER = auto()
    OFFERED = auto()
    TLS = auto()
    SASL = auto()
    ASKING = auto()
    BINDING = auto()
    BOUND = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class C2SSettings:
    """What a client stream of this server offers and tolerates. One object serves all streams."""

    serves: Callable[[str], bool]
    """Whether a prepared domain is one of ours."""
    new_id: Callable[[], str]
    """A fresh unguessable string (RFC 6120 §4.7.3), also the localpart of anonymous users."""
    ledger: NameLedger
    """Of all streams: which names of elements and attributes libxml2 has been given to keep."""
    default_domain: str
    """Who we are in answer to a header that says nobody of ours."""
    limits: ParserLimits = field(default_factory=ParserLimits)
    unauthenticated_bytes: int = 32_768
    sasl_attempts: int = 5
    bind_attempts: int = 10
    """Refused bind requests before the stream is closed; RFC 6120 §7.7.3 asks for 5 to 10."""
    require_tls: bool = True
    anonymous: bool = False
    mechanisms: frozenset[str] | None = None
    """Only these SASL mechanisms, if given."""
    algorithms: Callable[[str], frozenset[Algorithm]] = lambda domain: ALL_ALGORITHMS
    """The hash functions for which all accounts of a domain have keys; mechanisms of others are not offered."""
    features: tuple[StreamFeature, ...] = ()
    """Offered in this order after resource binding and session."""
    early_nonzas: frozenset[str] = frozenset()
    """Elements that may take the place of resource binding (resumption)."""
    early_iqs: frozenset[str] = frozenset()
    """Payloads in Clark notation of IQs that are served before authentication (registration).

    What else such an IQ may hold must be made known with `NameLedger.learn`; a stranger's other names do not come through.
    """

    offers: dict[Hashable, tuple[bytes | Callable[[str], bytes], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What streams are offered, in parts, by what they have: filled as streams come by, a few entries for each host."""

    def __post_init__(self) -> None:
        self.ledger.learn(self.early_nonzas | self.early_iqs)
