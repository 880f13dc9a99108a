"""Keys in memory, all or none; decoys whose iterations are spread like those of accounts."""

from __future__ import annotations

import secrets
from collections import Counter

import pytest

from beamish.modules.accounts import keys as module
from beamish.modules.accounts.keys import DecoyShapes, KeyTable, read_keys, store_keys, unpack
from beamish.modules.accounts.module import AccountsModule
from beamish.storage.memory import MemoryDatabase
from beamish.stream.sasl import ALGORITHMS, ScramKeys

SIZES = {"SHA-1": 20, "SHA-256": 32, "SHA-512": 64}


def made(iterations: int = 10_000) -> list[ScramKeys]:
    return [
        ScramKeys(a, secrets.token_bytes(16), iterations, secrets.token_bytes(SIZES[a]), secrets.token_bytes(SIZES[a]))
        for a in ALGORITHMS
    ]


async def database(accounts: dict[str, list[ScramKeys]]) -> MemoryDatabase:
    db = MemoryDatabase()
    for migration in AccountsModule.migrations:
        for statement in migration.statements:
            text = statement.format(timestamp="REAL", bytes="BLOB")
            await db.write("migrate", lambda c, text=text: c.run(text))  # type: ignore[misc]
    for jid, keys in accounts.items():

        def put(c, jid=jid, keys=keys):  # type: ignore[no-untyped-def]
            c.run("INSERT INTO account (jid, domain, created) VALUES (?, 'example.org', 0)", jid)
            store_keys(c, jid, keys)

        await db.write("put", put)
    return db


async def test_the_table_says_what_the_database_says() -> None:
    accounts = {f"u{n}@example.org": made() for n in range(3)}
    accounts["old@example.org"] = made()[:1]
    db = await database(accounts)
    table = KeyTable(10)
    assert not table.complete
    await table.load(db)
    assert table.complete
    for jid in (*accounts, "nobody@example.org"):
        for algorithm in ALGORITHMS:
            expected = next((k for k in accounts.get(jid, ()) if k.algorithm == algorithm), None)
            assert table.get(jid, algorithm) == expected
            assert await read_keys(db, jid, algorithm) == expected


async def test_changes_are_seen() -> None:
    table = KeyTable(10)
    await table.load(await database({}))
    first, second = made(), made()
    table.put("a@example.org", first)
    assert table.get("a@example.org", "SHA-256") == first[ALGORITHMS.index("SHA-256")]
    table.put("a@example.org", second)
    assert table.get("a@example.org", "SHA-1") == second[ALGORITHMS.index("SHA-1")]
    table.remove("a@example.org")
    table.remove("a@example.org")
    assert table.get("a@example.org", "SHA-1") is None


async def test_for_nobody_as_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    table = KeyTable(10)
    await table.load(await database({"a@example.org": made()}))
    worked: list[bytes] = []

    def counted(packed: bytes, algorithm: str) -> ScramKeys | None:
        worked.append(packed)
        return unpack(packed, algorithm)

    monkeypatch.setattr(module, "unpack", counted)
    assert table.get("a@example.org", "SHA-512") is not None
    assert table.get("nobody@example.org", "SHA-512") is None
    assert worked[0] == worked[1] != b""


async def test_an_account_without_keys_is_no_measure_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    table = KeyTable(10)
    await table.load(await database({"a@example.org": made()}))
    table.put("b@example.org", ())
    worked: list[bytes] = []

    def counted(packed: bytes, algorithm: str) -> ScramKeys | None:
        worked.append(packed)
        return unpack(packed, algorithm)

    monkeypatch.setattr(module, "unpack", counted)
    assert table.get("nobody@example.org", "SHA-512") is None
    assert worked[0] != b""


@pytest.mark.parametrize(("most", "complete"), [(0, False), (2, False), (3, True)])
async def test_all_or_none_at_start(most: int, complete: bool) -> None:
    table = KeyTable(most)
    await table.load(await database({f"u{n}@example.org": made() for n in range(3)}))
    assert table.complete is complete


async def test_all_or_none_later() -> None:
    table = KeyTable(2)
    await table.load(await database({"a@example.org": made()}))
    table.put("b@example.org", made())
    table.put("b@example.org", made())
    assert table.complete
    table.put("c@example.org", made())
    assert not table.complete
    table.put("a@example.org", made())
    table.remove("a@example.org")
    assert not table.complete, "there are accounts that it does not know"


NAMES = [f"user{n}" for n in range(2_000)]


async def test_decoys_look_like_the_accounts() -> None:
    accounts = {f"u{n}@example.org": made(20_000 if n < 5 else 10_000) for n in range(20)}
    decoys = DecoyShapes(20_000)
    await decoys.load(await database(accounts), "SHA-256")
    seen = Counter(decoys.of(b"secret", name, "example.org").iterations for name in NAMES)
    assert set(seen) == {10_000, 20_000}
    assert 0.2 < seen[20_000] / len(NAMES) < 0.3
    assert [decoys.of(b"secret", name, "example.org").iterations for name in NAMES[:50]] == [
        decoys.of(b"secret", name, "example.org").iterations for name in NAMES[:50]
    ]


async def test_without_accounts_they_have_what_new_ones_will() -> None:
    decoys = DecoyShapes(12_345)
    await decoys.load(await database({}), "SHA-256")
    assert {decoys.of(b"secret", name, "example.org").iterations for name in NAMES} == {12_345}


async def test_decoys_move_on_and_never_back() -> None:
    decoys = DecoyShapes(20_000)
    await decoys.load(await database({f"u{n}@example.org": made(n) for n in (10_000, 11_000, 12_000)}), "SHA-256")
    before = [decoys.of(b"secret", name, "example.org").iterations for name in NAMES]
    assert set(before) == {10_000, 11_000, 12_000}
    moved = set[int]()
    for _ in range(10):
        decoys.added("example.org", 20_000, 16)
        now = [decoys.of(b"secret", name, "example.org").iterations for name in NAMES]
        assert all(new == 20_000 for old, new in zip(before, now, strict=True) if old == 20_000)
        before = now
        moved.update(now)
    assert 20_000 in moved
