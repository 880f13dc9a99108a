"""What entities can do: who announced which hash, and one question for each hash that nobody knows."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core import events
from beamish.core.events import CapsKnown
from beamish.core.iq import IqTimeout
from beamish.core.later import is_later, settled
from beamish.modules.caps.hashes import Announcement, CapsMismatch, Verified, verify
from beamish.modules.caps.store import HashCache
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import escape_attr

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel
    from beamish.core.tasks import TaskGroup

log = structlog.get_logger(__name__)

PATIENCE: Final = 60.0
"""Seconds to wait for an answer."""
FAILURES: Final = 3
"""Entities with the same hash that may fail to prove it before it is given up, until somebody announces it anew."""
WAITING: Final = 5000
"""Entities that wait for the answer to one question."""
ACCOUNTS: Final = 10_000
"""Accounts whose unknown hashes are counted."""
ADDRESSES: Final = 64
"""Accounts of which is known that they have the presence of an entity. It is forgotten when it has left all of these."""


class Entity:
    """An available entity: the hash it announced last, the features it is known to have, and to whom it announced itself."""

    __slots__ = ("at", "features", "key")

    def __init__(self, key: str, features: frozenset[str] | None, at: set[JID]) -> None:
        self.key = key
        self.features = features
        self.at = at
        """Accounts, at most `ADDRESSES`."""


@dataclass(slots=True)
class Question:
    """A hash that is being asked about, and the entities that announced it, each with who may ask it."""

    about: Announcement
    waiting: deque[tuple[JID, JID]] = field(default_factory=deque)


class Learning:
    """Knows the features of entities. `entities` bounds those of other servers, `questions` what is asked at a time.

    `per_hour` bounds the questions that one account can make us ask in an hour.
    """

    def __init__(
        self, kernel: Kernel, tasks: TaskGroup, cache: HashCache, *, entities: int, questions: int, per_hour: int
    ) -> None:
        self._kernel = kernel
        self._tasks = tasks
        self._cache = cache
        self._bound = entities
        self._questions = questions
        self._per_hour = per_hour
        self._known_hook = kernel.hooks[events.caps_known]
        self._local: dict[JID, Entity] = {}
        self._remote: OrderedDict[JID, Entity] = OrderedDict()
        self._pending: dict[str, Question] = {}
        self._spent: OrderedDict[JID, tuple[float, float]] = OrderedDict()

    def features(self, full: JID) -> frozenset[str] | None:
        """See `CapsService.features`."""
        entity = self._entity(full)
        return None if entity is None else entity.features

    def forget(self, full: JID) -> None:
        """An entity is gone."""
        self._local.pop(full, None)
        self._remote.pop(full, None)

    def left(self, full: JID, account: JID) -> None:
        """An entity is not available to an account any more. To others it may be: it may have parted from this one only."""
        entity = self._entity(full)
        if entity is not None:
            entity.at.discard(account)
            if not entity.at:
                self.forget(full)

    def announced(self, full: JID, about: Announcement, asker: JID, *, ask: bool = True) -> None:
        """An entity announced a hash. `asker` is an account that may ask it; `ask` False: only look into the cache."""
        entity = self._entity(full)
        if entity is not None:
            if len(entity.at) < ADDRESSES:
                entity.at.add(asker)
            if entity.key == about.key:
                return
        features = self._cache.get(about.key, self._kernel.clock.now())
        if features is None and not ask:
            return
        known = (None, {asker}) if entity is None else (entity.features, entity.at)
        self._enter(full, Entity(about.key, *known))
        if features is not None:
            self._known(full, about.key, features)
        else:
            self._learn(full, about, asker)

    def _entity(self, full: JID) -> Entity | None:
        return self._local.get(full) or self._remote.get(full)

    def _enter(self, full: JID, entity: Entity) -> None:
        if self._kernel.sessions.get(full) is not None:
            self._local[full] = entity
            return
        self._remote[full] = entity
        self._remote.move_to_end(full)
        if len(self._remote) > self._bound:
            self._remote.popitem(last=False)

    def _known(self, full: JID, key: str, features: frozenset[str]) -> None:
        entity = self._entity(full)
        if entity is None or entity.key != key:
            return  # gone, or something else by now
        previous, entity.features = entity.features, features
        if previous == features or not self._known_hook.rows:
            return
        outcome = self._known_hook.run(CapsKnown(full, features, previous))
        if is_later(outcome):
            self._tasks.spawn(settled(outcome), "caps_known")

    def _give_up(self, full: JID, key: str) -> None:
        """Nothing is known of an entity that announced this hash; its next presence starts anew."""
        entity = self._entity(full)
        if entity is None or entity.key != key:
            return
        if entity.features:
            self._known(full, key, frozenset())
        self.forget(full)

    # ---- questions --------------------------------------------------------------------------------------------------

    def _learn(self, full: JID, about: Announcement, asker: JID) -> None:
        question = self._pending.get(about.key)
        if question is None:
            if len(self._pending) >= self._questions or not self._may_cost(full.bare):
                self._give_up(full, about.key)
                return
            question = self._pending[about.key] = Question(about)
            question.waiting.append((full, asker))
            self._tasks.spawn(self._answer(question), "ask")
        elif len(question.waiting) < WAITING:
            question.waiting.append((full, asker))
        else:
            self._give_up(full, about.key)

    def _may_cost(self, account: JID) -> bool:
        """Count a question that an account causes: a bucket of an hour's worth."""
        now = self._kernel.clock.monotonic()
        left, at = self._spent.get(account, (float(self._per_hour), now))
        left = min(float(self._per_hour), left + (now - at) * self._per_hour / 3600.0)
        self._spent[account] = (max(left - 1.0, 0.0), now)
        self._spent.move_to_end(account)
        if len(self._spent) > ACCOUNTS:
            self._spent.popitem(last=False)
        return left >= 1.0

    async def _answer(self, question: Question) -> None:
        """Ask those who announced a hash, one after another, until one has proved what it stands for."""
        key = question.about.key
        failures = 0
        features: frozenset[str] | None = None
        try:
            features = await self._cache.find(key, self._kernel.clock.now())
            while features is None and question.waiting and failures < FAILURES:
                full, asker = question.waiting.popleft()
                entity = self._entity(full)
                if entity is None or entity.key != key:
                    continue
                try:
                    verified = await self._ask(full, asker, question.about)
                except CapsMismatch as error:
                    log.debug("caps_not_proved", entity=str(full), hash=key, reason=str(error))
                    failures += 1
                    self._give_up(full, key)
                    continue
                if verified.shared:
                    features = verified.features
                    self._cache.put(key, features, self._kernel.clock.now())
                self._known(full, key, verified.features)
        finally:
            del self._pending[key]
            waiting, question.waiting = question.waiting, deque()
            for full, _ in waiting:
                if features is None:
                    self._give_up(full, key)
                else:
                    self._known(full, key, features)

    async def _ask(self, full: JID, asker: JID, about: Announcement) -> Verified:
        content = f"<query xmlns='{ns.DISCO_INFO}' node='{escape_attr(about.node)}'/>".encode()
        try:
            answer: Stanza = await self._kernel.iq.request("get", full, content, sender=asker, timeout=PATIENCE)
        except IqTimeout:
            raise CapsMismatch("no answer") from None
        payload = answer.payload
        if answer.type != "result" or payload is None:
            raise CapsMismatch("an error for an answer")
        return verify(payload, about, answer.lang)
