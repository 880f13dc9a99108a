"""SASL for XMPP, the server's side (RFC 4422, RFC 6120 §6): pure exchanges without I/O.

`negotiate` gives a `Mechanism`; each of its methods returns a `Step` that says what to do next, or raises
`SaslFailure`. EXTERNAL is not here yet: it would be one more file and one more line in `offer`.
"""

from beamish.stream.sasl.anonymous import Anonymous
from beamish.stream.sasl.binding import TLS_EXPORTER, TLS_SERVER_END_POINT, TLS_UNIQUE, tls_server_end_point
from beamish.stream.sasl.failure import FailureCondition, SaslFailure
from beamish.stream.sasl.keys import (
    ALGORITHMS,
    DEFAULT_ITERATIONS,
    SALT_BYTES,
    Algorithm,
    ScramKeys,
    check_password,
    decoy_keys,
    derive_keys,
)
from beamish.stream.sasl.mechanism import Challenge, Mechanism, NeedKeys, NeedPasswordCheck, Step, Success
from beamish.stream.sasl.offer import (
    MECHANISMS,
    Offer,
    advertisement,
    binding_types,
    channel_binding_feature,
    negotiate,
    offered,
)
from beamish.stream.sasl.payload import decode_payload, encode_payload
from beamish.stream.sasl.plain import Plain
from beamish.stream.sasl.prep import SaslPrepError, saslprep
from beamish.stream.sasl.scram import Scram

__all__ = [
    "ALGORITHMS",
    "DEFAULT_ITERATIONS",
    "MECHANISMS",
    "SALT_BYTES",
    "TLS_EXPORTER",
    "TLS_SERVER_END_POINT",
    "TLS_UNIQUE",
    "Algorithm",
    "Anonymous",
    "Challenge",
    "FailureCondition",
    "Mechanism",
    "NeedKeys",
    "NeedPasswordCheck",
    "Offer",
    "Plain",
    "SaslFailure",
    "SaslPrepError",
    "Scram",
    "ScramKeys",
    "Step",
    "Success",
    "advertisement",
    "binding_types",
    "channel_binding_feature",
    "check_password",
    "decode_payload",
    "decoy_keys",
    "derive_keys",
    "encode_payload",
    "negotiate",
    "offered",
    "saslprep",
    "tls_server_end_point",
]
