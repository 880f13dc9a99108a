"""Accounts through a whole server: made, changed, locked, removed, and how they log in afterwards."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any, cast

import pytest

from beamish.core import events
from beamish.core.commands import CommandError
from beamish.core.hooks import Row
from beamish.core.later import is_later
from beamish.core.services import AccountsService
from beamish.modules.accounts import AccountsModule
from beamish.storage.api import Cursor, StorageError
from beamish.storage.memory import MemoryDatabase
from beamish.stream.sasl import ScramKeys, derive_keys
from beamish.testing.client import Client
from beamish.testing.world import PASSWORD, World
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

ROMEO = JID.parse("romeo@example.org")
PETER = JID.parse("peter@example.org")
DAY = 86_400.0
IN_DATABASE = {"modules": {"accounts": {"keys_in_memory": 0}}}


def accounts(world: World) -> AccountsModule:
    return cast("AccountsModule", world.kernel.service(AccountsService))


async def keys(world: World, user: JID, algorithm: str = "SHA-256") -> ScramKeys | None:
    found = accounts(world).keys(user, algorithm)
    return await cast("Awaitable[ScramKeys | None]", found) if is_later(found) else cast("ScramKeys | None", found)


async def login(world: World, address: str, password: str) -> Client:
    client = world.connect()
    await client.login(JID.parse(address), password)
    return client


async def attempt(world: World, user: str, password: str, mechanism: str = "PLAIN") -> str:
    """Log in as far as SASL goes: "success", or the condition of the failure."""
    client = world.connect()
    await client.open_stream("example.org")
    if mechanism == "PLAIN":
        message = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        client.send(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{message}</auth>")
    else:
        first = f"n={user},r=nonce"
        client.send(f"<auth xmlns='{ns.SASL}' mechanism='SCRAM-SHA-256'>{b64(f'n,,{first}')}</auth>")
        challenge = base64.b64decode((await client.receive()).text or "").decode()
        client.send(proof(first, challenge, password))
    got = await client.receive()
    client.drop()
    await world.settle()
    return str((got[0] if len(got) else got).tag).rpartition("}")[2]


def proof(first: str, challenge: str, password: str) -> str:
    """The answer to a challenge of SCRAM-SHA-256."""
    fields = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    final = f"c=biws,r={fields['r']}"
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{first},{challenge},{final}".encode(), "sha256")
    given = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
    return f"<response xmlns='{ns.SASL}'>{b64(f'{final},p={given}')}</response>"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def age(world: World, days: float) -> None:
    """Make every password older, without the clock having to run through all its timers."""

    def txn(c: Cursor) -> None:
        c.run("UPDATE account SET created = created - ?", days * DAY)
        c.run("UPDATE account_password SET changed = changed - ?", days * DAY)

    await world.kernel.db.write("age", txn)


async def refused(work: Awaitable[Any]) -> Condition:
    with pytest.raises(StanzaError) as caught:
        await work
    return caught.value.condition


@pytest.mark.parametrize("settings", [{}, IN_DATABASE], ids=["memory", "database"])
async def test_an_account_from_its_making_to_its_end(settings: dict[str, Any]) -> None:
    async with World(settings=settings) as world:
        told: list[tuple[str, str]] = []
        for point in (events.account_added, events.account_removed):
            world.kernel.hooks[point].add(Row(50, "test", lambda e, n=point.name: told.append((n, e.user))))  # type: ignore[misc]
        service = accounts(world)
        assert await keys(world, PETER) is None
        await service.add(PETER, "first")
        assert await refused(service.add(PETER, "again")) is Condition.CONFLICT
        peter = await login(world, "peter@example.org/a", "first")
        before = await keys(world, PETER)
        await service.set_password(PETER, "second")
        after = await keys(world, PETER)
        assert before is not None and after is not None
        assert before.salt != after.salt
        assert await service.check_password(PETER, "second")
        assert not await service.check_password(PETER, "first")
        await login(world, "peter@example.org/b", "second")
        await service.remove(PETER)
        await peter.expect_closed("not-authorized")
        assert await keys(world, PETER) is None
        assert not await service.check_password(PETER, "second")
        assert told == [("account_added", PETER), ("account_removed", PETER)]
        for work in (
            service.set_password(PETER, "x"),
            service.remove(PETER),
            service.disable(PETER),
            service.enable(PETER),
        ):
            assert await refused(work) is Condition.ITEM_NOT_FOUND


@pytest.mark.parametrize("settings", [{}, IN_DATABASE], ids=["memory", "database"])
async def test_keys_outlive_a_restart(settings: dict[str, Any]) -> None:
    database = MemoryDatabase()
    async with World(database=database, settings=settings) as world:
        await accounts(world).add(PETER, "secret")
        made = await keys(world, PETER, "SHA-1")
    async with World(database=database, settings=settings) as world:
        assert await keys(world, PETER, "SHA-1") == made
        await login(world, "peter@example.org/a", "secret")


async def test_whether_an_answer_waits_says_nothing_of_the_account() -> None:
    for settings, later in (({}, False), (IN_DATABASE, True)):
        async with World(settings=settings) as world:
            for user in (ROMEO, JID.parse("nobody@example.org")):
                found = accounts(world).keys(user, "SHA-1")
                assert is_later(found) is later
                if is_later(found):
                    await cast("Awaitable[Any]", found)


async def test_above_the_bound_every_account_is_looked_up() -> None:
    settings = {"modules": {"accounts": {"keys_in_memory": 4}}}
    async with World(settings=settings) as world:
        for n in range(5):
            await accounts(world).add(JID.parse(f"u{n}@example.org"), "x")
        assert is_later(found := accounts(world).keys(ROMEO, "SHA-1"))
        assert await cast("Awaitable[Any]", found) is not None
        await login(world, "u4@example.org/a", "x")


@pytest.mark.parametrize(
    ("jid", "password", "condition"),
    [
        ("peter@example.org", "", Condition.NOT_ACCEPTABLE),
        ("peter@example.org", "a\u0000b", Condition.NOT_ACCEPTABLE),
        ("peter@example.org", "x" * 2_000, Condition.NOT_ACCEPTABLE),
        ("peter@elsewhere.example", "secret", Condition.ITEM_NOT_FOUND),
        ("peter@example.org/resource", "secret", Condition.JID_MALFORMED),
        ("example.org", "secret", Condition.JID_MALFORMED),
    ],
)
async def test_what_cannot_be_an_account(world: World, jid: str, password: str, condition: Condition) -> None:
    assert await refused(accounts(world).add(JID.parse(jid), password)) is condition
    assert PETER not in await accounts(world).list()


async def test_what_is_stored_is_no_password(world: World) -> None:
    await accounts(world).add(PETER, "correct horse")
    for table in ("account", "account_key", "account_secret", "account_disabled", "account_password"):
        rows = await world.kernel.db.fetch(f'SELECT * FROM "{table}" LIMIT 10000')
        assert not any(
            "correct horse" in str(value) or b"correct horse" in bytes(str(value), "utf-8")
            for row in rows
            for value in row
        )
    found = await keys(world, PETER, "SHA-512")
    assert found is not None
    assert len(found.salt) >= 16


async def test_who_exists(world: World) -> None:
    service = accounts(world)

    async def exists(text: str) -> bool:
        found = service.exists(JID.parse(text))
        return await cast("Awaitable[bool]", found) if is_later(found) else cast("bool", found)

    assert await exists("romeo@example.org")
    assert not await exists("peter@example.org")
    assert not await exists("romeo@elsewhere.example")
    await service.add(PETER, "x")
    assert await exists("peter@example.org")
    await service.remove(PETER)
    assert not await exists("peter@example.org")
    assert PETER not in await service.list()


async def test_nobody_logs_in_to_an_account_that_is_being_removed(world: World) -> None:
    """Or a client that comes back at once would be the guest of whoever gets the name next, with its roster waiting."""
    service = accounts(world)
    juliet = await world.login("juliet@example.org/balcony")
    await world.login("romeo@example.org/orchard")
    late = world.connect()
    await late.open_stream("example.org")
    first = "n=romeo,r=nonce"
    late.send(f"<auth xmlns='{ns.SASL}' mechanism='SCRAM-SHA-256'>{b64(f'n,,{first}')}</auth>")
    challenge = base64.b64decode((await late.receive()).text or "").decode()
    heard: list[bytes] = []
    late.feed = heard.append  # type: ignore[method-assign]  # the end of a stream and the beginning of the next in one piece

    def last_moment(_event: object) -> None:
        """When everybody else has let go of the account."""
        late.send(proof(first, challenge, PASSWORD))

    world.kernel.hooks[events.account_removed].add(Row(99, "test", last_moment))
    with world.db.held():
        removal = asyncio.get_running_loop().create_task(service.remove(ROMEO))
        await world.settle()
        assert await attempt(world, "romeo", PASSWORD, "SCRAM-SHA-256") == "account-disabled"
        juliet.send("<message to='romeo@example.org' type='chat' id='m'><body>Art thou there?</body></message>")
        await juliet.expect("<message type='error' id='m' from='romeo@example.org'/>")
        assert await refused(service.remove(ROMEO)) is Condition.ITEM_NOT_FOUND
    await removal
    await world.settle()
    assert b"<success" in b"".join(heard)
    assert b"".join(heard).endswith(b"the account is locked</text></stream:error></stream:stream>")
    await service.add(ROMEO, "another's")
    assert not service.is_disabled(ROMEO)
    assert not world.kernel.sessions.of(ROMEO).all
    assert await world.db.fetch("SELECT 1 FROM offline_message WHERE account = ?", str(ROMEO)) == []


async def test_a_removal_that_fails_leaves_an_account_that_can_be_used(world: World) -> None:
    with ExitStack() as disk:
        last = Row(99, "test", lambda _event: disk.enter_context(world.db.refusing()) and None)
        world.kernel.hooks[events.account_removed].add(last)  # when everybody else has let go of the account
        with pytest.raises(StorageError):
            await accounts(world).remove(ROMEO)
    await world.login("romeo@example.org/orchard")


async def test_a_locked_account(world: World) -> None:
    service = accounts(world)
    romeo = await world.login("romeo@example.org/orchard")
    await service.disable(ROMEO)
    await romeo.expect_closed("not-authorized")
    assert service.is_disabled(ROMEO)
    assert service.disabled() == service.disabled("example.org") == (ROMEO,)
    assert service.disabled("example.net") == ()
    assert await keys(world, ROMEO) is not None, "a stranger learns nothing from its salt"
    await service.enable(ROMEO)
    assert not service.is_disabled(ROMEO)
    await world.login("romeo@example.org/orchard")


async def test_locks_outlive_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        await accounts(world).disable(ROMEO)
    async with World(database=database) as world:
        assert accounts(world).is_disabled(ROMEO)


# ---- strangers --------------------------------------------------------------------------------------------------------


async def test_a_decoy_is_always_the_same_and_nobodys() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        first = accounts(world).decoy("nobody", "example.org", "SHA-1")
        assert first == accounts(world).decoy("nobody", "example.org", "SHA-1")
        assert first.salt != accounts(world).decoy("anybody", "example.org", "SHA-1").salt
        assert first.salt != accounts(world).decoy("nobody", "example.org", "SHA-256").salt
    async with World(database=database) as world:
        assert accounts(world).decoy("nobody", "example.org", "SHA-1") == first


async def test_a_name_that_nobody_has_at_two_domains_looks_like_two_accounts() -> None:
    """Accounts of one name have salts of their own; the same salt twice would say that neither exists."""
    async with World(domains=("example.org", "example.net")) as world:
        first, second = (accounts(world).decoy("nobody", domain, "SHA-1") for domain in world.kernel.domains)
        assert first.salt != second.salt


async def test_accounts_of_another_server_do_not_stand_out() -> None:
    """Prosody's salts are UUIDs as text: whoever does not exist has one, too, where all accounts do, and only there."""
    database = MemoryDatabase()
    salt = b"8337aeaa-9d32-4657-9a8e-e4ba0febb95c"
    uuid4 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    async with World(database=database, domains=("example.org", "moved.example"), accounts=()) as world:
        await accounts(world).add(JID.parse("old@example.org"), "x")
        keys_ = derive_keys("x", "SHA-1", salt=salt, iterations=4096)
        await accounts(world).adopt(JID.parse("come@moved.example"), [keys_])
        made = [accounts(world).decoy(f"user{n}", "moved.example", "SHA-1") for n in range(50)]
        assert {each.iterations for each in made} == {4096}
        assert all(uuid4.fullmatch(each.salt) for each in made)
        assert len({each.salt for each in made}) == 50
        assert {len(accounts(world).decoy(f"user{n}", "example.org", "SHA-1").salt) for n in range(50)} == {16}
    async with World(database=database, domains=("example.org", "moved.example"), accounts=()) as world:
        assert [accounts(world).decoy(f"user{n}", "moved.example", "SHA-1") for n in range(50)] == made


async def test_a_change_of_iterations_does_not_tell_who_exists() -> None:
    """Accounts keep the iterations they were made with; those who do not exist must not all have the new number."""
    database = MemoryDatabase()
    async with World(database=database):
        pass
    await database.write("older", lambda c: c.run("UPDATE account_key SET iterations = 7"))
    async with World(database=database, accounts=()) as world:
        romeo = await keys(world, ROMEO)
        assert romeo is not None
        assert romeo.iterations == 7
        present = world.kernel.scram_iterations
        assert {accounts(world).decoy(f"user{n}", "example.org", "SHA-256").iterations for n in range(50)} == {7}
        old = {n: accounts(world).decoy(f"user{n}", "example.org", "SHA-256") for n in range(50)}
        for n in range(8):
            await accounts(world).add(JID.parse(f"new{n}@example.org"), "x")
        new = {n: accounts(world).decoy(f"user{n}", "example.org", "SHA-256") for n in range(50)}
        assert {each.iterations for each in new.values()} == {7, present}
        for n, was in old.items():
            assert (was.salt == new[n].salt) is (was.iterations == new[n].iterations), "new keys have a new salt"


# ---- passwords that expire ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
async def test_a_password_expires(mechanism: str) -> None:
    """RFC 6120 §6.5.3; a wrong password is answered as ever."""
    settings = {
        "modules": {"accounts": {"password_days": 30}},
        "c2s": {"mechanisms": [mechanism], "require_tls": False},
    }
    async with World(settings=settings) as world:
        await age(world, 29)
        assert await attempt(world, "romeo", PASSWORD, mechanism) == "success"
        await age(world, 2)
        assert await attempt(world, "romeo", PASSWORD, mechanism) == "credentials-expired"
        assert await attempt(world, "romeo", "wrong", mechanism) == "not-authorized"
        assert await attempt(world, "nobody", PASSWORD, mechanism) == "not-authorized"
        await accounts(world).set_password(ROMEO, "fresh")
        assert await attempt(world, "romeo", "fresh", mechanism) == "success"
        await age(world, 31)
        assert await attempt(world, "romeo", "fresh", mechanism) == "credentials-expired"


async def test_passwords_last_for_ever_unless_told_otherwise(world: World) -> None:
    await age(world, 10_000)
    assert await attempt(world, "romeo", PASSWORD) == "success"


async def test_a_new_account_of_an_old_name_begins_anew() -> None:
    async with World(settings={"modules": {"accounts": {"password_days": 30}}}) as world:
        await accounts(world).add(PETER, "x")
        await accounts(world).set_password(PETER, "y")
        await accounts(world).remove(PETER)
        await age(world, 31)
        await accounts(world).add(PETER, "z")
        assert await attempt(world, "peter", "z") == "success"


# ---- commands ---------------------------------------------------------------------------------------------------------


async def run(world: World, name: str, **args: Any) -> Any:
    return await world.kernel.commands.run(name, args)


async def test_commands(world: World) -> None:
    assert await run(world, "user.add", jid="peter@example.org", password="x") == {"jid": "peter@example.org"}
    listed = await run(world, "user.list")
    assert {"jid": "peter@example.org"} in listed
    assert await run(world, "user.passwd", jid="peter@example.org", password="y") == {"jid": "peter@example.org"}
    assert await attempt(world, "peter", "y") == "success"
    await run(world, "user.disable", jid="peter@example.org")
    assert await attempt(world, "peter", "y") == "account-disabled"
    await run(world, "user.enable", jid="peter@example.org")
    assert await attempt(world, "peter", "y") == "success"
    await run(world, "user.remove", jid="peter@example.org")
    assert await attempt(world, "peter", "y") == "not-authorized"


async def test_accounts_of_a_domain_that_is_not_served_are_not_nobody(world: World) -> None:
    with pytest.raises(CommandError, match=r"exmaple\.org is not a domain of this server"):
        await run(world, "user.list", domain="exmaple.org")
    assert [row["jid"] for row in await run(world, "user.list", domain="example.net")] == ["benvolio@example.net"]
