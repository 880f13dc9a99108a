"""RFC 4422 §3: the server's side of an authentication exchange, as an object that is told what came and says what next.

A mechanism never waits: where it needs the database or a password hash it returns a step that says so, and goes on when
it is given the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from beamish.stream.sasl.failure import FailureCondition, SaslFailure
from beamish.stream.sasl.keys import Algorithm, ScramKeys

MAX_MESSAGE_BYTES = 8192
"""Client messages beyond this are refused before they are looked at. Three names of 1023 bytes, escaped, still fit."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send `data` to the client and give its response to `Mechanism.respond`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """Look up the keys of `username` for `algorithm`; answer with `Mechanism.keys`.

    `username` went through SASLprep and is still to be made a localpart (`xmpp.jid.prepare_local`). If that fails, or
    there is no such user: `decoy_keys` and `exists=False`.
    """

    username: str
    algorithm: Algorithm


@dataclass(frozen=True, slots=True)
class NeedPasswordCheck:
    """Compare `password` with what is stored for `username` (as in `NeedKeys`); answer with `password_checked`.

    For an unknown user check it against `decoy_keys` all the same, or the time taken tells who exists.
    """

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Success:
    """The client is `username` (as in `NeedKeys`; "" for ANONYMOUS: the caller makes up a name).

    `authzid` is whom it wants to act as, "" for itself; it is unchecked: anything but the bare JID of `username` is
    for the caller to refuse with `invalid-authzid` (RFC 6120 §6.3.8). `data` goes into `<success/>`, None for nothing.
    """

    username: str
    authzid: str
    data: bytes | None


Step: TypeAlias = Challenge | NeedKeys | NeedPasswordCheck | Success


class _Awaiting(Enum):
    START = auto()
    FIRST = auto()
    RESPONSE = auto()
    KEYS = auto()
    VERDICT = auto()
    NOTHING = auto()


class Mechanism(ABC):
    """One exchange; used once. Every method may raise `SaslFailure`, after which the object is spent.

    Responses that nobody asked for are a failure (the client's mistake); answers to a step that was not returned raise
    `RuntimeError` (ours).
    """

    name: str
    _awaiting = _Awaiting.START

    def start(self, initial: bytes | None) -> Step:
        """Begin, with the initial response (None if there was none; then the client is asked for it)."""
        self._expect(_Awaiting.START)
        if initial is None:
            # RFC 4422 §5, client-first mechanisms: an empty challenge is the way to ask.
            self._awaiting = _Awaiting.FIRST
            return Challenge(b"")
        return self._first(_bounded(initial))

    def respond(self, data: bytes) -> Step:
        """Go on with the client's answer to a challenge."""
        awaited, self._awaiting = self._awaiting, _Awaiting.NOTHING
        if awaited is _Awaiting.FIRST:
            return self._first(_bounded(data))
        if awaited is _Awaiting.RESPONSE:
            return self._response(_bounded(data))
        raise SaslFailure(FailureCondition.MALFORMED_REQUEST, "a response without a challenge")

    def keys(self, keys: ScramKeys, exists: bool) -> Step:
        """Go on with the stored keys; see `NeedKeys`."""
        self._expect(_Awaiting.KEYS)
        return self._keys(keys, exists)

    def password_checked(self, ok: bool) -> Step:
        """Go on with the verdict; see `NeedPasswordCheck`."""
        self._expect(_Awaiting.VERDICT)
        return self._verdict(ok)

    def _expect(self, awaiting: _Awaiting) -> None:
        if self._awaiting is not awaiting:
            raise RuntimeError(f"{self.name} waits for {self._awaiting.name}, not for {awaiting.name}")
        self._awaiting = _Awaiting.NOTHING

    def _ask_for_keys(self, username: str, algorithm: Algorithm) -> NeedKeys:
        self._awaiting = _Awaiting.KEYS
        return NeedKeys(username, algorithm)

    def _ask_for_verdict(self, username: str, password: str) -> NeedPasswordCheck:
        self._awaiting = _Awaiting.VERDICT
        return NeedPasswordCheck(username, password)

    def _challenge(self, data: bytes) -> Challenge:
        self._awaiting = _Awaiting.RESPONSE
        return Challenge(data)

    @abstractmethod
    def _first(self, data: bytes) -> Step:
        """The client's first message."""

    def _response(self, data: bytes) -> Step:
        raise NotImplementedError  # pragma: no cover  # only for mechanisms that send a challenge

    def _keys(self, keys: ScramKeys, exists: bool) -> Step:
        raise NotImplementedError  # pragma: no cover  # only for mechanisms that ask for keys

    def _verdict(self, ok: bool) -> Step:
        raise NotImplementedError  # pragma: no cover  # only for mechanisms that ask for a verdict


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE_BYTES:
        raise SaslFailure(FailureCondition.MALFORMED_REQUEST, "too long")
    return data
