"""Typed hooks: named places in a stanza's way where modules listen.

A hook is declared once in `core.events`; each kernel compiles its own rows, so that several servers can live in one
process. Handlers are plain functions or coroutine functions. The runner awaits only what is awaitable: as long as
handlers are plain, a stanza goes from socket to socket without a task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Generic, TypeAlias, TypeVar

import structlog

from beamish.xmpp.errors import Condition, StanzaError

log = structlog.get_logger(__name__)

E = TypeVar("E")


class Verdict(Enum):
    """What a handler may answer, other than None (go on)."""

    STOP = auto()
    """The rest of the hook, and what would follow it, is not to happen; the handler took charge."""


STOP: Final = Verdict.STOP
Outcome: TypeAlias = "Verdict | None"
Handler: TypeAlias = "Callable[[E], Outcome | Awaitable[Outcome]]"


class HookKind(Enum):
    """What a crash of a handler means."""

    GUARD = auto()
    """Fail closed: the stanza is refused with `internal-server-error`."""
    OBSERVER = auto()
    """Fail open: the crash is logged and the next handler runs."""


@dataclass(frozen=True, eq=False)
class HookPoint(Generic[E]):
    """The declaration of a hook: its name, whom its crashes stop, and the text of the hook catalogue."""

    name: str
    kind: HookKind
    doc: str


STANZAS: Final = frozenset(("message", "presence", "iq"))
_REMEMBERED: Final = 4_096
"""Combinations of tags for which a hook remembers whom they concern. Peers choose them, hence this bound and the next."""
_FEW: Final = 16
SUBSCRIPTION: Final = "subscription"
"""In the place of `presence` in `Row.only`: presence stanzas about subscriptions, which nobody sends to many."""


@dataclass(frozen=True)
class Row(Generic[E]):
    """One handler on one hook. Lower `at` runs earlier; equal ones in the order of registration.

    `only` names the kinds of stanzas that it looks at; it may be called for others too. With `guarded` it looks only at
    what concerns accounts whose sessions are marked so (`Session.guarded`). With `about` it looks only at stanzas with a
    child that has one of these tags. All of them are for the busiest places: see `Hook`.
    """

    at: int
    owner: str
    call: Handler[E]
    only: frozenset[str] = STANZAS
    guarded: bool = False
    about: frozenset[str] = frozenset()


class Hook(Generic[E]):
    """The compiled handlers of one hook point in one kernel.

    Test `rows` before building an event for `run`: an empty hook must cost one truth test.
    `everyone` names the kinds of stanzas that some handler looks at whoever they are for. A fan-out of another kind need
    not run the hook, except for sessions that are `guarded`.
    """

    __slots__ = ("_by_kind", "_by_tags", "_pairs", "everyone", "point", "rows")

    def __init__(self, point: HookPoint[E]) -> None:
        self.point = point
        self.rows: tuple[Row[E], ...] = ()
        self.everyone: frozenset[str] = frozenset()
        self._pairs: tuple[tuple[Row[E], Handler[E]], ...] = ()
        self._by_kind: dict[str, tuple[tuple[Row[E], Handler[E]], ...]] = {}
        self._by_tags: dict[tuple[str, tuple[str, ...]], tuple[tuple[Row[E], Handler[E]], ...]] = {}

    def add(self, row: Row[E]) -> None:
        """Register a handler."""
        self._set((*self.rows, row))

    def remove(self, owner: str) -> None:
        """Remove every handler of one owner."""
        self._set(row for row in self.rows if row.owner != owner)

    def _set(self, rows: Iterable[Row[E]]) -> None:
        self.rows = tuple(sorted(rows, key=lambda r: r.at))
        self.everyone = frozenset(name for row in self.rows if not row.guarded for name in row.only)
        self._pairs = tuple((row, row.call) for row in self.rows)
        self._by_kind = {
            kind: tuple(pair for pair in self._pairs if kind in pair[0].only or _also(kind) in pair[0].only)
            for kind in STANZAS
        }
        self._by_tags = {}

    def _concerned(self, kind: str, tags: tuple[str, ...]) -> tuple[tuple[Row[E], Handler[E]], ...]:
        found = tuple(pair for pair in self._by_kind[kind] if not pair[0].about or not pair[0].about.isdisjoint(tags))
        if len(self._by_tags) < _REMEMBERED and len(tags) <= _FEW:
            self._by_tags[kind, tags] = found
        return found

    def run(self, event: E, kind: str = "", tags: tuple[str, ...] | None = None) -> Outcome | Awaitable[Outcome]:
        """Call the handlers in order until one stops. Raises `StanzaError` from guards.

        `kind` is the name of the stanza that the event is about, `tags` those of its children where they are known: then
        only those are called who look at such. Returns an awaitable only if a handler returned one.
        """
        if tags is not None:
            known = self._by_tags.get((kind, tags))
            pairs = self._concerned(kind, tags) if known is None else known
        else:
            pairs = self._by_kind[kind] if kind else self._pairs
        for row, call in pairs:
            try:
                outcome = call(event)
            except StanzaError:
                self._refused(row)
                continue
            except Exception:
                self._crashed(row)
                continue
            if outcome is None:
                continue
            if outcome is STOP:
                return STOP
            return self._rest(outcome, pairs, pairs.index((row, call)), event)
        return None

    async def _rest(
        self, first: Awaitable[Outcome], pairs: tuple[tuple[Row[E], Handler[E]], ...], at: int, event: E
    ) -> Outcome:
        pending: Awaitable[Outcome] | None = first
        while at < len(pairs):
            row, call = pairs[at]
            try:
                outcome = pending if pending is not None else call(event)
                pending = None
                if outcome is not None and not isinstance(outcome, Verdict):
                    outcome = await outcome
            except StanzaError:
                pending = outcome = None
                self._refused(row)
            except Exception:
                pending = outcome = None
                self._crashed(row)
            if outcome is STOP:
                return STOP
            at += 1
        return None

    def _refused(self, row: Row[E]) -> None:
        """A guard refuses the stanza; where there is nothing to refuse any more, that is a mistake like others."""
        if self.point.kind is HookKind.GUARD:
            raise  # the StanzaError being handled
        self._crashed(row)

    def _crashed(self, row: Row[E]) -> None:
        log.exception("hook_handler_failed", hook=self.point.name, owner=row.owner)
        if self.point.kind is HookKind.GUARD:
            raise StanzaError(Condition.INTERNAL_SERVER_ERROR) from None


def _also(kind: str) -> str:
    """What else stands for stanzas of this kind in `Row.only`."""
    return SUBSCRIPTION if kind == "presence" else kind


class Hooks:
    """All hooks of one kernel, made on first use."""

    def __init__(self) -> None:
        self._hooks: dict[str, Hook[Any]] = {}

    def __getitem__(self, point: HookPoint[E]) -> Hook[E]:
        hook = self._hooks.get(point.name)
        if hook is None:
            hook = self._hooks[point.name] = Hook(point)
        return hook

    def remove(self, owner: str) -> None:
        """Remove every handler of one owner from every hook."""
        for hook in self._hooks.values():
            hook.remove(owner)
