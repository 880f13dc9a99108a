"""Privacy lists on disk: one row for each list, one for the choice of the default list."""

from __future__ import annotations

import json
from typing import Final

from beamish.modules.blocking.rules import Kind, PrivacyList, Rule
from beamish.storage.api import Cursor, Migration

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE privacy_list (owner TEXT NOT NULL, name TEXT NOT NULL, rules TEXT NOT NULL,"
            " PRIMARY KEY (owner, name))",
            "CREATE TABLE privacy_default (owner TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL)",
            "CREATE TABLE abuse_report (id {pk}, at {timestamp} NOT NULL, reporter TEXT NOT NULL, jid TEXT NOT NULL,"
            " reason TEXT NOT NULL, content TEXT NOT NULL)",
            "CREATE INDEX abuse_report_reporter ON abuse_report (reporter, at)",
        ),
    ),
)


class Lists:
    """The lists of one account. `default` is the name of the list that applies to the account, "" for none."""

    __slots__ = ("by_name", "default")

    def __init__(self, by_name: dict[str, PrivacyList] | None = None, default: str = "") -> None:
        self.by_name = by_name or {}
        self.default = default if default in self.by_name else ""

    def copy(self) -> Lists:
        """A copy to change."""
        return Lists(dict(self.by_name), self.default)


def owners(cursor: Cursor) -> list[str]:
    """Every account that has a list."""
    return [owner for (owner,) in cursor.rows("SELECT DISTINCT owner FROM privacy_list")]


def load(cursor: Cursor, owner: str) -> Lists:
    """The lists of an account."""
    rows = cursor.rows("SELECT name, rules FROM privacy_list WHERE owner = ?", owner)
    default = cursor.value("SELECT name FROM privacy_default WHERE owner = ?", owner)
    return Lists({name: PrivacyList(_rules(text)) for name, text in rows}, default or "")


def save(cursor: Cursor, owner: str, before: Lists, after: Lists) -> None:
    """Write what differs."""
    for name in before.by_name.keys() - after.by_name.keys():
        cursor.run("DELETE FROM privacy_list WHERE owner = ? AND name = ?", owner, name)
    for name, made in after.by_name.items():
        if before.by_name.get(name) is not made:
            cursor.run(
                "INSERT INTO privacy_list (owner, name, rules) VALUES (?, ?, ?)"
                " ON CONFLICT (owner, name) DO UPDATE SET rules = excluded.rules",
                owner,
                name,
                _text(made),
            )
    if before.default != after.default:
        cursor.run("DELETE FROM privacy_default WHERE owner = ?", owner)
        if after.default:
            cursor.run("INSERT INTO privacy_default (owner, name) VALUES (?, ?)", owner, after.default)


def delete(cursor: Cursor, owner: str) -> None:
    """Delete everything of an account, also what it reported."""
    cursor.run("DELETE FROM privacy_list WHERE owner = ?", owner)
    cursor.run("DELETE FROM privacy_default WHERE owner = ?", owner)
    cursor.run("DELETE FROM abuse_report WHERE reporter = ?", owner)


def _text(made: PrivacyList) -> str:
    rows = [(rule.order, rule.allow, rule.type, rule.value, int(rule.kinds)) for rule in made.rules]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _rules(text: str) -> list[Rule]:
    return [Rule(order, allow, type_, value, Kind(kinds)) for order, allow, type_, value, kinds in json.loads(text)]
