"""Whom this server talks to, and the bounds of server streams."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class S2SLimits:
    """Bounds of server streams; `[s2s]` of the configuration has them with their reasons."""

    connect_seconds: float = 10.0
    negotiation_seconds: float = 30.0
    retry_seconds: float = 20.0
    backoff_seconds: float = 60.0
    answer_seconds: float = 60.0
    idle_seconds: float = 600.0
    resume_seconds: float = 60.0
    queue_stanzas: int = 2_000
    queue_bytes: int = 4_194_304
    queue_bytes_in_all: int = 134_217_728
    routes: int = 10_000
    resumable: int = 1_000
    verifications: int = 200
    verifications_each: int = 20
    """Of one address (for IPv6, one network)."""
    openings: int = 200
    """Streams that are being opened at a time, from the first question to the DNS on."""
    openings_each: int = 20
    """Of them, at the wish of one account, room or service."""
    domains_waited_for: int = 500
    streams_per_domain: int = 20
    connections_per_address: int = 200
    stanzas_per_second: float = 500.0
    stanza_burst: float = 10_000.0
    bytes_per_second: float = 4_000_000.0
    bytes_burst: float = 16_000_000.0
    unsent_bytes: int = 16_777_216
    presences: int = 200_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may talk to us. A domain in a list stands for its subdomains too; the longest entry that fits decides."""

    open: bool = True
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    require_verified: bool = True
    unverified: frozenset[str] = frozenset()
    """Domains whose certificates need not hold; dialback vouches for them."""

    def refusal(self, domain: str) -> str:
        """Why a domain may not talk to us; "" if it may."""
        allowed, denied = _fit(domain, self.allow), _fit(domain, self.deny)
        if denied > allowed or (denied and denied == allowed):
            return f"this server does not talk to {domain}"
        if not self.open and not allowed:
            return "this server only talks to domains it was told about"
        return ""

    def must_verify(self, domain: str) -> bool:
        """Whether the certificate of a domain must hold."""
        return self.require_verified and not _fit(domain, self.unverified)


def _fit(domain: str, entries: frozenset[str]) -> int:
    """The length of the longest entry that is the domain or one above it; 0 if there is none."""
    while domain not in entries:
        _, dot, domain = domain.partition(".")
        if not dot:
            return 0
    return len(domain)
