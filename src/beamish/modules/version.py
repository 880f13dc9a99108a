"""XEP-0092 and XEP-0232: which software runs here. Clients answer for themselves.

The operating system is told only if the administrator wants it (XEP-0092 §6: it helps those who look for holes).
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any, Final

from pydantic import Field

from beamish import __version__
from beamish.core.events import Context
from beamish.core.module import Module, ModuleConfig, Scope, Xep, iq
from beamish.xmpp.payload.forms import Field as FormField
from beamish.xmpp.payload.forms import Form
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, escape_text

NS: Final = "jabber:iq:version"
SOFTWARE_INFO: Final = "urn:xmpp:dataforms:softwareinfo"
NAME: Final = "Beamish"


class Config(ModuleConfig):
    """Options of the software version."""

    show_version: bool = Field(True, description="Tell which version of the server runs; otherwise only its name.")
    show_os: bool = Field(False, description="Tell the operating system too. Attackers would like to know it.")


class VersionModule(Module):
    """Tells name and version of the server, when asked and in its service discovery information."""

    name = "version"
    Config = Config
    xeps = (Xep(92, "1.1"), Xep(232, "0.3", note="no icon"))
    features = (NS,)

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._version = __version__ if config.show_version else ""
        self._os = (platform.system(), platform.release()) if config.show_os else ("", "")

    @iq(get=f"{{{NS}}}query", scope=Scope.SERVER)
    def _answer(self, ctx: Context) -> Stanza:
        """XEP-0092 §2; `<version/>` is required, so it is empty where it is not told."""
        os = escape_text(" ".join(self._os).strip())
        inner = f"<name>{NAME}</name><version>{self._version}</version>" + (f"<os>{os}</os>" if os else "")
        return ctx.stanza.reply(f"<query xmlns='{NS}'>{inner}</query>".encode())

    def disco_forms(self, domain: str) -> Iterable[Element]:
        """XEP-0232 §2."""
        values = {
            "os": self._os[0],
            "os_version": self._os[1],
            "software": NAME,
            "software_version": self._version,
        }
        fields = [FormField(var, values=(value,)) for var, value in values.items() if value]
        return (Form.of("result", SOFTWARE_INFO, fields).to_xml(),)
