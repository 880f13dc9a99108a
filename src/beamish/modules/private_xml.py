"""XEP-0049: what a user's clients store at the server for themselves; bookmarks in it are those of XEP-0402.

Elements are kept by name and namespace. Bookmarks (XEP-0048) are not kept here where there is personal eventing: they
are read from and written to its node, which takes care of the newer form (XEP-0411), in one transaction with what else a
client stores. Those of before there was personal eventing are moved there at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.events import AccountEvent, Context, Exporting
from beamish.core.module import IqAnswer, Module, ModuleConfig, Scope, Xep, iq, on
from beamish.core.services import PepService
from beamish.core.sessions import Session
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import content_bytes
from beamish.xmpp.xml import Element, make, namespace_of, to_bytes

log = structlog.get_logger(__name__)

NS: Final = "jabber:iq:private"
QUERY: Final = f"{{{NS}}}query"
BOOKMARKS: Final = "{storage:bookmarks}storage"
_NODE: Final = "storage:bookmarks"
_ITEM: Final = "current"
_OPTIONS: Final = {"persist_items": "true", "access_model": "whitelist"}
_TAG_LENGTH: Final = 1024


class Config(ModuleConfig):
    """Options of private XML."""

    max_bytes: int = Field(
        65_536, ge=1024, description="Largest element that a client may store; larger ones get `policy-violation`."
    )
    max_elements: int = Field(
        100,
        ge=1,
        description="Elements of one account; with `max_bytes` the bound of what an account can fill the disk with.",
    )


class PrivateXmlModule(Module):
    """Keeps clients' elements."""

    name = "private_xml"
    keeps_for_accounts = True
    Config = Config
    xeps = (
        Xep(48, "1.2", note="in private storage; with the pubsub module also in its node, unified with XEP-0402"),
        Xep(49, "1.2"),
        Xep(411, "1.1.1", note="with the pubsub module"),
    )
    features = (NS,)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE private_xml (owner TEXT NOT NULL, tag TEXT NOT NULL, content {bytes} NOT NULL,"
                " PRIMARY KEY (owner, tag))",
            ),
        ),
    )

    async def ready(self) -> None:
        """Bookmarks are converted if there is something to convert them to."""
        if self.kernel.service_or_none(PepService) is not None:
            # XEP-0411 §3, XEP-0402 §4: what is in private storage is also in the nodes of both kinds
            self.account_features = ("urn:xmpp:bookmarks-conversion:0", "urn:xmpp:bookmarks:1#compat")
            self.tasks.spawn(self._move(), "move")

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        def delete(cursor: Cursor) -> None:
            cursor.run("DELETE FROM private_xml WHERE owner = ?", str(event.user))

        await self.db.write("private_xml.delete", delete)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """All elements; bookmarks that are in a node are with that."""
        rows = await self.db.fetch(
            "SELECT content FROM private_xml WHERE owner = ? ORDER BY tag LIMIT ?",
            str(event.user),
            self.config.max_elements,
        )
        if rows:
            inner = b"".join(bytes(content) for (content,) in rows)
            event.parts.append(f"<query xmlns='{NS}'>".encode() + inner + b"</query>")

    @iq(get=QUERY, scope=Scope.OWN)
    async def _get(self, ctx: Context) -> IqAnswer:
        user = _owner(ctx).bare
        asked = list(ctx.stanza.el[0])
        if len(asked) != 1:
            raise StanzaError(Condition.BAD_REQUEST, text="exactly one element at a time")
        tag = _tag(asked[0])
        content = await self._bookmarks(user) if tag == BOOKMARKS else None
        if content is None:
            # through the queue of writes, behind what this client has just stored
            content = await self.db.write(
                "private_xml.get",
                lambda c: c.value("SELECT content FROM private_xml WHERE owner = ? AND tag = ?", str(user), tag),
            )
        inner = bytes(content) if content is not None else to_bytes(_empty(asked[0]))
        return ctx.stanza.reply(f"<query xmlns='{NS}'>".encode() + inner + b"</query>")

    @iq(set=QUERY, scope=Scope.OWN)
    async def _set(self, ctx: Context) -> IqAnswer:
        session = _owner(ctx)
        if session.anonymous:
            raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users keep nothing")
        given: dict[str, bytes] = {}
        for child in ctx.stanza.el[0]:
            tag = _tag(child)
            if tag == BOOKMARKS and tag in given:
                # an item of a node holds one
                raise StanzaError(Condition.BAD_REQUEST, text="one list of bookmarks at a time")
            given[tag] = given.get(tag, b"") + content_bytes(child)
        if not given:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="nothing to store")
        if any(len(content) > self.config.max_bytes for content in given.values()):
            raise StanzaError(Condition.POLICY_VIOLATION, text=f"at most {self.config.max_bytes} bytes")
        user = session.bare
        pep = self.kernel.service_or_none(PepService)
        if BOOKMARKS in given and pep is not None and await self._is_private(pep, user):
            content = given.pop(BOOKMARKS)
            put = self._put(user, given, (BOOKMARKS,))
            await pep.publish(user, _NODE, {_ITEM: content}, _OPTIONS, put)
        else:  # also where others may read the node: nothing private goes there
            await self.db.write("private_xml.set", self._put(user, given))
        return ctx.stanza.reply()

    def _put(self, user: JID, given: dict[str, bytes], drop: Sequence[str] = ()) -> Callable[[Cursor], None]:
        """A transaction that stores elements. It raises `StanzaError(resource-constraint)` if there are too many."""
        most = self.config.max_elements

        def put(cursor: Cursor) -> None:
            for tag in drop:
                cursor.run("DELETE FROM private_xml WHERE owner = ? AND tag = ?", str(user), tag)
            for tag, content in given.items():
                cursor.run(
                    "INSERT INTO private_xml (owner, tag, content) VALUES (?, ?, ?)"
                    " ON CONFLICT (owner, tag) DO UPDATE SET content = excluded.content",
                    str(user),
                    tag,
                    content,
                )
            if cursor.value("SELECT COUNT(*) FROM private_xml WHERE owner = ?", str(user)) > most:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text=f"at most {most} elements")

        return put

    # ---- bookmarks --------------------------------------------------------------------------------------------------

    async def _bookmarks(self, user: JID) -> bytes | None:
        """The list that personal eventing holds (XEP-0411 §3)."""
        pep = self.kernel.service_or_none(PepService)
        if pep is None or not await self._is_private(pep, user):
            return None
        items = await pep.items(user, _NODE)
        return items.get(_ITEM) or next(reversed(items.values()), None)

    async def _move(self) -> None:
        """Bookmarks that were stored here go to personal eventing, if they are not there already."""
        pep = self.kernel.service(PepService)
        after = ""
        while rows := await self.db.fetch(
            "SELECT owner, content FROM private_xml WHERE tag = ? AND owner > ? ORDER BY owner LIMIT 100",
            BOOKMARKS,
            after,
        ):
            for owner, content in rows:
                after = owner
                user = JID.parse(owner)
                try:
                    if await pep.access(user, _NODE) is None:
                        put = self._put(user, {}, (BOOKMARKS,))
                        await pep.publish(user, _NODE, {_ITEM: bytes(content)}, _OPTIONS, put)
                except StanzaError as error:  # a limit; they stay where they are, and are read from there
                    log.warning("bookmarks_not_moved", user=owner, reason=error.condition.value)

    async def _is_private(self, pep: PepService, user: JID) -> bool:
        return await pep.access(user, _NODE) in (None, "whitelist")


def _owner(ctx: Context) -> Session:
    if ctx.origin is None:
        raise StanzaError(Condition.FORBIDDEN)
    return ctx.origin


def _tag(el: Element) -> str:
    """The key of an element. Raises `StanzaError(not-acceptable)` for one without a namespace of its own."""
    tag = str(el.tag)
    if namespace_of(el) in ("", NS, "jabber:client") or len(tag) > _TAG_LENGTH:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text="an element has a namespace of its own")
    return tag


def _empty(el: Element) -> Element:
    """What is answered where nothing is stored: the element that was asked for."""
    return make(str(el.tag))
