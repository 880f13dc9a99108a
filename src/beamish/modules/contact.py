"""XEP-0157 and XEP-0455: whom to turn to about this server, and where to read of outages, in its discovery information."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic import Field as Option

from beamish.core.module import Module, ModuleConfig, Xep
from beamish.xmpp.payload.forms import Field, Form
from beamish.xmpp.xml import Element

OUTAGES: Final = "urn:xmpp:sos:0"
SERVERINFO: Final = "http://jabber.org/network/serverinfo"


def _uri(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    if not (colon and rest and scheme.isascii() and scheme[:1].isalpha() and scheme.replace("+", "").isalnum()):
        raise ValueError("is no address of the form mailto:…, xmpp:… or https://…")
    if not text.isprintable() or any(c in text for c in " <>\"'"):
        raise ValueError("has characters that no address has")
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(_uri(text))
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("must be an address of the form https://…")
    return text


Uri = Annotated[str, Option(max_length=1000), AfterValidator(_uri)]
WebAddress = Annotated[str, Option(max_length=1000), AfterValidator(_web_address)]
Uris = Annotated[tuple[Uri, ...], Option(max_length=50)]


def _addresses(whom: str, example: str) -> Uris:
    return Option((), description=f"Addresses for {whom}.", examples=[[example]])


class Config(ModuleConfig):
    """Contact addresses, as URIs (`mailto:`, `xmpp:`, `https:`)."""

    abuse: Uris = _addresses("reports of abuse", "mailto:abuse@example.org")
    admin: Uris = _addresses("the administrators", "xmpp:admin@example.org")
    feedback: Uris = _addresses("praise and complaints", "https://example.org/feedback")
    sales: Uris = _addresses("business", "mailto:sales@example.org")
    security: Uris = _addresses("security matters", "mailto:security@example.org")
    status: Uris = _addresses("the state of the service", "https://status.example.org")
    support: Uris = _addresses("help", "xmpp:help@muc.example.org?join")
    outages: tuple[WebAddress, ...] = Option(
        (),
        max_length=50,
        description="Where clients read about an outage while they cannot connect: a file in the form of XEP-0455, on another "
        "machine, for everybody.",
        examples=[["https://status.example.net/example.org.json"]],
    )


class ContactModule(Module):
    """Tells the addresses."""

    name = "contact"
    Config = Config
    xeps = (Xep(157, "1.1.1"), Xep(455, "0.4.0"))

    def disco_forms(self, domain: str) -> Iterable[Element]:
        """One field for each list that is not empty (XEP-0157 §3, XEP-0455 §2.1); no form without any."""
        lists = {name: getattr(self.config, name) for name in Config.model_fields if name != "outages"}
        fields = tuple(Field(f"{name}-addresses", "list-multi", uris) for name, uris in lists.items() if uris)
        if fields:
            yield Form.of("result", SERVERINFO, fields).to_xml()
        if outages := self.config.outages:
            yield Form.of("result", OUTAGES, (Field("external-status-addresses", "list-multi", outages),)).to_xml()
