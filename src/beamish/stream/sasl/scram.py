"""RFC 5802 and RFC 7677: SCRAM, with and without channel binding; XEP-0474 and XEP-0515: downgrade protection.

The errors of RFC 5802 §7 (`server-error-value`) are not sent as a server-final-message, which §5.1 leaves to the
server, but as SASL failures: what breaks the syntax, or asks for what is not offered, is `malformed-request`; a proof,
nonce or channel binding that does not fit is `not-authorized`.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Mapping

from beamish.stream.sasl.failure import FailureCondition, SaslFailure
from beamish.stream.sasl.keys import Algorithm, ScramKeys, digest, mac
from beamish.stream.sasl.mechanism import Mechanism, Step, Success
from beamish.stream.sasl.payload import decode_base64
from beamish.stream.sasl.prep import SaslPrepError, saslprep

NONCE_BYTES = 18
"""Randomness in the server's part of the nonce, before base 64."""

# RFC 5802 §7. `printable` is ASCII from "!" to "~" without the comma; `value` is anything but NUL and the comma.
_EXTENSIONS = r"(?P<extensions>(?:,[A-Za-z]=[^\0,]+)*)"
_NONCE = r"r=(?P<nonce>[!-+\--~]+)"
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_GS2_HEADER = re.compile(r"(?:(?P<flag>[ny])|p=(?P<type>[A-Za-z0-9.-]+)),(?:a=(?P<authzid>[^\0,]+))?,")
_FIRST_BARE = re.compile(rf"n=(?P<username>[^\0,]+),{_NONCE}{_EXTENSIONS}")
_FINAL = re.compile(rf"(?P<unproved>c=(?P<binding>{_BASE64}),{_NONCE}{_EXTENSIONS}),p=(?P<proof>{_BASE64})")
_STRAY_EQUALS = re.compile(r"=(?!2C|3D)")


class Scram(Mechanism):
    """SCRAM with one hash function.

    `bindings` maps the channel binding types that this stream has to their data; `plus` says whether the mechanism is
    the -PLUS variant, which must use one of them. `plus_advertised` says whether any -PLUS variant was offered: a
    client that knows channel binding and has not seen one was lied to by somebody in between. `advertised` is what
    XEP-0474 hashes (None: the attribute is left out), `tls_version` what XEP-0515 tells ("" likewise), `nonce` the server's
    part of the nonce (None: random).
    """

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        plus: bool = False,
        bindings: Mapping[str, bytes] | None = None,
        plus_advertised: bool = False,
        advertised: bytes | None = None,
        tls_version: str = "",
        nonce: str | None = None,
    ) -> None:
        self.name = f"SCRAM-{algorithm}-PLUS" if plus else f"SCRAM-{algorithm}"
        self._algorithm = algorithm
        self._plus = plus
        self._bindings = bindings or {}
        self._plus_advertised = plus_advertised
        self._advertised = advertised
        self._tls_version = tls_version
        self._nonce = secrets.token_urlsafe(NONCE_BYTES) if nonce is None else nonce
        self._username = ""
        self._authzid = ""
        self._first_bare = ""
        self._server_first = ""
        self._expected_binding = ""
        self._stored: ScramKeys | None = None
        self._exists = False

    def _first(self, data: bytes) -> Step:
        text = _text(data)
        header = _GS2_HEADER.match(text)
        if header is None:
            raise _malformed("no GS2 header")
        binding = self._choose_binding(header["flag"], header["type"])
        bare = text[header.end() :]
        message = _FIRST_BARE.fullmatch(bare)
        if bare.startswith("m=") or (message is not None and ",m=" in message["extensions"]):
            raise _malformed("mandatory extensions are not supported")
        if message is None:
            raise _malformed("not a client-first-message")
        if header["authzid"] is not None:
            self._authzid = _saslname(header["authzid"])
        username = _saslname(message["username"])
        try:
            self._username = saslprep(username, stored=False)
        except SaslPrepError:
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED) from None
        self._first_bare = bare  # RFC 5802 §5.1: hashed as received, whatever preparation made of the name
        self._nonce = message["nonce"] + self._nonce
        self._expected_binding = _base64(header[0].encode() + binding)
        return self._ask_for_keys(self._username, self._algorithm)

    def _choose_binding(self, flag: str | None, kind: str | None) -> bytes:
        """RFC 5802 §6: the channel binding data that the client means; b"" if it binds to nothing."""
        if kind is not None:
            if not self._plus:
                raise _malformed("channel binding is for the -PLUS mechanisms")
            if kind not in self._bindings:
                raise _malformed("unsupported channel binding type")
            return self._bindings[kind]
        if self._plus:
            raise _malformed("a -PLUS mechanism without channel binding")
        if flag == "y" and self._plus_advertised:
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED, "this server does support channel binding")
        return b""

    def _keys(self, keys: ScramKeys, exists: bool) -> Step:
        if keys.algorithm != self._algorithm:
            raise RuntimeError(f"keys for {keys.algorithm} cannot serve {self.name}")
        self._stored = keys
        self._exists = exists
        server_first = f"r={self._nonce},s={_base64(keys.salt)},i={keys.iterations}"
        if self._advertised is not None:
            server_first = f"{server_first},h={_base64(digest(self._algorithm, self._advertised))}"
        if self._tls_version:
            server_first = f"{server_first},t={self._tls_version}"
        self._server_first = server_first
        return self._challenge(server_first.encode())

    def _response(self, data: bytes) -> Step:
        stored = self._stored
        assert stored is not None  # the challenge was made of them
        message = _FINAL.fullmatch(_text(data))
        if message is None:
            raise _malformed("not a client-final-message")
        if ",m=" in message["extensions"]:
            raise _malformed("mandatory extensions are not supported")
        try:
            proof = decode_base64(message["proof"])
        except ValueError:
            raise _malformed("the proof is not base 64") from None
        if not hmac.compare_digest(message["nonce"], self._nonce):
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED, "not the nonce of this exchange")
        if not hmac.compare_digest(message["binding"], self._expected_binding):
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED, "the channel binding does not match")
        auth_message = f"{self._first_bare},{self._server_first},{message['unproved']}".encode()
        signature = mac(self._algorithm, stored.stored_key, auth_message)
        # A proof of another length cannot be right; it must not be cut to fit either.
        client_key = (
            bytes(a ^ b for a, b in zip(proof, signature, strict=False)) if len(proof) == len(signature) else b""
        )
        proved = hmac.compare_digest(digest(self._algorithm, client_key), stored.stored_key)
        if not (proved and self._exists):
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED)
        verifier = _base64(mac(self._algorithm, stored.server_key, auth_message))
        return Success(self._username, self._authzid, f"v={verifier}".encode())


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _malformed("not UTF-8") from None


def _saslname(value: str) -> str:
    """RFC 5802 §5.1: `=2C` is a comma, `=3D` an equals sign, and no other `=` may stand."""
    if "=" not in value:
        return value
    if _STRAY_EQUALS.search(value) is not None:
        raise _malformed("a name with an equals sign that is not escaped")
    return value.replace("=2C", ",").replace("=3D", "=")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _malformed(text: str) -> SaslFailure:
    return SaslFailure(FailureCondition.MALFORMED_REQUEST, text)
