"""XEP-0215: where clients find services outside of XMPP, above all STUN and TURN for calls.

Services are named in the configuration. For those with a shared `secret`, everyone gets a name and password of their own
that hold for a limited time, as coturn (`use-auth-secret`) and others understand them. For users of ours only.
Not here: changes told to clients while they are connected (pushes), as nothing changes without a restart.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Annotated, Final, Literal

from pydantic import Field as Option
from pydantic import SecretStr, model_validator

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.module import Module, ModuleConfig, Scope, Xep, iq
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, make

EXTDISCO: Final = "urn:xmpp:extdisco:2"

Word = Annotated[str, Option(min_length=1, max_length=200, pattern=r"^[^\s<>&'\"]+$")]


class ServiceConfig(ModuleConfig):
    """One service."""

    type: Word = Option(description="What it is: `stun`, `turn`, `stuns`, `turns`, `ftp` and so on.", examples=["turn"])
    host: Word = Option(description="Its name or IP address.", examples=["turn.example.org"])
    port: int | None = Option(None, ge=1, le=65_535, description="Its port.", examples=[3478])
    transport: Literal["udp", "tcp"] | None = Option(None, description="`udp` or `tcp`.", examples=["udp"])
    name: Annotated[str, Option(max_length=200)] = Option("", description="What clients may call it.")
    username: Annotated[str, Option(max_length=200)] = Option("", description="A name that is the same for everybody.")
    password: SecretStr = Option(SecretStr(""), description="The password that goes with it.")
    secret: SecretStr = Option(
        SecretStr(""), description="A secret shared with the service, from which names and passwords are made."
    )
    ttl: int = Option(86_400, ge=60, le=2_592_000, description="Seconds for which these hold.")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> ServiceConfig:
        if self.secret.get_secret_value() and (self.username or self.password.get_secret_value()):
            raise ValueError("a service has either a secret, or a username and password")
        return self


class Config(ModuleConfig):
    """External services."""

    services: tuple[ServiceConfig, ...] = Option(
        (),
        max_length=100,
        description="The services, in the order in which clients are told.",
        examples=[[{"type": "turn", "host": "turn.example.org", "port": 3478, "transport": "udp", "secret": "…"}]],
    )


class ExtdiscoModule(Module):
    """Tells users of external services."""

    name = "extdisco"
    Config = Config
    xeps = (Xep(215, "1.0.0"),)

    async def start(self) -> None:
        """There is nothing to be found without a service."""
        self.features = (EXTDISCO,) if self.config.services else ()

    @iq(get=f"{{{EXTDISCO}}}services", scope=Scope.SERVER | Scope.OWN)
    def services(self, ctx: Context) -> Stanza:
        """All services, or those of a type (§3.1, §3.2)."""
        user = self._user(ctx)
        wanted = ctx.stanza.el[0].get("type")
        found = (s for s in self.config.services if wanted is None or s.type == wanted)
        reply = make(f"{{{EXTDISCO}}}services", {"type": wanted}, *(self._told(s, user) for s in found))
        return ctx.stanza.reply(reply)

    @iq(get=f"{{{EXTDISCO}}}credentials", scope=Scope.SERVER | Scope.OWN)
    def credentials(self, ctx: Context) -> Stanza:
        """Name and password for one service (§3.3)."""
        user = self._user(ctx)
        asked = ctx.stanza.el[0].find(f"{{{EXTDISCO}}}service")
        if asked is None or not asked.get("host") or not asked.get("type"):
            raise StanzaError(Condition.BAD_REQUEST, text="host and type of a service are wanted")
        host, type_, port = asked.get("host"), asked.get("type"), asked.get("port")
        found = [
            s
            for s in self.config.services
            if (s.host, s.type) == (host, type_) and port in (None, str(s.port)) and _closed(s)
        ]
        if not found:
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        return ctx.stanza.reply(make(f"{{{EXTDISCO}}}credentials", None, *(self._told(s, user) for s in found)))

    def _user(self, ctx: Context) -> JID:
        if ctx.origin is None:
            raise StanzaError(Condition.FORBIDDEN)
        return ctx.origin.bare

    def _told(self, service: ServiceConfig, user: JID) -> Element:
        attrs: dict[str, str | None] = {
            "type": service.type,
            "host": service.host,
            "port": None if service.port is None else str(service.port),
            "transport": service.transport,
            "name": service.name or None,
        }
        secret = service.secret.get_secret_value()
        if secret:
            until = int(self.kernel.clock.now()) + service.ttl
            attrs["username"], attrs["password"] = turn_credentials(secret, until, user)
            attrs["expires"] = stamp(until)
        elif service.username or service.password.get_secret_value():
            attrs["username"], attrs["password"] = service.username, service.password.get_secret_value()
        attrs["restricted"] = "true" if _closed(service) else None
        return make(f"{{{EXTDISCO}}}service", attrs)


def turn_credentials(secret: str, until: int, user: JID) -> tuple[str, str]:
    """Name and password of "A REST API for Access to TURN Services": valid until that second, for this user.

    The service sees a pseudonym of the user, the same each time, so that it can keep quotas.
    """
    pseudonym = hmac.digest(secret.encode(), str(user).encode(), "sha256").hex()[:16]
    name = f"{until}:{pseudonym}"
    password = hmac.digest(secret.encode(), name.encode(), hashlib.sha1)  # prescribed by the protocol
    return name, base64.b64encode(password).decode()


def _closed(service: ServiceConfig) -> bool:
    return bool(service.secret.get_secret_value() or service.username)
