"""The rooms of a server: which there are, who may make more, and the way of every stanza to the one it is for."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.commands import Param
from beamish.core.disco import DiscoItem
from beamish.core.events import AccountEvent, Context, RemoteLost, SessionNotes, Stopping
from beamish.core.iq import check_request
from beamish.core.kernel import Kernel
from beamish.core.later import unhurried
from beamish.core.module import Module, ModuleConfig, Xep, command, on
from beamish.modules.muc import store as storage
from beamish.modules.muc.administration import (
    AffiliationItem,
    apply_affiliations,
    destroy,
    plan_affiliations,
    plan_removal,
    shut_down,
)
from beamish.modules.muc.approvals import Approvals
from beamish.modules.muc.archive import Archive
from beamish.modules.muc.between import Between
from beamish.modules.muc.config_form import RoomConfig
from beamish.modules.muc.directory import Directory
from beamish.modules.muc.discovery import Discovery
from beamish.modules.muc.fanout import FanOut
from beamish.modules.muc.ghosts import Ghosts
from beamish.modules.muc.history import History
from beamish.modules.muc.invitations import Invitations
from beamish.modules.muc.names import SEARCH, X_MUC
from beamish.modules.muc.notes import Notes
from beamish.modules.muc.occupants import Closed, Effect, Send, Tell
from beamish.modules.muc.privileges import Affiliation, Standing, parse_affiliation
from beamish.modules.muc.records import Records
from beamish.modules.muc.requests import Requests
from beamish.modules.muc.room import Bounds, Room
from beamish.modules.muc.store import SqlRoomStore, StoredRoom
from beamish.modules.muc.talk import Talk
from beamish.modules.muc.visits import Visits
from beamish.modules.muc.wardrobe import Wardrobe
from beamish.storage.api import StorageError
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, MESSAGE
from beamish.xmpp.xml import Element

log = structlog.get_logger(__name__)

RoomAddress = Annotated[JID, Param("The room")]


class MucConfig(ModuleConfig):
    """Rooms for many (XEP-0045)."""

    host: str = Field(
        "conference.{domain}",
        min_length=1,
        description="Domain of the rooms; `{domain}` stands for each of the server's domains.",
    )
    name: str = Field("Rooms", max_length=256, description="What the service calls itself.")
    create: Literal["anyone", "local", "admins"] = Field(
        "local", description="Who may make rooms: anyone, accounts of this server (no anonymous users), or its admins."
    )
    lock: bool = Field(
        True, description="A new room stays closed to others until its creator has configured it, or speaks there."
    )
    max_rooms: int = Field(20_000, ge=1, description="Rooms of the whole service; each costs about 5 KB of memory.")
    rooms_per_user: int = Field(100, ge=1, description="Rooms that one user may have made.")
    max_occupants: int = Field(5000, ge=1, description="Occupants of one room, whatever its owners say.")
    max_affiliations: int = Field(10_000, ge=1, description="Members, admins, owners and outcasts of one room.")
    nick_bytes: int = Field(256, ge=1, le=1023, description="Longest nickname.")
    presence_bytes: int = Field(
        8192, ge=512, description="Largest presence that is shown to a room; it is kept for every occupant."
    )
    message_bytes: int = Field(65_536, ge=1024, description="Largest message in a room.")
    stanzas_per_second: float = Field(
        20.0, gt=0, description="Stanzas per second one occupant may send to a room in the long run."
    )
    stanza_burst: int = Field(200, ge=1, description="Stanzas an occupant may send at once before that rate applies.")
    vcard_bytes: int = Field(131_072, ge=0, description="Largest vCard of a room, with its picture.")
    archive_days: int = Field(0, ge=0, description="Days that messages of rooms are kept, 0 for as long as the room.")
    ping_seconds: float = Field(
        900.0,
        ge=0,
        description="Silence after which an occupant on another server is asked whether it is there; 0: never.",
    )
    room: RoomConfig = Field(RoomConfig(), description="What every new room starts with.")


class MucModule(Module):
    """Rooms on a domain of their own."""

    name = "muc"
    Config = MucConfig
    xeps = (
        Xep(45, "1.35.5"),
        Xep(249, "1.2", note="direct invitations pass as they are"),
        Xep(317, "0.3.1"),
        Xep(410, "1.1.0"),
        Xep(421, "1.0.1"),
        Xep(424, "0.4.2", note="for rooms"),
        Xep(425, "0.3.1"),
        Xep(433, "0.2.0"),
        Xep(486, "0.1.0"),
        Xep(500, "0.1.1"),
    )
    migrations = storage.MIGRATIONS

    def __init__(self, kernel: Kernel, config: MucConfig) -> None:
        super().__init__(kernel, config)
        self.rooms: dict[JID, Room] = {}
        self.creators: dict[JID, JID] = {}
        self.made: Counter[JID] = Counter()
        self.hosts = tuple(
            dict.fromkeys(str(JID.parse(config.host.replace("{domain}", domain))) for domain in kernel.domains)
        )
        self.bounds = Bounds(
            config.max_occupants,
            config.nick_bytes,
            config.presence_bytes,
            config.message_bytes,
            config.stanzas_per_second,
            float(config.stanza_burst),
            config.max_affiliations,
        )
        self.store: storage.RoomStore = SqlRoomStore(self.db)
        self.archive = Archive(self.db)
        self.fanout = FanOut(kernel, self.tasks)
        self.directory = Directory()
        self.discovery = Discovery(self)
        self.records = Records(self)
        self.wardrobe = Wardrobe(self)
        self.notes = Notes(self)
        self.invitations = Invitations(self)
        self.approvals = Approvals(self)
        self.talk = Talk(self)
        self.between = Between(self)
        self.requests = Requests(self)
        self.visits = Visits(self)
        self.ghosts = Ghosts(self)
        self._locks: WeakKeyDictionary[Room, asyncio.Lock] = WeakKeyDictionary()
        self._loading: dict[JID, asyncio.Task[None]] = {}
        self.over = False
        """The service stops: everybody has been told, and nobody gets in any more."""
        self.opening: dict[Room, asyncio.Task[None]] = {}
        """New rooms on their way to the database, where they are open to all from the start."""

    async def start(self) -> None:
        """Read the rooms and answer for their domains."""
        for stored in await self.store.load():
            self._enter(_restored(stored, self.bounds), stored.creator)
            self.visits.was_inside(stored.jid, stored.occupants)
            self.notes.restore(stored)
        for host in self.hosts:
            self.kernel.router.add_service(host, self.handle)
        self.ghosts.start()

    async def ready(self) -> None:
        """Sessions that outlived the server are back in their rooms; nobody else is."""
        await self.visits.settle()

    async def stop(self) -> None:
        """Tell whoever is left and does not come back (332), and answer no more."""
        self.ghosts.stop()
        self.visits.stop()
        self.say_goodbye()
        for host in self.hosts:
            self.kernel.router.remove_service(host)

    @on(events.stopping)
    def stopping(self, event: Stopping) -> None:
        """As long as other servers can hear it."""
        self.say_goodbye()

    def say_goodbye(self) -> None:
        """Tell everybody who is left, and does not come back, that the service shuts down (§11.2); once."""
        if self.over:
            return
        self.over = True
        for room in tuple(self.rooms.values()):  # a goodbye to a service may come back as a departure
            for effect in shut_down(room, lambda jid: jid in self.kernel.sessions.by_full):
                if isinstance(effect, Tell):
                    self.fanout.tell(effect.stanza, effect.seats)

    def disco_items(self, at: JID, asker: JID) -> Iterable[DiscoItem]:
        """The service of a domain (XEP-0045 §6.1)."""
        if at.local or not self.kernel.is_local_domain(at.domain):
            return ()
        return (DiscoItem(JID.parse(self.config.host.replace("{domain}", at.domain)), "", self.config.name),)

    # ---- the way of a stanza ----------------------------------------------------------------------------------------

    def handle(self, ctx: Context) -> Awaitable[None] | None:
        """Everything that is for our domains. Raises `StanzaError`."""
        stanza = ctx.stanza
        to = stanza.to
        if to is None or stanza.sender is None:
            return None
        if stanza.name == MESSAGE:
            if to.local:
                return self.talk.message(ctx)
            if stanza.type in ("error", "headline"):
                return None
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        if stanza.name != IQ:
            return self.talk.presence(ctx) if to.local else None
        if not to.local:
            return self._service_iq(ctx)
        return self.between.iq(ctx) if to.resource else self.requests.iq(ctx)

    def _service_iq(self, ctx: Context) -> Awaitable[None] | None:
        stanza = ctx.stanza
        if stanza.type in ("result", "error"):
            return self.kernel.iq.handle(ctx)
        payload = check_request(stanza)
        if stanza.type == "get":
            if payload.tag == f"{{{ns.DISCO_INFO}}}query":
                answer = self.discovery.service_info(stanza, payload)
            elif payload.tag == f"{{{ns.DISCO_ITEMS}}}query":
                answer = self.discovery.service_items(stanza, payload)
            elif payload.tag == f"{{{SEARCH}}}search":
                return self._search(ctx, payload)
            elif payload.tag == f"{{{ns.PING}}}ping":
                answer = stanza.reply()
            else:
                raise StanzaError(Condition.SERVICE_UNAVAILABLE)
            self.kernel.router.answer(ctx, answer)
            return None
        raise StanzaError(Condition.SERVICE_UNAVAILABLE)

    async def _search(self, ctx: Context, payload: Element) -> None:
        self.kernel.router.answer(ctx, await self.discovery.search(ctx.stanza, payload))

    # ---- rooms come and go ------------------------------------------------------------------------------------------

    def create_room(self, ctx: Context) -> Awaitable[None] | None:
        """Somebody enters a room that does not exist (§10.1). Raises `StanzaError`."""
        stanza = ctx.stanza
        who, to = stanza.sender, stanza.to
        assert who is not None and to is not None
        self._check_may_create(who, guest=ctx.origin is not None and ctx.origin.anonymous)
        room = self._new_room(to.bare, who.bare)
        x = stanza.child(X_MUC)
        assert x is not None
        if not self.config.lock:
            room.locked = True
            self._enter(room, who.bare)
            opening = self.opening[room] = self.tasks.spawn(self._open(room), "open_room")
            return self.when_open(ctx, opening, room)
        room.locked = True
        rest = self.talk.enter(room, stanza, x, created=True)
        self._enter(room, who.bare)
        log.info("room_created", room=str(room.jid), creator=str(who.bare))
        return rest

    async def _open(self, room: Room) -> None:
        """A service whose new rooms are open at once: stored before anybody is in."""
        try:
            async with self.exclusive(room):
                await self.store_new(room, room.config, ())
                room.locked = False
                self.directory.note(room)
        except BaseException:
            self._forget(room)
            raise
        finally:
            del self.opening[room]

    async def when_open(self, ctx: Context, opening: asyncio.Task[None], made: Room | None = None) -> None:
        """Let somebody enter who came before the room was stored; `made`: by making it. Raises `StanzaError`."""
        await asyncio.shield(opening)
        x = ctx.stanza.child(X_MUC)
        if made is None or x is None:
            rest = self.talk.presence(ctx)
        else:
            try:
                rest = self.talk.enter(made, ctx.stanza, x, created=True)
            except StanzaError:
                if not made.occupants:
                    self.close(made)
                raise
        if rest is not None:
            await rest

    def _new_room(self, jid: JID, creator: JID) -> Room:
        room = Room(jid, self.config.room, secrets.token_bytes(32), self.bounds, created=self.kernel.clock.now())
        room.set_standing(creator, Standing(Affiliation.OWNER))
        room.history = History(jid)
        return room

    def _check_may_create(self, who: JID, *, guest: bool) -> None:
        admin = who.bare in self.kernel.admins
        allowed = {
            "anyone": True,
            "local": self.kernel.is_local_domain(who.domain) and not guest,  # whose rooms would be nobody's soon
            "admins": False,
        }[self.config.create]
        if not allowed and not admin:
            raise StanzaError(Condition.NOT_ALLOWED, text="you may not make rooms here")
        if len(self.rooms) >= self.config.max_rooms or (
            not admin and self.made[who.bare] >= self.config.rooms_per_user
        ):
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="there are too many rooms")

    async def store_new(self, room: Room, config: RoomConfig, changes: Iterable[tuple[JID, Standing]]) -> None:
        """Store a room that was configured for the first time; with its affiliations as they will be."""
        standings = {**room.standings, **dict(changes)}
        await self.store.create(
            StoredRoom(
                room.jid,
                self.creators[room.jid],
                room.created,
                config,
                room.secret,
                standings=tuple(standings.items()),
                occupants=tuple((o.nick, o.bare) for o in room.occupants.values()),
            )
        )
        if self.rooms.get(room.jid) is not room:  # its creator left while it was being stored
            if room.jid not in self.rooms:  # another one of this name replaces what is stored
                self.store.forget(room.jid)
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")

    def _enter(self, room: Room, creator: JID) -> None:
        self.rooms[room.jid] = room
        self.creators[room.jid] = creator
        self.made[creator] += 1
        self.directory.note(room)

    def _forget(self, room: Room) -> None:
        """A room is gone."""
        if self.rooms.get(room.jid) is not room:
            return
        del self.rooms[room.jid]
        self.directory.drop(room)
        self.approvals.close(room)
        creator = self.creators.pop(room.jid)
        self.made[creator] -= 1
        if not self.made[creator]:
            del self.made[creator]
        log.info("room_closed", room=str(room.jid))

    def carry_out(
        self, room: Room, effects: Sequence[Effect], ctx: Context | None = None, *, cause: Context | None = None
    ) -> Awaitable[None] | None:
        """Do what a room decided; with `ctx`, its request is answered where the effects say `Done`."""
        self.visits.note(room)
        position = self.notes.keep_roles(room) if room.role_changes else 0
        if room.in_directory is not room.public and self.rooms.get(room.jid) is room:
            self.directory.note(room)
        if any(isinstance(effect, Closed) for effect in effects):
            self.close(room)
        self.settle(room)
        done: Callable[[], None] | None = None
        if ctx is not None:
            request = ctx
            done = lambda: self._answer(request, position)  # noqa: E731
        return self.fanout.run(room.jid, effects, done=done, cause=cause)

    def _answer(self, ctx: Context, position: int) -> None:
        """Answer a request when what it changed is on disk."""
        answer = partial(self.kernel.router.answer, ctx, ctx.stanza.reply())
        if position:
            try:
                self.db.when_durable(position, answer)
                return
            except StorageError:
                log.warning("muc_answered_early", to=str(ctx.stanza.sender))
        answer()

    def close(self, room: Room) -> None:
        """End a room in which nobody is left, with everything that is stored of it."""
        if not room.locked:
            self.store.forget(room.jid)
        self._forget(room)

    def settle(self, room: Room) -> None:
        """An empty room needs no history in memory."""
        if not room.occupants and not room.locked:
            room.history = None

    def with_history(
        self, room: Room, ctx: Context, go_on: Callable[[Context], Awaitable[None] | None]
    ) -> Awaitable[None]:
        """Read a room's history, then go on with the stanza that needs it."""
        return self._with_history(room, ctx, go_on)

    async def _with_history(self, room: Room, ctx: Context, go_on: Callable[[Context], Awaitable[None] | None]) -> None:
        task = self._loading.get(room.jid)
        if task is None:
            task = self._loading[room.jid] = self.tasks.spawn(self._load_history(room), "history")
        await asyncio.shield(task)
        if room.history is None and self.rooms.get(room.jid) is room:
            room.history = History(room.jid)  # somebody was refused meanwhile, and the room settled again
        rest = go_on(ctx)
        if rest is not None:
            await rest

    async def _load_history(self, room: Room) -> None:
        try:
            kept = await self.archive.history(room.jid, room.config.max_history_fetch)
            if room.history is None:
                room.history = History(room.jid, kept)
        finally:
            del self._loading[room.jid]

    @asynccontextmanager
    async def exclusive(self, room: Room) -> AsyncIterator[None]:
        """One lasting change of a room at a time. Raises `StanzaError(item-not-found)` if the room is gone by then."""
        lock = self._locks.get(room)
        if lock is None:
            lock = self._locks[room] = asyncio.Lock()
        async with lock:
            if self.rooms.get(room.jid) is not room:
                raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
            yield

    # ---- sessions, servers and accounts that go ----------------------------------------------------------------------

    @on(events.remote_lost)
    def remote_lost(self, event: RemoteLost) -> Awaitable[None] | None:
        """A server is gone: so is everybody who came from it (§16.1.2)."""
        return self.ghosts.remove_all(self.visits.from_domain(event.domain))

    @on(events.session_saving)
    def session_saving(self, event: SessionNotes) -> None:
        """A session's visits belong to what it is."""
        visits = self.visits.of(event.session.jid)
        if visits:
            event.notes["muc"] = visits

    @on(events.session_restored)
    def session_restored(self, event: SessionNotes) -> None:
        """See `Visits.restored`."""
        self.visits.restored(event)

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """An account goes: its affiliations with it. A room without an owner gets its first admin or member as one, or ends."""
        self.approvals.forget(event.user)
        await self.store.erase_user(event.user)
        async for room in unhurried(tuple(self.rooms.values())):
            self.notes.forget(room, event.user)
            if not room.locked and (event.user in room.standings or event.user in room.wearers):
                with suppress(StanzaError):  # the room has ended meanwhile
                    await self._remove_user(room, event.user)

    async def _remove_user(self, room: Room, user: JID) -> None:
        async with self.exclusive(room):
            changes = plan_removal(room, user)
            if changes is None:
                await self.store.delete(room.jid)
                self.carry_out(room, destroy(room, reason="its owner's account was removed"))
                return
            await self.store.save(room.jid, None, [(c.jid, c.after) for c in changes])
            for uri in room.wearers.pop(user, ()):
                await self.store.set_wearer(room.jid, user, uri, False)
            effects = apply_affiliations(room, changes)
            self.carry_out(room, [e for e in effects if not isinstance(e, Send) or e.stanza.to != user])

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("muc.list", "List rooms")
    def command_list(self, domain: Annotated[str | None, Param("Only this service's")] = None) -> list[dict[str, Any]]:
        """Rooms with their names and occupants, sorted."""
        return [
            {
                "room": str(room.jid),
                "name": room.config.name,
                "occupants": len(room.occupants),
                "persistent": room.config.persistent,
                "public": room.config.public,
            }
            for room in sorted(self.rooms.values(), key=lambda r: r.jid)
            if domain is None or room.jid.domain == domain
        ]

    @command("muc.info", "Tell everything about a room but its messages")
    def command_info(self, room: RoomAddress) -> dict[str, Any]:
        """Configuration (without the password), affiliations and occupants of a room."""
        found = self._room(room)
        config = found.config.model_dump(mode="json")
        del config["secret"]
        return {
            "room": str(found.jid),
            "created": stamp(found.created),
            "creator": str(self.creators[found.jid]),
            "subject": found.subject.text,
            "config": config,
            "affiliations": {str(jid): s.affiliation.label for jid, s in sorted(found.standings.items())},
            "occupants": [
                {"nick": o.nick, "jids": [str(jid) for jid in o.seats], "role": o.role.label}
                for o in found.occupants.values()
            ],
        }

    @command("muc.create", "Make a persistent room with an owner")
    async def command_create(self, room: RoomAddress, owner: Annotated[JID, Param("Its owner")]) -> dict[str, str]:
        """Make a room that stays."""
        jid, creator = room, owner.bare
        if jid.resource or not jid.local or jid.domain not in self.hosts:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"a room's address is name@{self.hosts[0]}")
        if jid in self.rooms:
            raise StanzaError(Condition.CONFLICT, text=f"{jid} exists already")
        made = self._new_room(jid, creator)
        made.config = made.config.changed(persistent=True)
        self._enter(made, creator)
        try:
            await self.store_new(made, made.config, ())
        except BaseException:
            self._forget(made)
            raise
        self.settle(made)
        return {"room": str(jid)}

    @command("muc.destroy", "Destroy a room")
    async def command_destroy(
        self,
        room: RoomAddress,
        reason: Annotated[str, Param("Reason, which those concerned are told")] = "",
        alternate: Annotated[JID | None, Param("Another room, to go to instead")] = None,
    ) -> dict[str, str]:
        """Remove everybody from a room, and the room with its archive."""
        found = self._room(room)
        async with self.exclusive(found):
            await self.store.delete(found.jid)
            rest = self.carry_out(found, destroy(found, alternate, reason))
        if rest is not None:
            await rest
        return {"room": str(found.jid)}

    @command("muc.affiliations", "List the affiliations of a room")
    def command_affiliations(
        self, room: RoomAddress, affiliation: Annotated[str | None, Param("Only this one")] = None
    ) -> list[dict[str, str]]:
        """Who is what in a room."""
        wanted = None if affiliation is None else parse_affiliation(affiliation)
        return [
            {"jid": str(jid), "affiliation": s.affiliation.label, "nick": s.nick, "reason": s.reason}
            for jid, s in sorted(self._room(room).standings.items())
            if wanted is None or s.affiliation is wanted
        ]

    @command("muc.affiliate", "Change somebody's affiliation with a room")
    async def command_affiliate(
        self,
        room: RoomAddress,
        jid: Annotated[JID, Param("Whose")],
        affiliation: Annotated[str, Param("owner, admin, member, outcast or none")],
        reason: Annotated[str, Param("Reason, which those concerned are told")] = "",
    ) -> dict[str, str]:
        """Make somebody owner, admin, member, outcast or none of these; the last owner stays."""
        found, user, wanted = self._room(room), jid.bare, parse_affiliation(affiliation)
        async with self.exclusive(found):
            actor = next((owner for owner in found.owners if owner != user), found.owners[0])
            changes = plan_affiliations(found, actor, [AffiliationItem(user, wanted, None, reason)])
            await self.store.save(found.jid, None, [(c.jid, c.after) for c in changes])
            rest = self.carry_out(found, apply_affiliations(found, changes))
        if rest is not None:
            await rest
        return {"room": str(found.jid), "jid": str(user), "affiliation": wanted.label}

    def _room(self, address: JID) -> Room:
        jid = address.bare
        room = self.rooms.get(jid)
        if room is None or room.locked:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no room {jid}")
        return room


def _restored(stored: StoredRoom, bounds: Bounds) -> Room:
    room = Room(stored.jid, stored.config, stored.secret, bounds, created=stored.created)
    for jid, standing in stored.standings:
        room.set_standing(jid, standing)
    room.subject = stored.subject
    room.avatar_hashes = stored.avatars
    room.hats = {hat.uri: hat for hat in stored.hats}
    for jid, uri in stored.wearers:
        room.wearers[jid] = (*room.wearers.get(jid, ()), uri)
    return room
