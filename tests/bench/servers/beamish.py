"""Beamish, the server of this repository."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from tests.bench.servers.base import DOMAIN, NO_LIMIT, PASSWORD, Server, run
from tests.bench.wire import BenchError

from beamish.modules.mam.packing import Chunk

_STEP = 2_048_000  # between the ids of two copied messages, a millisecond of their time


class Beamish(Server):
    """The server of this repository, run from its own virtual environment."""

    name = "beamish"
    features = frozenset({"big archive"})
    _archives = ("mam", "archive")  # whichever of them exists
    _program = Path(sys.executable).with_name("beamish")

    async def prepare(self) -> None:
        """Limits are raised, not removed: every check still runs."""
        bounds = (
            "stanzas_per_second",
            "stanza_burst",
            "bytes_per_second",
            "bytes_burst",
            "connections_per_address",
            "login_failures_per_address",
        )
        limits = "\n".join(f"{name} = {NO_LIMIT}" for name in bounds)
        archives = [name for name in self._archives if find_spec(f"beamish.modules.{name}")]
        if self.setting.archive and not archives:
            raise BenchError("this Beamish has no archive module")
        disabled = "" if self.setting.archive else ", ".join(f'"{name}"' for name in archives)
        (self.folder / "beamish.toml").write_text(
            f"""
[server]
domains = ["{DOMAIN}"]
data_dir = "{self.folder}/data"
log = {{ level = "warning", format = "text" }}

[c2s]
listen = ["127.0.0.1:{self.address.port}"]
direct_tls = ["127.0.0.1:{self.address.tls_port}"]
require_tls = false

[s2s]
enabled = false

[limits]
{limits}

[modules.muc]
stanzas_per_second = {NO_LIMIT}.0
stanza_burst = {NO_LIMIT}

[modules]
disable = [{disabled}]
"""
        )
        await run(str(self._program), "user", "add", self.accounts[0].bare, "--password-stdin", "-c", self._config,
                  text=PASSWORD.encode() + b"\n")  # fmt: skip
        with closing(sqlite3.connect(self._database)) as db, db:
            self._seed(db)

    def _seed(self, db: sqlite3.Connection) -> None:
        """Copy the first account's keys to all others and write rosters: through commands, thousands would take minutes."""
        first = self.accounts[0].bare
        others = [(account.bare, first) for account in self.accounts[1:]]
        for table in ("account", "account_key"):
            columns = ", ".join(_columns(db, table, but="jid"))
            db.executemany(
                f"INSERT INTO {table} (jid, {columns}) SELECT ?, {columns} FROM {table} WHERE jid = ?", others
            )
        for user, contacts in self.pairs():
            owner = self.accounts[user].bare
            db.executemany(
                "INSERT INTO roster (owner, jid, name, group_names, to_, from_, pending_out, pending_in, approved, listed, "
                "ver) VALUES (?, ?, '', '[]', 1, 1, 0, 0, 0, 1, ?)",
                [(owner, self.accounts[contact].bare, version) for version, contact in enumerate(contacts, start=1)],
            )
            db.execute("INSERT INTO roster_version (owner, ver, floor) VALUES (?, ?, 0)", (owner, len(contacts)))

    def grow_archive(self, owner: str, rows: int) -> None:
        """Fill an account's archive up to so many messages with copies of its oldest one, older than all others.

        The server must be stopped, and must have brought all that it had to its place. It does so with these when it
        starts again, as with the rows of former versions.
        """
        with closing(sqlite3.connect(self._database)) as db, db:
            have, messages, head, wires = db.execute(
                "SELECT a.messages, k.messages, k.head, k.wires FROM mam_account a JOIN mam_chunk k ON k.account = a.num "
                "WHERE a.jid = ? ORDER BY k.id LIMIT 1",
                (owner,),
            ).fetchone()
            oldest, salt, kind, peer, wire = Chunk(messages, head, wires).entries()[0]
            db.execute(
                "WITH RECURSIVE back (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM back WHERE n < ?) "
                "INSERT INTO mam_message (id, salt, owner, peer, resource, sid, kind, wire) "
                "SELECT ? - ? * n, ?, ?, ?, '', '', ?, ? FROM back ORDER BY n DESC",
                (rows - have, oldest, _STEP, salt, owner, peer, kind, wire),
            )

    def some_archive_ids(self, owner: str) -> list[str]:
        """Ids, as clients see them, of a thousand messages all over an account's archive but its end."""
        with closing(sqlite3.connect(self._database)) as db:
            account, first, last = db.execute(
                "SELECT a.num, MIN(k.id), MAX(k.id) FROM mam_account a JOIN mam_chunk k ON k.account = a.num WHERE a.jid = ?",
                (owner,),
            ).fetchone()
            found = []
            for part in range(1_000):
                wanted = first + (last - first) * part // 1_100
                row = db.execute(
                    "SELECT messages, head, wires FROM mam_chunk WHERE account = ? AND id >= ? ORDER BY id LIMIT 1",
                    (account, wanted),
                ).fetchone()
                number, salt, *_ = Chunk(*row).row(0)
                found.append(f"{number:016x}{salt:08x}")
        return found

    def archive_indexed(self) -> bool:
        """Whether all messages in the archive have been brought to their places."""
        with closing(sqlite3.connect(self._database)) as db:
            waiting = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in ("mam_message", "mam_log", "mam_part"))
            return not db.execute(f"SELECT {waiting}").fetchone()[0]

    @property
    def _config(self) -> str:
        return str(self.folder / "beamish.toml")

    @property
    def _database(self) -> Path:
        return self.folder / "data" / "beamish.db"

    def command(self) -> list[str]:
        """`beamish serve`."""
        return [str(self._program), "serve", "-c", self._config]

    async def version(self) -> str:
        """Ask the command line."""
        return await run(str(self._program), "--version")


def _columns(db: sqlite3.Connection, table: str, *, but: str) -> list[str]:
    return [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})") if name != but]
