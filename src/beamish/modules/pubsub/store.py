"""The tables of nodes and items, and what is done to them inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Host, Item, Node, Subscription
from beamish.modules.pubsub.names import Affiliation, State, refused
from beamish.modules.pubsub.options import Options
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.rsm import Page, Request

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE pubsub_node (id {pk}, host TEXT NOT NULL, name TEXT NOT NULL, creator TEXT NOT NULL, "
            "created {timestamp} NOT NULL, config TEXT NOT NULL, UNIQUE (host, name))",
            "CREATE TABLE pubsub_affiliation (node INTEGER NOT NULL REFERENCES pubsub_node (id), "
            "jid TEXT NOT NULL, affiliation TEXT NOT NULL, "
            "PRIMARY KEY (node, jid))",
            "CREATE TABLE pubsub_subscription (subid TEXT PRIMARY KEY, node INTEGER NOT NULL REFERENCES pubsub_node (id), "
            "jid TEXT NOT NULL, state TEXT NOT NULL, options TEXT NOT NULL)",
            "CREATE INDEX pubsub_subscription_node ON pubsub_subscription (node)",
            "CREATE TABLE pubsub_item (seq {pk}, node INTEGER NOT NULL REFERENCES pubsub_node (id), "
            "item TEXT NOT NULL, publisher TEXT NOT NULL, "
            "published {timestamp} NOT NULL, payload {bytes} NOT NULL, UNIQUE (node, item))",
            "CREATE INDEX pubsub_item_order ON pubsub_item (node, seq)",
            "CREATE TABLE pubsub_moved (host TEXT NOT NULL, name TEXT NOT NULL, uri TEXT NOT NULL, "
            "PRIMARY KEY (host, name))",
            "CREATE TABLE pubsub_digest (id {pk}, subid TEXT NOT NULL, since {timestamp} NOT NULL, "
            "event {bytes} NOT NULL)",
            "CREATE INDEX pubsub_digest_subid ON pubsub_digest (subid, id)",
        ),
    ),
)
_ITEM: Final = "SELECT item, payload, publisher, published, seq FROM pubsub_item"
DIGEST_EVENTS: Final = 1000
"""Notifications collected for one digest; the oldest go first."""
DIGEST_BYTES: Final = 1_048_576
"""Bytes collected for one digest, unless its newest notification alone is larger."""


class NodeFull(Exception):
    """A node that rejects what is beyond its limit is full (§7.1.3.4)."""


class NotOwnItem(Exception):
    """A publisher may delete, and where everybody publishes replace, only what it published."""


def load(c: Cursor, host: Host) -> None:
    """Fill a host with its nodes, affiliations and subscriptions."""
    address = str(host.jid)
    by_id: dict[int, Node] = {}
    for id_, name, creator, created, config in c.rows(
        "SELECT id, name, creator, created, config FROM pubsub_node WHERE host = ? ORDER BY id", address
    ):
        by_id[id_] = Node(id_, name, JID.parse(creator), created, NodeConfig.from_json(config))
    for id_, jid, affiliation in c.rows(
        "SELECT node, jid, affiliation FROM pubsub_affiliation "
        "WHERE node IN (SELECT id FROM pubsub_node WHERE host = ?)",
        address,
    ):
        by_id[id_].affiliations[JID.parse(jid)] = Affiliation(affiliation)
    for subid, id_, jid, state, options in c.rows(
        "SELECT subid, node, jid, state, options FROM pubsub_subscription "
        "WHERE node IN (SELECT id FROM pubsub_node WHERE host = ?)",
        address,
    ):
        subscription = Subscription(JID.parse(jid), subid, State(state), Options.from_json(options))
        by_id[id_].enter(subscription)
    host.stored = c.value(
        "SELECT coalesce(sum(length(payload)), 0) FROM pubsub_item "
        "WHERE node IN (SELECT id FROM pubsub_node WHERE host = ?)",
        address,
    )
    for name, uri in c.rows("SELECT name, uri FROM pubsub_moved WHERE host = ?", address):
        host.moved[name] = uri
    for node in by_id.values():
        host.add(node)


# ---- nodes ----------------------------------------------------------------------------------------------------------


def create_node(c: Cursor, host: str, node: Node) -> int:
    """Store a new node with its affiliations; its id."""
    c.run("DELETE FROM pubsub_moved WHERE host = ? AND name = ?", host, node.name)
    id_ = c.value(
        "INSERT INTO pubsub_node (host, name, creator, created, config) VALUES (?, ?, ?, ?, ?) RETURNING id",
        host,
        node.name,
        str(node.creator),
        node.created,
        node.config.to_json(),
    )
    for jid, affiliation in node.affiliations.items():
        set_affiliation(c, id_, jid, affiliation)
    return int(id_)


def set_config(c: Cursor, node: int, config: NodeConfig) -> None:
    """Store a changed configuration."""
    c.run("UPDATE pubsub_node SET config = ? WHERE id = ?", config.to_json(), node)


def delete_node(c: Cursor, host: str, name: str, node: int, uri: str, moved_limit: int) -> None:
    """Delete a node with everything in it, remembering where it went."""
    c.run("DELETE FROM pubsub_digest WHERE subid IN (SELECT subid FROM pubsub_subscription WHERE node = ?)", node)
    for table in ("pubsub_item", "pubsub_subscription", "pubsub_affiliation"):
        c.run(f"DELETE FROM {table} WHERE node = ?", node)
    c.run("DELETE FROM pubsub_node WHERE id = ?", node)
    if uri and c.value("SELECT count(*) FROM pubsub_moved WHERE host = ?", host) < moved_limit:
        c.run(
            "INSERT INTO pubsub_moved (host, name, uri) VALUES (?, ?, ?) "
            "ON CONFLICT (host, name) DO UPDATE SET uri = excluded.uri",
            host,
            name,
            uri,
        )


def delete_host(c: Cursor, host: str) -> None:
    """Delete everything an address has."""
    for id_, name in c.rows("SELECT id, name FROM pubsub_node WHERE host = ?", host):
        delete_node(c, host, name, id_, "", 0)
    c.run("DELETE FROM pubsub_moved WHERE host = ?", host)


def set_affiliation(c: Cursor, node: int, jid: JID, affiliation: Affiliation) -> None:
    """Store an affiliation; `none` deletes it."""
    if affiliation is Affiliation.NONE:
        c.run("DELETE FROM pubsub_affiliation WHERE node = ? AND jid = ?", node, str(jid))
        return
    c.run(
        "INSERT INTO pubsub_affiliation (node, jid, affiliation) VALUES (?, ?, ?) "
        "ON CONFLICT (node, jid) DO UPDATE SET affiliation = excluded.affiliation",
        node,
        str(jid),
        affiliation.value,
    )


def set_subscription(c: Cursor, node: int, subid: str, jid: JID, state: State, options: Options) -> None:
    """Store a subscription, new or changed; `none` deletes it with its pending digest."""
    if state is State.NONE:
        c.run("DELETE FROM pubsub_digest WHERE subid = ?", subid)
        c.run("DELETE FROM pubsub_subscription WHERE subid = ?", subid)
        return
    c.run(
        "INSERT INTO pubsub_subscription (subid, node, jid, state, options) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (subid) DO UPDATE SET state = excluded.state, options = excluded.options",
        subid,
        node,
        str(jid),
        state.value,
        options.to_json(),
    )


# ---- items ----------------------------------------------------------------------------------------------------------


def put_items(
    c: Cursor, node: int, items: Sequence[Item], keep: int, *, reject: bool = False, only_of: JID | None = None
) -> tuple[list[str], int]:
    """Store items, replacing those of the same id, and trim the node to `keep`, oldest first.

    Returns the ids of the items that had to go, and by how many bytes the node has grown. Raises `NodeFull`, and
    `NotOwnItem` if an item to be replaced is not of `only_of`.
    """
    grown = 0
    more = False
    for item in items:
        old = c.row(
            "SELECT seq, length(payload), seq = (SELECT max(seq) FROM pubsub_item WHERE node = ?), publisher "
            "FROM pubsub_item WHERE node = ? AND item = ?",
            node,
            node,
            item.id,
        )
        grown += len(item.payload)
        if old is not None:
            seq, size, newest, publisher = old
            if only_of is not None and publisher != only_of:
                raise NotOwnItem
            grown -= size
            if newest:  # it stays that: no index changes, and one page of the file instead of four
                c.run(
                    "UPDATE pubsub_item SET publisher = ?, published = ?, payload = ? WHERE seq = ?",
                    str(item.publisher),
                    item.published,
                    item.payload,
                    seq,
                )
                continue
            c.run("DELETE FROM pubsub_item WHERE seq = ?", seq)
        more = True
        c.run(
            "INSERT INTO pubsub_item (node, item, publisher, published, payload) VALUES (?, ?, ?, ?, ?)",
            node,
            item.id,
            str(item.publisher),
            item.published,
            item.payload,
        )
    if not more:
        return [], grown
    gone, shrunk = trim(c, node, keep, look_only=reject)
    if gone and reject:
        raise NodeFull
    return gone, grown - shrunk


def trim(c: Cursor, node: int, keep: int, *, look_only: bool = False) -> tuple[list[str], int]:
    """Delete the oldest items beyond `keep`; their ids, oldest first, and their bytes."""
    edge = c.value("SELECT seq FROM pubsub_item WHERE node = ? ORDER BY seq DESC LIMIT 1 OFFSET ?", node, keep)
    if edge is None:
        return [], 0
    rows = c.rows("SELECT item, length(payload) FROM pubsub_item WHERE node = ? AND seq <= ? ORDER BY seq", node, edge)
    if not look_only:
        c.run("DELETE FROM pubsub_item WHERE node = ? AND seq <= ?", node, edge)
    return [item for item, _ in rows], sum(size for _, size in rows)


def retract(c: Cursor, node: int, ids: Sequence[str], only_of: JID | None) -> int:
    """Delete items, all or none; how many bytes that were.

    Raises `StanzaError(item-not-found)`, and `NotOwnItem` if `only_of` did not publish one of them.
    """
    size = 0
    for id_ in ids:
        row = c.row("SELECT publisher, length(payload) FROM pubsub_item WHERE node = ? AND item = ?", node, id_)
        if row is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such item")
        if only_of is not None and row[0] != only_of:
            raise NotOwnItem
        size += row[1]
        c.run("DELETE FROM pubsub_item WHERE node = ? AND item = ?", node, id_)
    return size


def purge(c: Cursor, node: int) -> int:
    """Delete all items; how many bytes that were."""
    size = c.value("SELECT coalesce(sum(length(payload)), 0) FROM pubsub_item WHERE node = ?", node)
    c.run("DELETE FROM pubsub_item WHERE node = ?", node)
    return int(size)


def overdue(c: Cursor, node: int, before: float) -> bool:
    """Whether the oldest item was published before a time. Items are in the order of their times, but for clocks put back."""
    oldest = c.value("SELECT published FROM pubsub_item WHERE node = ? ORDER BY seq LIMIT 1", node)
    return oldest is not None and oldest <= before


def expire(c: Cursor, node: int, before: float, most: int) -> tuple[int, int]:
    """Delete the oldest items, those published before a time, at most so many; how many and how many bytes they were."""
    last = count = size = 0
    for seq, published, length in c.rows(
        "SELECT seq, published, length(payload) FROM pubsub_item WHERE node = ? ORDER BY seq LIMIT ?", node, most
    ):
        if published > before:
            break
        last, count, size = seq, count + 1, size + length
    if count:
        c.run("DELETE FROM pubsub_item WHERE node = ? AND seq <= ?", node, last)
    return count, size


def _item(row: tuple[object, ...]) -> Item:
    id_, payload, publisher, published, seq = row
    return Item(str(id_), bytes(payload), JID.parse(str(publisher)), published, seq)  # type: ignore[call-overload, arg-type]


def by_ids(c: Cursor, node: int, ids: Sequence[str], after: float) -> list[Item]:
    """Items by id, in the order asked for; those that do not exist are left out."""
    found = []
    for id_ in dict.fromkeys(ids):
        row = c.row(f"{_ITEM} WHERE node = ? AND item = ? AND published > ?", node, id_, after)
        if row is not None:
            found.append(_item(row))
    return found


def last_item(c: Cursor, node: int) -> Item | None:
    """The item published last."""
    row = c.row(f"{_ITEM} WHERE node = ? ORDER BY seq DESC LIMIT 1", node)
    return None if row is None else _item(row)


def latest(c: Cursor, node: int, count: int, after: float, most_bytes: int) -> tuple[list[Item], bool]:
    """The last `count` items, oldest first; and whether `most_bytes` cut some off."""
    where = "WHERE node = ? AND published > ? ORDER BY seq DESC"
    rows = _bounded(c, where, (node, after), count, 0, most_bytes)
    more = len(rows) < count and len(rows) < c.value("SELECT count(*) FROM pubsub_item WHERE node = ?", node)
    return rows[::-1], more


def page(c: Cursor, node: int, request: Request, most: int, after: float, most_bytes: int) -> tuple[list[Item], Page]:
    """One page of a node's items, oldest first (XEP-0059). Raises `StanzaError(item-not-found)`."""
    total = c.value("SELECT count(*) FROM pubsub_item WHERE node = ? AND published > ?", node, after)
    where, args = "node = ? AND published > ?", [node, after]
    for edge, sign in ((request.after, ">"), (request.before or None, "<")):
        if edge is not None:
            seq = c.value("SELECT seq FROM pubsub_item WHERE node = ? AND item = ?", node, edge)
            if seq is None:
                raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such item to page from")
            where += f" AND seq {sign} ?"
            args.append(seq)
    backwards = request.before is not None and request.after is None
    order = "DESC" if backwards else "ASC"
    order_by = f"WHERE {where} ORDER BY seq {order}"
    rows = _bounded(c, order_by, args, request.limit(most), request.index or 0, most_bytes)
    if backwards:
        rows.reverse()
    if not rows:
        return [], Page(count=total)
    index = c.value(
        "SELECT count(*) FROM pubsub_item WHERE node = ? AND published > ? AND seq < ?", node, after, rows[0].seq
    )
    return rows, Page(rows[0].id, rows[-1].id, total, index)


def _bounded(c: Cursor, where: str, args: Sequence[object], limit: int, offset: int, most_bytes: int) -> list[Item]:
    """Items up to a number and a size, at least one; sizes are looked at before any payload is read."""
    count = size = 0
    for (length,) in c.rows(f"SELECT length(payload) FROM pubsub_item {where} LIMIT ? OFFSET ?", *args, limit, offset):
        size += length
        if count and size > most_bytes:
            break
        count += 1
    return [_item(row) for row in c.rows(f"{_ITEM} {where} LIMIT ? OFFSET ?", *args, count, offset)]


def ids(c: Cursor, node: int, after: float, most: int) -> list[str]:
    """The ids of the newest items, oldest first."""
    rows = c.rows(
        "SELECT item FROM pubsub_item WHERE node = ? AND published > ? ORDER BY seq DESC LIMIT ?", node, after, most
    )
    return [id_ for (id_,) in reversed(rows)]


# ---- digests --------------------------------------------------------------------------------------------------------


def collect(c: Cursor, subids: Sequence[str], at: float, event: bytes) -> None:
    """Keep an event for the next digest of some subscriptions."""
    for subid in subids:
        c.run("INSERT INTO pubsub_digest (subid, since, event) VALUES (?, ?, ?)", subid, at, event)
        c.run(
            "DELETE FROM pubsub_digest WHERE subid = ? AND id <= "
            "(SELECT id FROM pubsub_digest WHERE subid = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            subid,
            subid,
            DIGEST_EVENTS,
        )
        if c.value("SELECT sum(length(event)) FROM pubsub_digest WHERE subid = ?", subid) > DIGEST_BYTES:
            c.run(
                "DELETE FROM pubsub_digest WHERE subid = ? AND id < (SELECT max(id) FROM pubsub_digest WHERE subid = ?) "
                "AND id IN (SELECT id FROM (SELECT id, sum(length(event)) OVER (ORDER BY id DESC) AS size "
                "FROM pubsub_digest WHERE subid = ?) AS newest WHERE size > ?)",
                subid,
                subid,
                subid,
                DIGEST_BYTES,
            )


def digest(c: Cursor, subid: str) -> tuple[list[bytes], int]:
    """What was collected for a subscription, oldest first, and up to which row that is."""
    rows = c.rows("SELECT id, event FROM pubsub_digest WHERE subid = ? ORDER BY id", subid)
    return [bytes(event) for _, event in rows], rows[-1][0] if rows else 0


def drop_digest(c: Cursor, subid: str, upto: int) -> None:
    """Delete what was collected, up to a row."""
    c.run("DELETE FROM pubsub_digest WHERE subid = ? AND id <= ?", subid, upto)


def waiting_digests(c: Cursor) -> list[tuple[str, str, float]]:
    """Subscriptions with something collected: host, subid, since when."""
    rows = c.rows(
        "SELECT n.host, d.subid, min(d.since) FROM pubsub_digest d "
        "JOIN pubsub_subscription s ON s.subid = d.subid JOIN pubsub_node n ON n.id = s.node GROUP BY d.subid, n.host"
    )
    return [(host, subid, since) for host, subid, since in rows]


def full(reason: str = "node-full") -> StanzaError:
    """The node takes no more items (§7.1.3.4)."""
    return refused(Condition.CONFLICT, reason, Kind.CANCEL)


# ---- at start -------------------------------------------------------------------------------------------------------


def forget_temporary(c: Cursor) -> None:
    """Delete the subscriptions that end with their subscriber's presence; nobody is available when a server starts."""
    temporary = """options LIKE '%"expire":"presence"%'"""
    c.run(f"DELETE FROM pubsub_digest WHERE subid IN (SELECT subid FROM pubsub_subscription WHERE {temporary})")
    c.run(f"DELETE FROM pubsub_subscription WHERE {temporary}")


def purging_hosts(c: Cursor) -> list[str]:
    """Hosts with nodes that are emptied when their publisher goes."""
    return [
        host
        for (host,) in c.rows("""SELECT DISTINCT host FROM pubsub_node WHERE config LIKE '%"purge_offline":true%'""")
    ]


def hosts_with(c: Cursor, hosts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Which of these hosts have a node of one of these names; at most a few hundred of each."""
    if not hosts or not names:
        return []
    marks = ",".join("?" * len(hosts)), ",".join("?" * len(names))
    rows = c.rows(
        f"SELECT DISTINCT host FROM pubsub_node WHERE host IN ({marks[0]}) AND name IN ({marks[1]})", *hosts, *names
    )
    return [host for (host,) in rows]


def hosts_that_know(c: Cursor, user: str) -> list[str]:
    """Hosts with nodes at which an account (bare address) has an affiliation or subscriptions."""
    rows = c.rows(
        "SELECT host FROM pubsub_node WHERE id IN (SELECT node FROM pubsub_affiliation WHERE jid = ? "
        "UNION SELECT node FROM pubsub_subscription WHERE jid = ? OR substr(jid, 1, ?) = ?) GROUP BY host",
        user,
        user,
        len(user) + 1,
        f"{user}/",
    )
    return [host for (host,) in rows]


def published_by(c: Cursor, node: int, publisher: JID) -> list[str]:
    """The items of one publisher, oldest first."""
    rows = c.rows("SELECT item FROM pubsub_item WHERE node = ? AND publisher = ? ORDER BY seq", node, str(publisher))
    return [id_ for (id_,) in rows]
