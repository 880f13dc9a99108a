"""XEP-0357: devices that are away hear of what comes, by the push service of their app.

A client names a service and a node there; the registration belongs to its resource from then on. Whether the device is there
is what stream management knows: a session that has lost its connection, or whose client is late to confirm what it was sent,
is as good as away (hook `unreached`). Then, and while there is no session of that resource, messages that are worth it (`news`)
are told to the service, without their content unless the administrator wants it.

As long as nobody has registered, this listens to nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Annotated, Any, Final, Literal

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.commands import Param
from beamish.core.content import content_of
from beamish.core.events import AccountEvent, Context, PresenceChanged, SessionEvent, SubscriptionAsked, Unreached
from beamish.core.hooks import Row
from beamish.core.module import IqAnswer, Module, ModuleConfig, Scope, Xep, command, iq, on
from beamish.core.services import AccountsService, RosterService, SessionKeeper
from beamish.core.sessions import Session
from beamish.core.sparing import Sparing
from beamish.modules.push.news import concerns_all, is_news, news
from beamish.modules.push.notifier import Notifier
from beamish.modules.push.store import MIGRATIONS, Registration, Store
from beamish.modules.push.wire import PUSH, publication, read_disable, read_enable, revoked
from beamish.storage.api import StorageError
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE

log = structlog.get_logger(__name__)

_WHEN: Final = "sm.when"
"""Note of a context: a session that has ended leaves the message, so whom it concerns has heard of it."""
_ARCHIVED: Final = "mam.received"
"""Note of a context: the account's archive has the message."""
_MESSAGES: Final = frozenset((MESSAGE,))


class Config(ModuleConfig):
    """Options of push notifications."""

    include_sender: bool = Field(False, description="Tell push services, which belong to strangers, who has written.")
    include_body: bool = Field(
        False, description="Tell them what was written. What is encrypted end to end stays so in any case."
    )
    important_body: str = Field(
        "New Message!",
        max_length=200,
        description="Said in place of what was written: services of iOS and Android apps show or hurry only what has a body. "
        "Empty: nothing is said.",
    )
    body_length: int = Field(
        512, ge=1, le=4096, description="Characters of a message that are told with `include_body`."
    )
    publish_as: Literal["account", "server"] = Field(
        "account",
        description="Who publishes: the account's bare address, to which nodes may be bound, or the server's domain, which "
        "tells less.",
    )
    registrations_per_account: int = Field(
        10, ge=1, le=100, description="Devices of one account; with one more, that which registered longest ago goes."
    )
    options_bytes: int = Field(4096, ge=256, description="Largest form of publish options that a client may register.")
    wait_seconds: float = Field(
        3600.0,
        ge=0.0,
        description="How long the session of a device that is notified waits for its client at least, when the connection "
        "breaks off: rooms send only to those who are inside. 0: as long as others (`resume_seconds` of `sm`).",
    )
    pause_seconds: float = Field(
        3.0, gt=0.0, description="A device is told at once, and then at most this often, of all that has come since."
    )
    answer_seconds: float = Field(60.0, gt=0.0, description="How long a service may take to answer.")
    max_failures: int = Field(
        50,
        ge=1,
        description="Failures in a row that end a registration. After each it is tried again, later each time, up to an hour: "
        "so this is two days. What a service refuses for good ends it at once.",
    )
    under_way: int = Field(1_000, ge=1, description="Notifications that may wait for answers at a time.")
    under_way_per_service: int = Field(
        200, ge=1, description="The same for the domain of one service, so that a slow one holds up nobody else."
    )


class PushModule(Module):
    """Wakes devices by push notifications."""

    name = "push"
    keeps_for_accounts = True
    Config = Config
    xeps = (Xep(357, "0.4.1"),)
    account_features = (PUSH,)
    requires = (AccountsService, RosterService)
    migrations = MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.store = Store(self.db, self._listen)
        self.notifier = Notifier(kernel, self.store, config, self.tasks)
        self._of = self.store.of
        self._sparing = Sparing(kernel.clock)
        self._listening = False
        self._left: list[Registration] = []

    async def start(self) -> None:
        """Learn who has registered."""
        self._left = await self.store.load()

    async def ready(self) -> None:
        """Tell what could not be told before."""
        left, self._left = self._left, []
        for one in left:
            self.notifier.message(one, None, 0, later=True)

    async def stop(self) -> None:
        """What was not told yet is told after the next start."""
        for registrations in self._of.values():
            for one in registrations:
                if one.unread > one.told:
                    self.store.note(one)

    # ---- what clients ask -------------------------------------------------------------------------------------------

    @iq(set=f"{{{PUSH}}}enable", scope=Scope.OWN)
    async def enable(self, ctx: Context) -> IqAnswer:
        """Notify this device, through a service (§5)."""
        session = _owner(ctx)
        if session.anonymous:
            raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users are nobody when they are away")
        config = self.config
        address, options = read_enable(ctx.stanza.el[0], config.options_bytes)
        if address.service.bare == session.bare:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="an account is not its own push service")
        now, most = self.kernel.clock.now(), config.registrations_per_account
        new, gone = await self.store.enable(session.bare, session.jid.resource, address, options, now, most)
        if new:  # most clients ask anew whenever they connect
            keys = {"jid": str(session.jid), "service": str(address.service), "replaced": gone}
            self._sparing.write(log.info, "push_enabled", session.bare, **keys)
        return ctx.stanza.reply()

    @iq(set=f"{{{PUSH}}}disable", scope=Scope.OWN)
    async def disable(self, ctx: Context) -> IqAnswer:
        """No more notifications through a service, or one node of it (§6); whether there were any is all the same."""
        session = _owner(ctx)
        service, node = read_disable(ctx.stanza.el[0])
        if await self.store.disable(session.bare, service, node):
            keys = {"jid": str(session.jid), "service": str(service)}
            self._sparing.write(log.info, "push_disabled", session.bare, **keys)
        return ctx.stanza.reply()

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Nothing stays behind for whoever may get the same name later."""
        await self.store.disable(event.user)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def _listen(self, some: bool) -> None:
        """Listen on the hooks of all traffic while somebody has registered."""
        if some == self._listening:
            return
        self._listening = some
        hooks = self.kernel.hooks
        rows: Iterable[tuple[Any, Row[Any]]] = (
            (events.delivered, Row(50, self.name, self._delivered, _MESSAGES)),
            # before whoever keeps the message and says STOP
            (events.undelivered, Row(20, self.name, self._undelivered, _MESSAGES)),
            (events.unreached, Row(50, self.name, self._unreached)),
            (events.reached, Row(50, self.name, self._reached)),
            (events.presence_changed, Row(50, self.name, self._presence_changed)),
            (events.subscription_asked, Row(50, self.name, self._asked)),
        )
        for point, row in rows:
            if some:
                hooks[point].add(row)
            else:
                hooks[point].remove(self.name)

    def _delivered(self, ctx: Context) -> Awaitable[None] | None:
        """Hook `delivered`: some devices have the message; absent ones, when they are woken, must find it in the archive."""
        to = ctx.stanza.to
        registered = self._of.get(to.bare) if to is not None else None
        return None if registered is None else self._came(ctx, registered, ctx.note(_ARCHIVED) is not None)

    def _undelivered(self, ctx: Context) -> Awaitable[None] | None:
        """Hook `undelivered`: nobody has it. It is a guard's hook, and nothing of this is a reason to refuse a message."""
        to = ctx.stanza.to
        registered = self._of.get(to.bare) if to is not None else None
        if registered is None:
            return None
        try:
            return self._came(ctx, registered, True)
        except Exception:
            log.exception("push_failed", jid=str(to))
            return None

    def _came(self, ctx: Context, registered: tuple[Registration, ...], kept: bool) -> Awaitable[None] | None:
        """A message came for an account; `kept` says that a device that is away will find it."""
        stanza = ctx.stanza
        sender = stanza.sender
        if sender is None or ctx.note(_WHEN) is not None:
            return None
        account = registered[0].account
        for one in registered:
            if one.service == sender and (node := revoked(stanza, account)) is not None:
                return self._revoke(account, sender, node)
        if not kept or sender.bare == account:
            return None
        here = {session.jid.resource for session in self.kernel.sessions.of(account).available}
        absent = [one for one in registered if one.resource not in here and one.service.bare != sender.bare]
        if absent:
            bits = content_of(ctx)
            if is_news(stanza, bits) and concerns_all(stanza, bits):
                for one in absent:
                    self.notifier.message(one, stanza, 1)
        return None

    async def _revoke(self, account: JID, service: JID, node: str) -> None:
        """A service says that it takes no more for one of its nodes (§8)."""
        try:
            if await self.store.disable(account, service, node):
                log.info("push_revoked", jid=str(account), service=str(service))
        except StorageError as exc:  # it will refuse the next notification
            log.warning("push_registration_stays", jid=str(account), error=repr(exc))

    def _unreached(self, event: Unreached) -> None:
        """Hook `unreached`: the device is not here, or as good as that."""
        session = event.session
        mine = self._registered(session)
        if not mine:
            return
        keeper = self.kernel.service_or_none(SessionKeeper)
        if keeper is not None and (event.lost or event.restored):
            keeper.wait_longer(session, self.config.wait_seconds)
        rooms = session.directed or ()
        found = [said for message in event.messages if (said := news(message, session.bare, rooms)) is not None]
        for one in mine:
            one.away = True
            service = one.service.bare  # what it says of notifications is no reason for more of them
            told = [message for message in found if message.sender is not None and message.sender.bare != service]
            if told and (not event.restored or len(told) > one.told):
                if event.restored:  # of some it may have been told before
                    one.unread = 0
                self.notifier.message(one, told[-1], len(told), later=event.restored)

    def _reached(self, event: SessionEvent) -> None:
        """Hook `reached`: it is back on the same session."""
        for one in self._registered(event.session):
            self.notifier.there(one)

    def _presence_changed(self, event: PresenceChanged) -> None:
        """Hook `presence_changed`: it is back on another one."""
        if event.initial and event.session.bare in self._of:
            for one in self._registered(event.session):
                self.notifier.there(one)

    def _asked(self, event: SubscriptionAsked) -> None:
        """Hook `subscription_asked`."""
        available = self.kernel.sessions.of(event.user).available
        here = {session.jid.resource for session in available}
        for one in self._of.get(event.user, ()):
            if one.away or one.resource not in here:
                self.notifier.ask(one)

    def _registered(self, session: Session) -> list[Registration]:
        """The registrations of a session's device."""
        resource = session.jid.resource
        return [one for one in self._of.get(session.bare, ()) if one.resource == resource]

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("push.list", "Push services that an account has registered, and what they last answered")
    async def command_list(self, jid: Annotated[JID, Param("Account")]) -> list[dict[str, Any]]:
        """Each with its node, the resource of the device, messages unread and told, failures in a row, the last try."""
        made = await self.store.listed(jid.bare)
        for row in made:
            row["enabled"] = stamp(row["enabled"])
            row["tried"] = stamp(row["tried"]) if row["tried"] is not None else ""
        return made

    @command("push.remove", "End what an account has registered with push services")
    async def command_remove(
        self,
        jid: Annotated[JID, Param("Account")],
        service: Annotated[JID | None, Param("Push service; all of them if it is left out")] = None,
        node: Annotated[str, Param("Node there; all of them if it is left out")] = "",
    ) -> dict[str, Any]:
        """How many registrations ended. The client may register again when it connects."""
        removed = await self.store.disable(jid.bare, service, node or None)
        return {"jid": str(jid.bare), "removed": removed}

    @command("push.test", "Send a notification to each push service of an account", live=True)
    async def command_test(self, jid: Annotated[JID, Param("Account")]) -> list[dict[str, Any]]:
        """What each of them answers: `ok`, the condition of an error, `no-answer`."""
        made = []
        for one in self._of.get(jid.bare, ()):
            found = await self.store.address(one)
            if found is not None:
                summary = {"message-count": "1", "last-message-body": self.config.important_body or "Test"}
                answer = await self.notifier.publish(one, publication(*found, summary))
                made.append({"service": str(one.service), "node": found[0], "answer": answer or "ok"})
        return made


def _owner(ctx: Context) -> Session:
    if ctx.origin is None:
        raise StanzaError(Condition.FORBIDDEN)
    return ctx.origin
