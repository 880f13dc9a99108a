"""The whole archive against lists in Python: what comes, what goes, and every page in between."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.modules.mam.archives import cursor, fresh_entry, look_through

from beamish.modules.mam import lists, merging, packing, pages, removal, store
from beamish.xmpp.payload import rsm
from beamish.xmpp.stanza import Stanza

OWNERS = ("juliet@example.org", "nurse@example.org", "\u00e9@example.org")
PEERS = ("romeo@example.net", "friar@example.net")
RESOURCES = ("r", "d", "")
WORDS = ("alpha", "beta", "gamma")


@dataclass
class Message:
    """A message as the model has it."""

    number: int
    salt: int
    kind: int
    peer: str
    resource: str
    words: str
    size: int


OWNER = st.sampled_from(OWNERS)
MESSAGES = st.lists(
    st.tuples(
        st.integers(1, 40),
        OWNER,
        st.sampled_from(PEERS),
        st.sampled_from(RESOURCES),
        st.sets(st.sampled_from(WORDS)),
        st.booleans(),
        st.sampled_from((0, 0, 0, 200)),
    ),
    min_size=1,
    max_size=12,
)


class Archive(RuleBasedStateMachine):
    """Rows are small, so that a few messages fill several."""

    @initialize(
        chunk=st.sampled_from((1, 2, 5)),
        size=st.sampled_from((300, 1_000)),
        list_=st.sampled_from((1, 2, 4)),
        at_once=st.sampled_from((1, 3, 100)),
    )
    def begin(self, chunk: int, size: int, list_: int, at_once: int) -> None:
        self.patches = pytest.MonkeyPatch()
        for where, name, value in (
            (store, "CHUNK_MESSAGES", chunk),
            (store, "CHUNK_BYTES", size),
            (merging, "MERGE_ROWS", 9),
            (merging, "MERGE_PLACES", at_once),
            (merging, "PART_PLACES", min(at_once, 4)),
            (merging, "_LOG_ROWS", 2),
            (store, "TEXT_ROWS", 4),
            (store, "_CHUNKS", 2),
            (store, "RESOURCE_ROWS", 3),
            (lists, "LIST_NUMBERS", list_),
            (lists, "_ROWS", 2),
            (lists, "_COUNTED_ROWS", 2),
            (removal, "TRIM_ROWS", 4),
        ):
            self.patches.setattr(where, name, value)
        self.c = cursor()
        self.now = 0
        self.model: dict[str, list[Message]] = {owner: [] for owner in OWNERS}
        self.late: list[list[packing.Logged]] = []

    def teardown(self) -> None:
        if hasattr(self, "patches"):
            look_through(self.c)
            self.patches.undo()

    # ---- what comes --------------------------------------------------------------------------------------------------

    @rule(messages=MESSAGES, delayed=st.sampled_from((False, False, False, True)))
    def tick(self, messages: list[tuple[int, str, str, str, set[str], bool, int]], delayed: bool) -> None:
        entries = []
        for gap, owner, peer, resource, words, sent, padding in messages:
            self.now += gap
            text = " ".join(sorted(words))
            entry = fresh_entry(
                self.now, owner, peer, resource or "none", text, f"m{self.now}", packing.SENT if sent else 0
            )
            wire = entry[4].replace(b"/none'", b"'").replace(b"</message>", b"<x/>" * (padding // 4) + b"</message>")
            entry = (*entry[:4], wire, owner)
            entries.append(entry)
            made = Message(self.now, entry[1], entry[2], peer, resource, text, len(wire))
            self.model[owner].append(made)
        if delayed:  # the disk does not take it at once
            self.late.append(entries)
            self.hidden(entries, True)
        else:
            store.write_log(self.c, entries)

    def hidden(self, entries: list[packing.Logged], away: bool) -> None:
        for entry in entries:
            own = self.model[entry[5]]
            if away:
                self.model[entry[5]] = [m for m in own if m.number != entry[0]]
            else:
                bare, resource = self.contact(entry)
                found = Message(
                    entry[0],
                    entry[1],
                    entry[2],
                    bare,
                    resource,
                    packing.words_of(Stanza.thaw(entry[4])) or "",
                    len(entry[4]),
                )
                self.model[entry[5]] = sorted([*own, found], key=lambda m: m.number)

    def contact(self, entry: packing.Logged) -> tuple[str, str]:
        stanza = Stanza.thaw(entry[4])
        other = stanza.to if entry[2] & packing.SENT else stanza.sender
        assert other is not None
        return str(other.bare), other.resource

    @precondition(lambda self: self.late)
    @rule()
    def late_tick(self) -> None:
        entries = self.late.pop(0)
        store.write_log(self.c, entries)
        self.hidden(entries, False)

    @rule()
    def merge(self) -> None:
        while merging.merge(self.c, lists.TOP, lists.TOP)[0]:
            pass

    @rule(owner=OWNER)
    def some_words(self, owner: str) -> None:
        store.index_text(self.c, owner)

    @rule(owner=OWNER, peer=st.sampled_from(PEERS))
    def some_resources(self, owner: str, peer: str) -> None:
        store.index_resources(self.c, owner, peer)

    # ---- what goes ---------------------------------------------------------------------------------------------------

    @rule(owner=OWNER, most=st.integers(0, 12), size=st.sampled_from((500, 1_500, lists.TOP)))
    def trim(self, owner: str, most: int, size: int) -> None:
        self.merge()
        account = self.c.value("SELECT num FROM mam_account WHERE jid = ?", owner)
        while account is not None and removal.trim(self.c, account, most, size):
            pass
        own = self.model[owner]
        while own and (len(own) > most or sum(m.size for m in own) > size):
            del own[0]

    @rule(owner=OWNER, back=st.integers(0, 100))
    def expire(self, owner: str, back: int) -> None:
        self.merge()
        while removal.expire(self.c, self.now - back):
            pass
        for owner_, own in self.model.items():
            self.model[owner_] = [m for m in own if m.number >= self.now - back]

    @rule(owner=OWNER)
    def forget(self, owner: str) -> None:
        self.merge()
        while removal.forget_account(self.c, owner):
            pass
        self.model[owner] = []

    @rule(owner=OWNER, which=st.integers(0, 30))
    def retract(self, owner: str, which: int) -> None:
        self.merge()
        own = self.model[owner]
        if not own:
            return
        message = own[which % len(own)]
        found = removal.find_original(
            self.c, owner, message.peer, message.resource, f"m{message.number}", bool(message.kind & packing.SENT)
        )
        if message.kind & ~packing.SENT:
            assert found is None
            return
        assert found is not None
        assert found[0] == message.number
        head, rest = found[1].split(b"<body", 1)
        assert rest
        tomb = head + b"<retracted xmlns='urn:xmpp:message-retract:1'/></message>"
        removal.replace(self.c, owner, message.number, packing.GRAVE, tomb)
        message.kind |= packing.GRAVE
        message.words, message.size = "", len(tomb)

    @rule(owner=OWNER, peer=st.sampled_from(PEERS), which=st.sets(st.integers(0, 20), min_size=1, max_size=6))
    def remove(self, owner: str, peer: str, which: set[int]) -> None:
        self.merge()
        shown = [m for m in self.model[owner] if m.peer == peer and not m.kind & packing.REMOVED]
        chosen = [m for at, m in enumerate(shown) if at in which]
        if not chosen:
            return
        chat = self.c.value(
            "SELECT t.num FROM mam_account a JOIN mam_chat t ON t.account = a.num WHERE a.jid = ? AND t.peer = ?",
            owner, peer,
        )  # fmt: skip
        removal.remove(self.c, owner, chat, [m.number for m in chosen])
        sizes = dict(self.c.rows("SELECT num, bytes FROM mam_account"))
        assert sizes
        account = self.c.value("SELECT num FROM mam_account WHERE jid = ?", owner)
        rows = {row.id: len(row.wire) for row in self.page(pages.Query(owner, size=250), 250).rows}
        for message in chosen:
            message.kind |= packing.REMOVED
            message.words, message.size = "", rows[message.number]
        assert sizes[account] == sum(m.size for m in self.model[owner])

    # ---- what is found -----------------------------------------------------------------------------------------------

    def page(self, query: pages.Query, size: int) -> pages.Result:
        return pages.page(self.c, replace(query, page=rsm.Request(size), size=size))

    @rule(
        owner=OWNER,
        contact=st.sampled_from(("", *PEERS)),
        resource=st.sampled_from(("", "r", "d")),
        word=st.sampled_from(("", *WORDS)),
        low=st.integers(0, 60),
        high=st.one_of(st.integers(0, 60), st.none()),
        size=st.integers(1, 6),
        backwards=st.booleans(),
    )
    def pages_join(
        self, owner: str, contact: str, resource: str, word: str, low: int, high: int | None, size: int, backwards: bool
    ) -> None:
        """All pages of a query, one behind the other, are what the model has."""
        self.merge()
        resource = resource if contact else ""
        while word and store.index_text(self.c, owner):
            pass
        while resource and store.index_resources(self.c, owner, contact):
            pass
        start, end = max(0, self.now - low * 3), lists.TOP if high is None else max(0, self.now - high * 3)
        expected = [
            m
            for m in self.model[owner]
            if start <= m.number < end
            and (not contact or (m.peer == contact and not m.kind & packing.REMOVED))
            and (not resource or m.resource == resource)
            and (not word or word in m.words.split())
        ]
        query = pages.Query(owner, contact, resource, start, end, text=word, size=size)
        seen: list[tuple[int, int, int]] = []
        place: tuple[int, int] | None = None
        for _ in range(len(expected) + 2):
            request = rsm.Request(size, None if backwards else "x", "x" if backwards else None)
            before, after = (place, None) if backwards else (None, place)
            result = pages.page(self.c, replace(query, page=request, page_before=before, page_after=after))
            assert result.count == len(expected)
            rows = [(row.id, row.salt, row.kind) for row in result.rows]
            if rows and not backwards:
                assert result.index == len(seen)
            seen = [*rows, *seen] if backwards else [*seen, *rows]
            assert result.complete is (len(seen) == len(expected))
            if result.complete:
                break
            place = rows[0 if backwards else -1][:2]
        assert seen == [(m.number, m.salt, m.kind) for m in expected]

    @rule()
    def agrees(self) -> None:
        look_through(self.c)


Archive.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestArchive = Archive.TestCase
