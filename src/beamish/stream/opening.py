"""The opening of a client stream: whether its header will do, our own header, and what is offered (RFC 6120 §4.3, §4.7)."""

from __future__ import annotations

from beamish.stream import features as feat
from beamish.stream.events import Event, StreamOpened
from beamish.stream.features import Has, StreamFeature
from beamish.stream.items import StreamHeader
from beamish.stream.sasl import TLS_EXPORTER, TLS_SERVER_END_POINT, TLS_UNIQUE, Offer, binding_types, offered
from beamish.stream.settings import ALL_ALGORITHMS, C2SSettings, State
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import escape_attr


def is_one_or_more(version: str) -> bool:
    """Whether a version is at least 1.0 (RFC 6120 §4.7.5). The numbers may be of any length."""
    major, dot, minor = version.partition(".")
    return bool(dot) and (major + minor).isascii() and major.isdigit() and minor.isdigit() and major.strip("0") != ""


class Opening:
    """What a stream knows of itself, and how it is opened; the rest of its life is `stream.machine`'s.

    `secure`: the transport is TLS. `binding` is the `tls-server-end-point` value of the connection, if there is one.
    """

    __slots__ = (
        "_algorithms",
        "_binding",
        "_claimed",
        "_exporter",
        "_header_sent",
        "_out",
        "_peer",
        "_settings",
        "_tls_offered",
        "_tls_version",
        "_unique",
        "authenticated",
        "domain",
        "jid",
        "secure",
        "state",
        "stream_id",
    )

    def __init__(self, settings: C2SSettings, *, secure: bool, binding: bytes | None) -> None:
        self._settings = settings
        self._algorithms = ALL_ALGORITHMS
        self._binding = binding
        self._exporter: bytes | None = None
        self._unique: bytes | None = None
        self._tls_version = ""
        self._tls_offered = not secure
        self._peer: JID | None = None
        self._claimed: JID | None = None
        """Who the peer said it is, in a protected stream header."""
        self._out: list[bytes] = []
        self._header_sent = False
        self.state = State.HEADER
        self.domain = ""
        self.stream_id = ""
        self.jid: JID | None = None
        self.secure = secure
        self.authenticated = False

    def _opened(self, header: StreamHeader) -> list[Event]:
        domain = self._domain_of(header)
        try:
            peer = JID.parse(header.sender).bare if header.sender else None
            # sendxmpp and all that is made of Net::XMPP name their machine, which is nobody
            named = peer if peer is not None and peer.local else None
            wrong = named is not None and self.jid is not None and named != self.jid.bare
        except JidMalformed:  # names of machines are no domains sometimes, as with an underscore
            peer, named, wrong = None, None, "@" in (header.sender or "")
        # the answer to an unacceptable header is a whole stream of its own (RFC 6120 §4.9.1.2), addressed by these
        self._peer = peer
        self.domain = domain or ""
        if header.content_ns not in ("", ns.CLIENT, ns.STREAM):
            raise StreamError(StreamErrorCondition.INVALID_NAMESPACE, f"the content namespace is {ns.CLIENT}")
        if not header.to:
            raise StreamError(StreamErrorCondition.IMPROPER_ADDRESSING, "a stream header to a server needs a 'to'")
        if domain is None or (self.jid is not None and domain != self.jid.domain):
            raise StreamError(StreamErrorCondition.HOST_UNKNOWN)
        if not is_one_or_more(header.version):
            raise StreamError(StreamErrorCondition.UNSUPPORTED_VERSION)
        if wrong:
            raise StreamError(StreamErrorCondition.INVALID_FROM)
        self._claimed = named if self.secure else None
        self._send_header()
        self._send_features()
        self.state = State.OFFERED
        return [StreamOpened(header, domain)]

    def _domain_of(self, header: StreamHeader) -> str | None:
        """Which of our hosts the peer wants, None if it is none."""
        try:
            to = JID.parse(header.to)
        except JidMalformed:
            return None
        return to.domain if to == to.domain and self._settings.serves(to.domain) else None

    def _send_header(self) -> None:
        self.stream_id = self._settings.new_id()
        to = f" to='{escape_attr(self._peer)}'" if self._peer is not None else ""
        domain = escape_attr(self.domain or self._settings.default_domain)
        self._out.append(
            f"<?xml version='1.0'?><stream:stream xmlns='{ns.CLIENT}' xmlns:stream='{ns.STREAM}' "
            f"id='{self.stream_id}' from='{domain}'{to} version='1.0' xml:lang='en'>".encode()
        )
        self._header_sent = True

    def _send_features(self) -> None:
        domain = self.domain or self._settings.default_domain
        bound = self._binding is not None, self._exporter is not None
        self._algorithms = self._settings.algorithms(domain)
        key = (domain, self.secure, self.authenticated, self._tls_offered, bound, self._algorithms)
        offers = self._settings.offers
        parts = offers.get(key)
        if parts is None:
            parts = offers[key] = feat.joined(self._features())
        self._out += [part if type(part) is bytes else part(domain) for part in parts]  # type: ignore[operator]

    def _features(self) -> list[bytes | StreamFeature]:
        """What stands between the tags of `<stream:features/>`: the same for all streams in the same situation."""
        out: list[bytes | StreamFeature] = []
        have = Has.NOTHING
        if self.secure:
            have |= Has.SECURE
        if self.authenticated:
            have |= Has.AUTHENTICATED
        else:
            if self._may_start_tls():
                out.append(feat.starttls(self._settings.require_tls))
            offer = self._offer()
            if self.secure or not self._settings.require_tls:
                out.append(feat.mechanisms(offered(offer), binding_types(offer)))
        offers = () if self._only_tls() else (feat.BIND, feat.SESSION, *self._settings.features)
        return [*out, *(feature for feature in offers if feature.offered(have))]

    def _only_tls(self) -> bool:
        """RFC 6120 §5.3.1: nothing else is to be had before TLS, where that is required."""
        return self._settings.require_tls and not self.secure

    def _may_start_tls(self) -> bool:
        return self._tls_offered and not self.secure and not self.authenticated

    def _offer(self) -> Offer:
        bindings = (TLS_SERVER_END_POINT, self._binding), (TLS_EXPORTER, self._exporter)
        return Offer(
            tls=self.secure,
            bindings={kind: data for kind, data in bindings if data is not None},
            unnamed_bindings={} if self._unique is None else {TLS_UNIQUE: self._unique},
            tls_version=self._tls_version,
            plain_without_tls=not self._settings.require_tls,
            anonymous=self._settings.anonymous,
            enabled=self._settings.mechanisms,
            algorithms=self._algorithms,
        )
