"""Messages in bytes, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.modules.mam import packing
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

PEER = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ENTRIES = st.lists(
    st.tuples(
        st.integers(0, (1 << 63) - 1),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, 7),
        PEER,
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda entry: entry[0],
).map(sorted)
COLUMNS = ("numbers", "salts", "kinds", "peers", "wires", "owners")
OWNERS = st.sampled_from(("", "juliet@example.org", "\u00e9@example.org"))


@given(ENTRIES)
def test_what_is_packed_comes_back(entries: list[packing.Entry]) -> None:
    head, wires = packing.pack(entries)
    chunk = packing.Chunk(len(entries), head, wires)
    assert chunk.entries() == entries
    assert chunk.numbers == packing.numbers_of(head, len(entries)) == tuple(entry[0] for entry in entries)
    assert chunk.peers() == [entry[3] for entry in entries]
    for at, (number, salt, kind, _, wire) in enumerate(entries):
        assert chunk.index(number) == at
        assert chunk.row(at) == (number, salt, kind, wire)
        assert chunk.wire(at) == wire
        assert chunk.may_hold(wire)
        for beside in {number - 1, number + 1} - set(chunk.numbers):
            assert chunk.index(beside) is None


@given(ENTRIES, st.data())
def test_a_log_of_several_owners_comes_back(entries: list[packing.Entry], data: Any) -> None:
    """Neighbours share a stanza, or have the same bytes in two objects, or different ones."""
    logged: list[packing.Logged] = []
    for entry in entries:
        wire = entry[4]
        if logged:
            same = logged[-1][4]
            wire = data.draw(st.sampled_from((wire, same, bytes(bytearray(same)))))
        logged.append((*entry[:4], wire, data.draw(OWNERS)))
    columns = packing.Columns()
    columns.add_log(len(logged), *packing.pack_log(logged))
    columns.add(logged)
    assert list(zip(*(getattr(columns, name) for name in COLUMNS), strict=True)) == logged * 2
    by_owner = columns.of_owners()
    assert list(by_owner) == list(dict.fromkeys(entry[5] for entry in logged))
    for owner, own in by_owner.items():
        assert own.entries() == [entry[:5] for entry in logged * 2 if entry[5] == owner]
        said: dict[str, list[int]] = {}
        for number, _, kind, peer, _ in own.entries():
            if not kind & packing.REMOVED:
                said.setdefault(peer, []).append(number)
        assert own.said_with() == said


@given(ENTRIES, st.integers(0, 40), st.integers(0, 40))
def test_messages_go_behind_those_in_a_row(entries: list[packing.Entry], first: int, end: int) -> None:
    columns = packing.Columns()
    columns.add((*entry, "") for entry in entries)
    first, end = sorted((min(first, len(entries)), min(end, len(entries))))
    if first < end:
        assert columns.piece(first, end) == packing.pack(entries[first:end])
        if first:
            before = packing.Chunk(first, *packing.pack(entries[:first]))
            assert before.size == sum(len(entry[4]) for entry in entries[:first])
            assert columns.piece(first, end, before) == packing.pack(entries[:end])


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=300))
def test_numbers(numbers: list[int]) -> None:
    data = packing.pack_numbers(numbers)
    assert len(data) == 8 * len(numbers)
    assert list(packing.numbers_of(data, len(numbers))) == numbers


def test_a_stanza_that_several_share_is_there_once() -> None:
    wire = b"<message><body>once</body></message>"
    entries: list[packing.Logged] = [(n, n, 0, "a@b", wire, owner) for n, owner in enumerate("xyz", start=1)]
    other = b"<message/>"
    entries += [(9, 9, 0, "a@b", other, "x"), (10, 1, 0, "a@b", wire, "x")]  # not behind one another: written again
    _, wires = packing.pack_log(entries)
    assert wires == wire + other + wire


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("<body>one</body>", "one"),
        ("<body>one &amp; &lt;two></body>", "one & <two>"),
        ("<body>one</body><body xml:lang='de'>eins</body>", "one\neins"),
        ("<body/>", None),
        ("<body></body>", None),
        ("<body>&#8364;&amp;</body>", "\u20ac&"),
        ("<body xml:lang='de'>eins</body>", "eins"),
        ("<x xmlns='urn:x'><body>no</body></x>", None),
        ("<body>one</body><x xmlns='urn:x'><body>no</body></x>", "one"),
        ("<x xmlns='urn:x'><body>no</body></x><body>one</body>", "one"),
        ("<body xmlns='urn:x'>no</body>", None),
        ("<received xmlns='urn:xmpp:receipts' id='1'/>", None),
        ("", None),
    ],
)
def test_words(inner: str, words: str | None) -> None:
    assert packing.words_of(Stanza.thaw(f"<message type='chat'>{inner}</message>".encode())) == words


@pytest.mark.parametrize(
    ("kind", "sender", "to", "resource"),
    [
        (0, "romeo@b/r", "juliet@b/x", "r"),
        (0, "romeo@b", "juliet@b/x", ""),
        (packing.SENT, "juliet@b/x", "romeo@b/r", "r"),
        (packing.SENT, "juliet@b/x", "romeo@b", ""),
        (packing.SENT, "juliet@b/x", "juliet@b/y", "x"),  # to herself
        (packing.SENT | packing.GRAVE, "juliet@b/x", "romeo@b/r", "r"),
    ],
)
def test_the_resource_of_the_contact(kind: int, sender: str, to: str, resource: str) -> None:
    stanza = Stanza.build("message", "chat", sender=JID.parse(sender), to=JID.parse(to))
    assert packing.resource_of(stanza, kind, JID.parse("juliet@b")) == resource


OWNER = JID.parse("juliet@example.org")
ADDRESS = st.sampled_from(
    (
        "juliet@example.org",
        "juliet@example.org/x",
        "romeo@b",
        "romeo@b/r",
        "romeo@b/a&b'c/d",
        "\u00e9@b/\u00fc",
        "b",
        "b/r",
        "a+b@b/r",
    )
)
INNER = st.lists(
    st.sampled_from(
        (
            "<body>one</body>",
            "<body>a &amp; b</body>",
            "<body>&#8364;</body>",
            "<body/>",
            "<body></body>",
            "<body xml:lang='de'>eins</body>",
            "<body xmlns='urn:x'>no</body>",
            "<x xmlns='urn:x'><body>no</body></x>",
            "<request xmlns='urn:xmpp:receipts'/>",
            "text",
        )
    ),
    max_size=3,
)
VALUE = st.sampled_from(("", "1", "from=", " from=&apos;a@b/c&apos;", "to=", "&lt;body", "x from=", "a&amp;b"))


@given(
    inner=INNER,
    sender=st.none() | ADDRESS,
    to=st.none() | ADDRESS,
    kind=st.integers(0, 7),
    id_=st.none() | VALUE,
    type_=st.sampled_from(("", " type='chat'")),
)
def test_what_a_pattern_tells_is_what_the_stanza_says(
    inner: list[str], sender: str | None, to: str | None, kind: int, id_: str | None, type_: str
) -> None:
    head = f"<message{type_}" + ("" if id_ is None else f" id='{id_}'")
    for name, address in (("from", sender), ("to", to)):
        if address is not None:
            head += f" {name}='{JID.parse(address).wire.decode()}'"
    wire = (f"{head}>{''.join(inner)}</message>" if inner else f"{head}/>").encode()
    stanza = Stanza.thaw(wire)
    words, resource = packing.words_of(stanza), packing.resource_of(stanza, kind, OWNER)
    assert packing.said(wire, kind, OWNER) == (None if words is None else (words, resource))
    assert packing.resource_in(wire, kind, OWNER) == resource
    assert packing.resource_in(stanza.to_wire(), kind, OWNER) == resource


@given(ENTRIES, st.integers(0, 40), st.integers(0, 40))
def test_some_messages_of_a_row(entries: list[packing.Entry], first: int, end: int) -> None:
    some = list(packing.Chunk(len(entries), *packing.pack(entries)).some(first, max(first, end)))
    assert some == [(number, kind, peer, wire) for number, _, kind, peer, wire in entries[first : max(first, end)]]
