"""What the store holds: boxes in memory, rows in the database, and pages of messages as they go out.

A row is a message as its client will see it, with the time at which it came (XEP-0203). A page is read as one row: the
database strings the messages together, as each row of a result costs the thread that reads it a hand-over of the
interpreter.

As long as nothing of a box is under way to the disk, it is read by a reader, which waits for no commit. Otherwise the
reading takes its place in the queue of writes and sees all that was queued before.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.core.clock import stamp
from beamish.core.later import Begun
from beamish.core.tasks import TaskGroup
from beamish.modules.offline.worth import is_own_delay
from beamish.storage.api import Cursor, Database, Migration, StorageError
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza, insert_child

if TYPE_CHECKING:
    from beamish.core.sessions import Session

log = structlog.get_logger(__name__)

REMEMBERED: Final = 50_000
"""Accounts whose number of stored messages is kept in memory (about 300 bytes each)."""
PAGE: Final = 200
PAGE_BYTES: Final = 1_048_576
"""What is sent without a proof that the client takes it; far below the bytes that may wait for a client."""
AHEAD_BYTES: Final = 65_536
"""What is read for a client that has bound a resource, in the expectation that it will become available."""

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE offline_message (id {pk}, account TEXT NOT NULL, stamp {timestamp} NOT NULL, "
            "wire {bytes} NOT NULL)",
            "CREATE INDEX offline_message_account ON offline_message (account, id)",
        ),
    ),
)
_STORE: Final = "INSERT INTO offline_message (account, stamp, wire) VALUES (?, ?, ?)"
_REMOVE: Final = "DELETE FROM offline_message WHERE account = ? AND id <= ?"
_COUNT: Final = "SELECT COUNT(*), COALESCE(SUM(LENGTH(wire)), 0) FROM offline_message WHERE account = ?"
# the order of what is strung together is that of the rows below it
_TOGETHER: Final = (
    "SELECT COUNT(*), MAX(id), CAST(GROUP_CONCAT(wire, CHAR(30)) AS BLOB) FROM (SELECT id, wire FROM offline_message "
    "WHERE account = ? AND id <= ? ORDER BY id LIMIT ?)"
)
_SINGLY: Final = "SELECT id, stamp, wire FROM offline_message WHERE account = ? AND id <= ? ORDER BY id LIMIT ?"
_SEPARATOR: Final = b"\x1e"
"""What stands between two messages of a page. XML knows no such character."""
_ALL: Final = (1 << 63) - 1
_END: Final = b"'/></message>"
_STAMP_LENGTH: Final = len("2002-09-10T23:08:25.000Z")


class Page:
    """Messages on their way to a client, and what they are in the store: all of the account's up to row `last`.

    `kept` as long as the store has them; `refused` if the database would not remove them. `wires` are the messages, `joined`
    all of them in one piece; some rows may have been no messages, so there may be fewer than `count`. `upto` is the position
    in the database queue up to which the store was seen.
    """

    __slots__ = ("bytes", "count", "joined", "kept", "last", "more", "refused", "upto", "wires")

    def __init__(self, count: int, last: int, joined: bytes, more: bool) -> None:
        self.count = count
        self.bytes = len(joined) - max(0, count - 1)
        self.last = last
        self.joined = joined
        self.wires: list[bytes] = joined.split(_SEPARATOR) if count else []
        self.more = more
        """Whether there were more messages when it was read."""
        self.upto = 0
        self.kept = True
        self.refused = False


class StoredMessage(Stanza):
    """A message on its way from the store to a client. Most are sent as they are: its start tag is read when somebody asks."""

    __slots__ = ("page", "wire")

    def __init__(self, wire: bytes, page: Page) -> None:
        # the other attributes stay unset: see `__getattr__`
        self.name = MESSAGE
        self.wire = wire
        self.page = page

    def __getattr__(self, name: str) -> Any:
        """Whatever `Stanza` has, at the first look. Raises `ValueError` if the store had something else than a message."""
        if name not in Stanza.__slots__:
            raise AttributeError(name)
        read = Stanza.thaw(self.wire)
        for slot in Stanza.__slots__:
            setattr(self, slot, getattr(read, slot))
        return getattr(self, name)

    def to_wire(self) -> bytes:
        """The message as it was stored."""
        return self.wire


class Box:
    """What the store holds for one account, as far as memory knows.

    `count` and `bytes` are right once `known`; `epoch` tells rows counted by the first look from later ones. `added` and
    `changed` are the positions in the database queue of the latest new row and of the latest change at all. `removed`: the
    account goes away.
    """

    __slots__ = (
        "account",
        "added",
        "again",
        "ahead",
        "bytes",
        "changed",
        "count",
        "delivery",
        "epoch",
        "given",
        "gone",
        "known",
        "looking",
        "removed",
        "session",
    )

    def __init__(self, account: str) -> None:
        self.account = account
        self.count = 0
        self.bytes = 0
        self.epoch = 0
        self.added = 0
        self.changed = 0
        self.known = False
        self.removed = False
        self.ahead: Begun[Page] | None = None
        """The first page, being read before anybody wants it; as long as nothing changes."""
        self.looking: asyncio.Task[Page | StorageError | None] | None = None
        self.delivery: asyncio.Task[bool] | None = None
        self.session: Session | None = None
        """The session that the delivery is for, as long as it runs; `gone` once it has ended."""
        self.gone = False
        self.given = 0
        """The position in the database queue up to which the session has been given what was stored."""
        self.again = False
        """The session became fit for messages once more while the delivery ran."""


class Store:
    """The boxes of all accounts. At most `max_messages` and `max_bytes` are kept for one account."""

    def __init__(self, db: Database, tasks: TaskGroup, max_messages: int, max_bytes: int) -> None:
        self._db = db
        self._tasks = tasks
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._boxes: OrderedDict[str, Box] = OrderedDict()

    # ---- boxes ------------------------------------------------------------------------------------------------------

    def box(self, account: JID) -> Box:
        """The box of an account. Unless a delivery runs it must not be kept across an `await`: it may be forgotten."""
        boxes = self._boxes
        box = boxes.get(account)
        if box is not None:
            boxes.move_to_end(account)
            return box
        box = boxes[account] = Box(str(account))
        if len(boxes) > REMEMBERED:
            self._forget_one(box)
        return box

    def known_box(self, account: JID) -> Box | None:
        """The box of an account if there is anything known of it."""
        return self._boxes.get(account)

    def forget(self, account: JID) -> None:
        """A new account has nothing."""
        self._boxes.pop(account, None)

    def _forget_one(self, but: Box) -> None:
        """Forget what was not asked for longest; not while something of it is under way: the next look would miss it."""
        durable = self._db.durable
        for key, box in self._boxes.items():
            if box.session is None and box.looking is None and box.changed <= durable and box is not but:
                del self._boxes[key]
                return

    async def know(self, box: Box) -> None:
        """See to it that what the box holds has been counted. Raises `StorageError`."""
        if not box.known:
            await self._look(box, False)

    async def _look(self, box: Box, read: bool) -> Page | None:
        """Count what the box holds and perhaps `read` the first page of it."""
        if box.looking is None:
            box.looking = self._tasks.spawn(self._look_once(box, read), "count")
        found = await asyncio.shield(box.looking)
        if isinstance(found, StorageError):
            raise found
        return found

    async def _look_once(self, box: Box, read: bool) -> Page | StorageError | None:
        look = partial(_look, box.account, read)
        try:
            upto = self._begin_count(box)
            exact = upto > self._db.durable
            if not exact:
                count, size, page = await self._db.read("offline.look", look)
                if box.added > upto:  # nobody knows whether what was stored meanwhile is counted
                    upto, exact = self._begin_count(box), True
            if exact:  # what is queued by now is seen, whatever comes later is not
                count, size, page = await self._db.write("offline.look", look)
        except StorageError as exc:
            return exc
        finally:
            box.looking = None
        box.count += count
        box.bytes += size
        box.known = True
        if page is not None:
            page.upto = upto
        return page

    def _begin_count(self, box: Box) -> int:
        """Count what comes from now on; the position of the latest change."""
        box.epoch += 1
        box.count = box.bytes = 0
        return box.changed

    # ---- storing ----------------------------------------------------------------------------------------------------

    def append(self, box: Box, stanza: Stanza, when: float, failed: Callable[[Exception], None]) -> int:
        """Queue a message that came at this time; its position. `failed` is called if the database refuses it later.

        Raises `StanzaError`: `service-unavailable` if the box is full (XEP-0160 §2), or `unable`.
        """
        wire = stanza.to_wire()
        if not isinstance(stanza, StoredMessage):  # which has its stamp
            wire = insert_child(wire, MESSAGE, _delay(box.account.rpartition("@")[2], round(when * 1_000_000) // 1_000))
        size = len(wire)
        if box.count >= self._max_messages or box.bytes + size > self._max_bytes:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, text="offline storage full")
        lost = partial(self._lost, box, box.epoch, size, failed)
        try:
            position = self._db.append("offline.store", _STORE, (box.account, when, wire), lost)
        except StorageError:
            raise unable() from None
        box.count += 1
        box.bytes += size
        box.added = box.changed = position
        box.ahead = None
        return position

    def _lost(self, box: Box, epoch: int, size: int, failed: Callable[[Exception], None], exc: Exception) -> None:
        """The row was not committed; nothing has been acknowledged yet."""
        log.error("offline_message_not_stored", user=box.account, error=repr(exc))
        if box.epoch == epoch:
            box.count -= 1
            box.bytes -= size
        failed(exc)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def look_ahead(self, box: Box) -> None:
        """Somebody will probably want the first page soon: read it, if it is small; count what has not been counted."""
        if box.known:
            if box.count and box.bytes <= AHEAD_BYTES and box.ahead is None:
                box.ahead = Begun(self._page(box))
        elif box.looking is None:
            box.looking = self._tasks.spawn(self._look_once(box, False), "count")

    async def page(self, box: Box) -> Page:
        """The oldest messages, as many as are sent at once. Raises `StorageError`."""
        ahead, box.ahead = box.ahead, None
        if ahead is not None:
            with suppress(StorageError):  # that was too early, perhaps
                return await ahead
        return await self._page(box)

    async def _page(self, box: Box) -> Page:
        page = None if box.known else await self._look(box, True)
        if page is None:
            page = await self._read(box)
        domain = box.account.rpartition("@")[2]
        start = f"<delay xmlns='{ns.DELAY}' from='{domain}' stamp='".encode()
        length = len(start) + _STAMP_LENGTH + len(_END)
        wires = page.wires
        if len(wires) != page.count or not all(
            wire.startswith(start, -length) and wire.endswith(_END) for wire in wires
        ):
            rows = await self._db.read("offline.page", lambda c: c.rows(_SINGLY, box.account, page.last, page.count))
            page.wires = [wire for row in rows if (wire := _mended(box.account, domain, *row)) is not None]
        return page

    async def _read(self, box: Box) -> Page:
        read = partial(_page, box.account, box.count <= PAGE and box.bytes <= PAGE_BYTES)
        upto = box.changed
        database = self._db
        page = await (database.write if upto > database.durable else database.read)("offline.page", read)
        page.upto = upto
        return page

    # ---- removing ---------------------------------------------------------------------------------------------------

    def remove(self, box: Box, page: Page, *, soon: bool) -> None:
        """Queue the removal of a page. Nobody waits for it: should it be refused, the messages are still there.

        Without `soon` it goes with the next commit, and makes one of its own only after a tenth of a second. Should the server
        be killed before, they are given out again, as if it had been killed before the proof came.
        """
        box.count -= page.count
        box.bytes -= page.bytes
        page.kept = False
        refused = partial(self._not_removed, box, box.epoch, page)
        values = (box.account, page.last)
        try:
            if soon:  # a stream has just stored them: one goes with the other
                work = partial(_run_removal, values)
                box.changed = self._db.submit("offline.remove", work, refused, whole=True)
            else:
                box.changed = self._db.append("offline.remove", _REMOVE, values, refused, lazy=True)
        except StorageError as exc:
            refused(exc)

    def _not_removed(self, box: Box, epoch: int, page: Page, exc: Exception) -> None:
        log.warning("offline_messages_not_removed", user=box.account, error=repr(exc))
        page.kept = page.refused = True
        if box.epoch == epoch:
            box.count += page.count
            box.bytes += page.bytes

    async def remove_account(self, box: Box) -> None:
        """Remove all that the account has. Raises `StorageError`."""
        await self._db.write(
            "offline.remove_account", lambda c: c.run("DELETE FROM offline_message WHERE account = ?", box.account)
        )

    async def all(self, account: JID) -> list[Stanza]:
        """Every message of an account with its stamp, oldest first, as much as a box holds. Raises `StorageError`."""
        rows = await self._db.read("offline.all", lambda c: c.rows(_SINGLY, str(account), _ALL, self._max_messages))
        wires = (_mended(str(account), account.domain, *row) for row in rows)
        return [Stanza.parse(wire) for wire in wires if wire is not None]

    async def count(self, account: JID) -> tuple[int, int]:
        """Messages and bytes that are on disk for an account."""
        return await self._db.read("offline.count", lambda c: _counted(str(account), c))


def unable() -> StanzaError:
    """The error for a message that the database does not take."""
    return StanzaError(Condition.RESOURCE_CONSTRAINT, text="the message could not be stored")


@lru_cache(maxsize=64)  # many messages may come within one millisecond
def _delay(domain: str, milliseconds: int) -> bytes:
    """The time at which a message was stored (XEP-0203 §2)."""
    return f"<delay xmlns='{ns.DELAY}' from='{domain}' stamp='{stamp(milliseconds / 1_000)}'/>".encode()


def _mended(account: str, domain: str, id_: int, when: float, wire: bytes) -> bytes | None:
    """A message with its stamp, which those that earlier versions stored lack; None for what is no message."""
    wire = bytes(wire)
    try:
        # one with our own stamp was delivered before, and then handed back
        if not any(is_own_delay(el, domain) for el in Stanza.parse(wire).el):
            wire = insert_child(wire, MESSAGE, _delay(domain, round(float(when) * 1_000_000) // 1_000))
    except ValueError as exc:
        log.error("offline_message_damaged", user=account, id=id_, error=str(exc))
        return None
    return wire


# ---- on the database's threads --------------------------------------------------------------------------------------


def _counted(account: str, c: Cursor) -> tuple[int, int]:
    row = c.row(_COUNT, account)
    assert row is not None
    return int(row[0]), int(row[1])


def _look(account: str, read: bool, c: Cursor) -> tuple[int, int, Page | None]:
    """Messages and bytes that an account has, and its first page."""
    count, size = _counted(account, c)
    return count, size, _page(account, count <= PAGE and size <= PAGE_BYTES, c) if read else None


def _page(account: str, small: bool, c: Cursor) -> Page:
    """The oldest messages; `small` if all of them are few enough for a page."""
    last, more = (_ALL, False) if small else _end_of_page(account, c)
    row = c.row(_TOGETHER, account, last, PAGE)
    assert row is not None
    return _as_page(row, more)


def _end_of_page(account: str, c: Cursor) -> tuple[int, bool]:
    """The row with which the first page ends, and whether there are more."""
    sizes = c.rows(
        "SELECT id, LENGTH(wire) FROM offline_message WHERE account = ? ORDER BY id LIMIT ?", account, PAGE + 1
    )
    last = total = taken = 0
    for id_, size in sizes[:PAGE]:
        total += size
        if taken and total > PAGE_BYTES:
            break
        last = id_
        taken += 1
    return last, taken < len(sizes)


def _as_page(row: tuple[Any, ...], more: bool) -> Page:
    count, last, joined = row
    return Page(int(count), int(last or 0), bytes(joined or b""), more)


def _run_removal(values: tuple[str, int], c: Cursor) -> None:
    c.run(_REMOVE, *values)
