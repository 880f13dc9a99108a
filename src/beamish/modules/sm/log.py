"""The log of stream management: what one tick did to all managed sessions is one row, until it is folded.

A row of `sm_log` holds messages handed to sessions, how many stanzas of clients were handled, and which of the messages
in the log were confirmed meanwhile. Most messages are confirmed while they are still in the log, so they never become rows of
their own. `Fold` is what is left, and brings it to `sm_message` and `sm_session`; at a start, the rows are read in their order
and folded at once.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from beamish.storage.api import Cursor

Message = tuple[int, int, int | None, float, bytes]
"""A message that waits for its confirmation: its number, the session's key, its count on the stream (None: never sent, or
not known), when, bytes."""

MESSAGE: Final = "INSERT INTO sm_message (id, session, sent, stamp, wire) VALUES (?, ?, ?, ?, ?)"
_APPEND: Final = "INSERT INTO sm_log (messages, counts, confirmed, head, wires) VALUES (?, ?, ?, ?, ?)"
_ROWS: Final = 64
"""Rows read at once at a start."""


def write_messages(c: Cursor, messages: Sequence[Message]) -> None:
    """Store messages that were handed to sessions."""
    rows, keys, counts, stamps, wires = zip(*messages, strict=True)
    n = len(rows)
    head = struct.pack(
        f"<{n}q{n}q{n}q{n}d{n}I",
        *rows,
        *keys,
        *(-1 if count is None else count for count in counts),
        *stamps,
        *map(len, wires),
    )
    c.run(_APPEND, n, 0, 0, head, b"".join(wires))


def write_counts(c: Cursor, handled: Sequence[tuple[int, int]], confirmed: Collection[int]) -> None:
    """Store how many stanzas were handled, by the key of the session, and which messages of the log were confirmed."""
    if not handled and not confirmed:
        return
    keys = [key for key, _ in handled]
    counts = [count for _, count in handled]
    m, k = len(handled), len(confirmed)
    c.run(_APPEND, 0, m, k, struct.pack(f"<{m}q{m}q{k}q", *keys, *counts, *confirmed), b"")


@dataclass(slots=True)
class Fold:
    """What the log comes to: messages not confirmed yet, by number, and counts of handled stanzas, by session."""

    messages: Mapping[int, Message] = field(default_factory=dict)
    handled: Mapping[int, int] = field(default_factory=dict)

    def run(self, c: Cursor) -> None:
        """Put it in the place of the log."""
        c.run("DELETE FROM sm_log")
        if self.messages:
            c.many(MESSAGE, list(self.messages.values()))
        if self.handled:
            c.many("UPDATE sm_session SET handled = ? WHERE key = ?", [(n, key) for key, n in self.handled.items()])


class Folding:
    """A fold under way, and what has happened meanwhile to what is in it: the disk may refuse it."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.confirmed: set[int] = set()
        """Messages confirmed meanwhile, perhaps others, too."""
        self.counts: dict[int, int] = {}
        """New counts of messages."""

    def left(self) -> dict[int, Message]:
        """Its messages as they should be in the next one."""
        return {
            row: message if (count := self.counts.get(row)) is None else (*message[:2], count, *message[3:])
            for row, message in self.fold.messages.items()
            if row not in self.confirmed
        }


def read(c: Cursor) -> Fold:
    """What the log in the database comes to."""
    messages: dict[int, Message] = {}
    handled: dict[int, int] = {}
    confirmed: list[int] = []
    last = -1
    while True:
        rows = c.rows(
            "SELECT id, messages, counts, confirmed, head, wires FROM sm_log WHERE id > ? ORDER BY id LIMIT ?",
            last,
            _ROWS,
        )
        for id_, n, m, k, head, wires in rows:
            last = id_
            if n:
                messages.update((message[0], message) for message in _messages(n, head, wires))
            if m or k:
                values = struct.unpack(f"<{m}q{m}q{k}q", head)
                handled.update(zip(values[:m], values[m : 2 * m], strict=True))
                confirmed += values[2 * m :]
        if len(rows) < _ROWS:
            break
    for row in confirmed:
        messages.pop(row, None)
    return Fold(messages, handled)


def _messages(n: int, head: bytes, wires: bytes) -> list[Message]:
    values = struct.unpack(f"<{n}q{n}q{n}q{n}d{n}I", head)
    rows, keys, counts, stamps, lengths = (values[at * n : (at + 1) * n] for at in range(5))
    made = []
    for row, key, count, stamp, length, end in zip(
        rows, keys, counts, stamps, lengths, accumulate(lengths), strict=True
    ):
        made.append((row, key, None if count < 0 else count, stamp, wires[end - length : end]))
    return made
