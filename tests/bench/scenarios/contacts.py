"""Logins of an account with many contacts: what grows with the contacts that are online, and what with those that are not.

Four accounts with the same contacts log in and out by turns: a contact that is online hears of it both times, and the
account hears of the contact. Every login must bring the presence of exactly the contacts that are there, and each of these
must have heard of every login and of its end. The client knows the version of its roster, as clients do (RFC 6121 §2.6);
`whole roster` is a client that does not.
"""

from __future__ import annotations

import asyncio
import re
from time import perf_counter

from tests.bench.load import Bench, Options, TooSlow, at_rate, in_turns
from tests.bench.measure import Row, Span, settled
from tests.bench.servers.base import DOMAIN, Friends
from tests.bench.wire import PATIENCE, Account, BenchError, Client, sender_of, stanza_type

USERS = 4
FEW = 10
MANY = 1_000
RATE = 10.0
_VERSION = re.compile(rb"<query[^>]*\sver=['\"]([^'\"]*)['\"]")
_PRESENCE = re.compile(rb"<presence[^>]*\sfrom=['\"]u(\d+)@[^>]*>")
_ANSWER = re.compile(rb"<iq[^>]*\sid=['\"]all-heard['\"]")
_GONE = re.compile(rb"\stype=['\"]unavailable['\"]")


def accounts(options: Options) -> int:
    """Users with many contacts, users with few, the contacts."""
    return 2 * USERS + MANY


def friends(options: Options) -> Friends:
    """The first users have a thousand contacts, the next ten of these."""
    contacts = range(2 * USERS, 2 * USERS + MANY)
    return [
        *((user, list(contacts)) for user in range(USERS)),
        *((user, list(contacts[:FEW])) for user in range(USERS, 2 * USERS)),
    ]


class Watcher:
    """A contact that is online, and what it has heard of the users."""

    def __init__(self, client: Client) -> None:
        self.came: dict[int, int] = {}
        self.went: dict[int, int] = {}
        self._rest = b""
        self._answered: asyncio.Future[None] | None = None
        client.sink = self._heard
        self.client = client

    def _heard(self, data: bytes) -> None:
        data = self._rest + data
        cut = data.rfind(b">") + 1
        self._rest = data[cut:]
        for found in _PRESENCE.finditer(data, 0, cut):
            which = self.went if _GONE.search(found.group()) else self.came
            user = int(found.group(1))
            which[user] = which.get(user, 0) + 1
        if self._answered is not None and not self._answered.done() and _ANSWER.search(data):
            self._answered.set_result(None)

    async def hear_all(self) -> None:
        """Return when everything was heard that the server has said by now: it has then answered a ping, or refused it."""
        self._answered = asyncio.get_running_loop().create_future()
        self.client.send(f"<iq type='get' id='all-heard' to='{DOMAIN}'><ping xmlns='urn:xmpp:ping'/></iq>".encode())
        await asyncio.wait_for(self._answered, PATIENCE)


class Visits:
    """Logins of some accounts, each of which must see the same number of contacts."""

    def __init__(self, bench: Bench, users: list[Account], online: int, *, whole: bool = False) -> None:
        self._bench = bench
        self.users = users
        self.online = online
        self._whole = whole
        self._versions: dict[Account, str] = {}
        self.took: list[float] = []
        self.count = dict.fromkeys(users, 0)

    async def learn(self, account: Account) -> None:
        """Get a roster and its version for the first time."""
        client = await self._bench.login(account, roster_version="")
        found = _VERSION.search(client.roster)
        self._versions[account] = found.group(1).decode() if found else ""
        await self._bench.close(client)
        self.count[account] += 1

    async def once(self, account: Account) -> None:
        """Log in, wait for the presence of everybody who is there, log out."""
        began = perf_counter()
        version = None if self._whole else self._versions[account]
        client = await self._bench.login(account, presence=False, roster_version=version)
        client.send(b"<presence/>")
        seen: set[str] = set()
        own = client.jid.partition("/")[0]
        while len(seen) <= self.online:
            stanza = await client.read()
            if stanza_type(stanza) == "unavailable":
                continue  # an answer that some give for contacts who are not there (RFC 6121 §4.3.2)
            if not stanza.startswith(b"<presence") or stanza_type(stanza):
                raise BenchError(f"{own} received {stanza.decode()}")
            sender = sender_of(stanza).partition("/")[0]
            if sender in seen:
                raise BenchError(f"{own} was told twice that {sender} is there")
            seen.add(sender)
        if own not in seen:
            raise BenchError(f"{own} saw {len(seen)} contacts, one more than there are")
        self.took.append(perf_counter() - began)
        await self._bench.close(client)
        self.count[account] += 1


async def run(bench: Bench) -> list[Row]:
    """Measure logins with few contacts, and with a thousand of which few or all are online."""
    members = bench.server.accounts
    many, few, contacts = members[:USERS], members[USERS : 2 * USERS], members[2 * USERS :]
    watchers = [Watcher(client) for client in await bench.login_all(contacts[:FEW])]
    rows = []
    for title, users, whole in (
        (f"{FEW} contacts, {FEW} online", few, False),
        (f"{MANY} contacts, {FEW} online", many, False),
        (f"{MANY} contacts, {FEW} online, whole roster", many, True),
    ):
        rows += await _measured(bench, title, Visits(bench, users, FEW, whole=whole), watchers)
    watchers += [Watcher(client) for client in await bench.login_all(contacts[FEW:])]
    title = f"{MANY} contacts, {MANY} online"
    return rows + await _measured(bench, title, Visits(bench, many, MANY), watchers)


async def _measured(bench: Bench, title: str, visits: Visits, watchers: list[Watcher]) -> list[Row]:
    options = bench.options
    variant = f"{options.security.value} {title}"
    users = visits.users
    await settled(bench.server.pids)  # who has just come in is announced before it is asked for
    for watcher in watchers:
        watcher.came.clear()
        watcher.went.clear()
    for account in users:
        await visits.learn(account)
    await settled(bench.server.pids)

    async def for_seconds(seconds: float) -> tuple[int, Span]:
        before, ends = len(visits.took), perf_counter() + seconds
        span = bench.span().start()

        async def until(account: Account) -> None:
            while perf_counter() < ends:
                await visits.once(account)

        await in_turns(users, until, len(users))
        return len(visits.took) - before, span.stop()

    rows = []
    if options.rate is None:
        await for_seconds(options.warmup)
        runs = [await for_seconds(options.seconds) for _ in range(options.repeat)]
        rows.append(Row.of("contacts", f"{variant}, {len(users)} at once", "login", runs))
    rate = options.latency if options.rate is None else options.rate
    if rate:
        visits.took.clear()
        if visits.online > FEW:
            rate /= 10
        span = bench.span().start()
        try:
            seconds = max(options.seconds, 2 / rate)
            count = await at_rate(rate, seconds, lambda slot: visits.once(users[slot]), len(users))
        except TooSlow as error:
            if not rows:
                raise
            rows[-1].notes = str(error)
        else:
            row = Row.of("contacts", f"{variant}, {rate:g}/s", "login", [(count, span.stop())])
            rows.append(row.with_latencies(visits.took))
    await _all_heard(visits, watchers)
    return rows


async def _all_heard(visits: Visits, watchers: list[Watcher]) -> None:
    due = {int(account.user[1:]): count for account, count in visits.count.items()}
    for watcher in watchers:
        await watcher.hear_all()
        came = {user: watcher.came.get(user, 0) for user in due}
        went = {user: watcher.went.get(user, 0) for user in due}
        if came != due or went != due:
            raise BenchError(f"{watcher.client.jid} heard {came} and {went}, due were {due} of each")
