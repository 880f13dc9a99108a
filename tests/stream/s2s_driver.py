"""The two machines of a server stream, made and joined by byte strings."""

from random import Random
from typing import Any

from beamish.stream.dialback import DialbackSecret
from beamish.stream.names import NameLedger
from beamish.stream.parser import ParserLimits
from beamish.stream.s2s import S2SSettings, StartTls
from beamish.stream.s2s_in import KeyToVerify, S2SIn
from beamish.stream.s2s_out import S2SOut

LIMITS = ParserLimits(stanza_bytes=10_000)
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
    "xmlns:db='jabber:server:dialback' from='a.example' to='b.example' version='1.0'>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
EXTERNAL = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>YS5leGFtcGxl</auth>"


def settings(*served: str, **changes: Any) -> S2SSettings:
    count = iter(range(1000))
    values: dict[str, Any] = {
        "serves": lambda domain: domain in served,
        "new_id": lambda: f"id-{served[0]}-{next(count)}",
        "ledger": NameLedger(unauthenticated=0),
        "secret": DialbackSecret(f"the secret of {served[0]}".encode()),
        "limits": LIMITS,
    }
    return S2SSettings(**(values | changes))


def holds(_domain: str) -> str:
    return ""


def admitted(_domain: str) -> str:
    return ""


class Pair:
    """a.example opens a stream to b.example; both sides' events are collected."""

    def __init__(
        self, *, certificate: bool = True, crumbs: Random | None = None, trusted: bool = True, **theirs: Any
    ) -> None:
        self.a_settings, self.b_settings = settings("a.example"), settings("b.example", "c.example", **theirs)
        self.out = S2SOut(self.a_settings, "a.example", "b.example")
        self.into = S2SIn(self.b_settings, admitted)
        self.certificate = certificate
        self.crumbs = crumbs
        self.trusted = trusted
        self.out_events: list[Any] = []
        self.in_events: list[Any] = []
        self.wire = b""

    def pieces(self, data: bytes) -> list[bytes]:
        if self.crumbs is None:
            return [data]
        cuts = sorted(self.crumbs.randrange(len(data) + 1) for _ in range(self.crumbs.randrange(8)))
        return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def run(self) -> None:
        """Carry bytes until both are silent; TLS and dialback are done as the network layer does them."""
        while True:
            to_b, to_a = self.out.data_to_send(), self.into.data_to_send()
            if not to_b and not to_a:
                return
            self.wire += to_b + to_a
            for piece in self.pieces(to_b):
                for event in self.into.receive(piece):
                    self.in_events.append(event)
                    if isinstance(event, KeyToVerify):
                        ok = self.a_settings.secret.proves(event.key, event.local, event.remote, event.stream_id)
                        self.in_events += self.into.verified(event.local, event.remote, ok=ok)
            for piece in self.pieces(to_a):
                for event in self.out.receive(piece):
                    self.out_events.append(event)
                    if isinstance(event, StartTls):
                        self.into.established(holds if self.certificate else lambda domain: "expired")
                        self.out.established(trusted=self.trusted)

    def open(self) -> None:
        self.out.start()
        self.run()


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def server_header(features: str, version: str = " version='1.0'") -> bytes:
    return (
        "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
        f"xmlns:db='jabber:server:dialback' from='b.example' to='a.example' id='s1'{version}>"
        f"<stream:features>{features}</stream:features>"
    ).encode()
