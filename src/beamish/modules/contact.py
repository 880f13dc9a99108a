"""XEP-0157: whom to turn to about this server, in its service discovery information."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import AfterValidator
from pydantic import Field as Option

from beamish.core.module import Module, ModuleConfig, Xep
from beamish.xmpp.payload.forms import Field, Form
from beamish.xmpp.xml import Element

SERVERINFO: Final = "http://jabber.org/network/serverinfo"


def _uri(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    if not (colon and rest and scheme.isascii() and scheme[:1].isalpha() and scheme.replace("+", "").isalnum()):
        raise ValueError("is no address of the form mailto:…, xmpp:… or https://…")
    if not text.isprintable() or any(c in text for c in " <>\"'"):
        raise ValueError("has characters that no address has")
    return text


Uri = Annotated[str, Option(max_length=1000), AfterValidator(_uri)]
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


class ContactModule(Module):
    """Tells the addresses."""

    name = "contact"
    Config = Config
    xeps = (Xep(157, "1.1.1"),)

    def disco_forms(self, domain: str) -> Iterable[Element]:
        """One field for each list that is not empty (§3); nothing without any."""
        lists = {name: getattr(self.config, name) for name in Config.model_fields}
        fields = tuple(Field(f"{name}-addresses", "list-multi", uris) for name, uris in lists.items() if uris)
        return (Form.of("result", SERVERINFO, fields).to_xml(),) if fields else ()
