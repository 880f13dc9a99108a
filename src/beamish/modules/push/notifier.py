"""Publishes notifications: at once, then at most one every few seconds for each registration, with the newest count.

A registration has one notification under way at most, and one slot for what is to follow, however many messages come. A
service has so many under way, all services together so many; the others wait in turn, service by service. What fails for now
is tried again, later each time; what a service refuses for good, or too often in a row, ends the registration.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.content import words
from beamish.core.iq import IqTimeout
from beamish.core.later import settled
from beamish.core.services import AccountsService, RosterService
from beamish.modules.push.store import Registration, Store
from beamish.modules.push.wire import publication
from beamish.storage.api import StorageError
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel
    from beamish.core.tasks import TaskGroup
    from beamish.modules.push.module import Config

log = structlog.get_logger(__name__)

START_SECONDS: Final = 5.0
"""After a start until those are told who should have been before it: streams with other servers begin then."""
RETRY_SECONDS: Final = 15.0
RETRY_MOST: Final = 3_600.0
"""The pause after a failure, doubled with each one in a row, up to this."""
_FOR_GOOD: Final = frozenset(
    (
        "conflict",
        "forbidden",
        "gone",
        "item-not-found",
        "jid-malformed",
        "not-acceptable",
        "not-allowed",
        "not-authorized",
        "registration-required",
    )
)
"""Conditions by which a service says that it does not know the node, the secret or the account. Not `bad-request`, which is all
that fpush says of any trouble, nor what stands for a service that is away."""
_FAILING: Final = 1_000
"""Services of which it is remembered that the log has told of their failure."""


class _Lane:
    """The traffic with one service's domain."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = 0
        self.waiting: deque[Registration] = deque()


class Notifier:
    """Tells push services what registrations have to be told."""

    def __init__(self, kernel: Kernel, store: Store, config: Config, tasks: TaskGroup) -> None:
        self._kernel = kernel
        self._clock = kernel.clock
        self._store = store
        self._config = config
        self._tasks = tasks
        self._lanes: dict[str, _Lane] = {}
        self._waiting: OrderedDict[str, _Lane] = OrderedDict()
        """Those lanes in which somebody waits."""
        self._busy = 0
        self._failing: OrderedDict[str, None] = OrderedDict()

    @property
    def under_way(self) -> int:
        """Notifications that are not answered yet."""
        return self._busy

    # ---- what is to be told -----------------------------------------------------------------------------------------

    def message(self, one: Registration, newest: Stanza | None, count: int, *, later: bool = False) -> None:
        """So many more messages wait for a device. `later`: not before other servers can be reached."""
        one.unread += count
        if newest is not None:
            config = self._config
            one.sender = str(newest.sender or "") if config.include_sender else ""
            text = words(newest) if config.include_body else None
            one.body = text[: config.body_length] if text else ""
        self._tell(one, later)

    def ask(self, one: Registration) -> None:
        """A contact asked for the user's presence."""
        one.asked = True
        self._tell(one, False)

    def there(self, one: Registration) -> None:
        """The device is back: it sees for itself what came."""
        one.away = False
        one.visits += 1
        one.dismiss()
        if one.unread or one.told:
            one.unread = one.told = 0
            self._store.note(one)

    # ---- when -------------------------------------------------------------------------------------------------------

    def _tell(self, one: Registration, later: bool) -> None:
        one.due = True
        if later:
            one.next = max(one.next, self._clock.monotonic() + START_SECONDS)
        self._pump(one)

    def _pump(self, one: Registration) -> None:
        if not one.due or one.busy or one.queued or one.timer is not None:
            return
        wait = one.next - self._clock.monotonic()
        if wait > 0.0:
            one.timer = self._clock.call_later(wait, partial(self._ripe, one))
        else:
            self._enter(one)

    def _ripe(self, one: Registration) -> None:
        one.timer = None
        self._pump(one)

    def _enter(self, one: Registration) -> None:
        domain = one.service.domain
        lane = self._lanes.get(domain)
        if lane is None:
            lane = self._lanes[domain] = _Lane()
        if self._busy >= self._config.under_way or lane.busy >= self._config.under_way_per_service:
            one.queued = True
            lane.waiting.append(one)
            self._waiting[domain] = lane
        else:
            self._begin(one, lane)

    def _begin(self, one: Registration, lane: _Lane) -> None:
        one.busy = True
        lane.busy += 1
        self._busy += 1
        one.next = self._clock.monotonic() + self._config.pause_seconds
        self._tasks.spawn(self._run(one, lane), "publish")

    async def _run(self, one: Registration, lane: _Lane) -> None:
        try:
            await self._publish(one)
        except StorageError as exc:
            log.warning("push_postponed", jid=str(one.account), error=repr(exc))
            self._again(one)
        except Exception:
            log.exception("push_failed", jid=str(one.account))
            self._again(one)
        finally:
            one.busy = False
            lane.busy -= 1
            self._busy -= 1
        if not lane.busy and not lane.waiting:
            self._lanes.pop(one.service.domain, None)
        self._admit()
        self._pump(one)

    def _admit(self) -> None:
        """Places are free: for services in turn, as far as each may have another one."""
        most, full = self._config.under_way_per_service, 0
        while self._busy < self._config.under_way and full < len(self._waiting):
            domain, lane = self._waiting.popitem(last=False)
            if lane.busy >= most:
                full += 1
                self._waiting[domain] = lane
                continue
            full = 0
            one = lane.waiting.popleft()
            one.queued = False
            if one.due:
                self._begin(one, lane)
            if lane.waiting:
                self._waiting[domain] = lane
            elif not lane.busy:
                self._lanes.pop(domain, None)

    def _again(self, one: Registration) -> None:
        """Try once more, later each time, as long as the device is not back."""
        pause = min(RETRY_SECONDS * 2.0 ** min(max(one.failures - 1, 0), 20), RETRY_MOST)
        one.next = self._clock.monotonic() + pause
        one.due = one.unread > one.told or one.asked

    # ---- publishing -------------------------------------------------------------------------------------------------

    async def _publish(self, one: Registration) -> None:
        account = one.account
        found = await self._store.address(one)
        disabled = self._kernel.service(AccountsService).is_disabled(account)
        if found is None or disabled or not self._store.holds(one, found[0]):
            one.dismiss()
            return
        summary = await self._summary(one)
        if not one.due or not summary:  # it came back, or whoever asked has an answer
            one.dismiss()
            return
        one.due = one.asked = False
        count, visits, renewed = one.unread, one.visits, one.renewed
        condition = await self.publish(one, publication(*found, summary))
        if not self._store.holds(one, found[0]) or one.renewed != renewed:
            return
        if not condition:
            if one.visits == visits:
                one.told = count
            self._succeeded(one)
        elif condition in _FOR_GOOD:
            self._end(one, condition)
        else:
            one.asked = one.asked or ("pending-subscription-count" in summary and one.visits == visits)
            self._failed(one, condition)

    async def publish(self, one: Registration, content: bytes) -> str:
        """Send a notification; the condition of the error that is the answer, "" if there is none."""
        account = one.account
        sender = account if self._config.publish_as == "account" else JID.of("", account.domain)
        try:
            answer = await self._kernel.iq.request(
                "set", one.service, content, sender=sender, timeout=self._config.answer_seconds
            )
        except IqTimeout:
            return "no-answer"
        return "" if answer.type == "result" else _condition(answer)

    async def _summary(self, one: Registration) -> dict[str, str]:
        """The fields of the summary; empty if there is nothing to tell."""
        summary: dict[str, str] = {}
        if one.unread:
            summary["message-count"] = str(one.unread)
        rosters = self._kernel.service(RosterService)
        roster = rosters.cached(one.account)
        if roster is None and one.asked:
            roster = await settled(rosters.roster(one.account))
        pending = sum(item.pending_in for item in roster.pending()) if roster is not None else 0
        if pending and (one.unread or one.asked):
            summary["pending-subscription-count"] = str(pending)
        if one.unread:
            if one.sender:
                summary["last-message-sender"] = one.sender
            if body := one.body or self._config.important_body:
                summary["last-message-body"] = body
        return summary

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _succeeded(self, one: Registration) -> None:
        one.failures = 0
        self._store.note(one, self._clock.now(), "ok")
        if self._failing and one.service.domain in self._failing:
            del self._failing[one.service.domain]
            log.info("push_service_works_again", service=str(one.service))

    def _failed(self, one: Registration, condition: str) -> None:
        one.failures += 1
        if one.failures >= self._config.max_failures:
            self._end(one, condition)
            return
        domain = one.service.domain
        if domain not in self._failing:
            self._failing[domain] = None
            if len(self._failing) > _FAILING:
                self._failing.popitem(last=False)
            log.warning("push_service_fails", service=str(one.service), jid=str(one.account), condition=condition)
        self._store.note(one, self._clock.now(), condition)
        self._again(one)

    def _end(self, one: Registration, condition: str) -> None:
        log.info(
            "push_registration_ended",
            jid=str(one.account),
            service=str(one.service),
            resource=one.resource,
            condition=condition,
            failures=one.failures,
        )
        self._store.remove(one)


def _condition(answer: Stanza) -> str:
    """The condition of an error (RFC 6120 §8.3.3)."""
    for child in answer.el.iterfind("{*}error/*"):
        tag = str(child.tag)
        if tag.startswith(f"{{{ns.STANZAS}}}") and not tag.endswith("}text"):
            return tag.partition("}")[2]
    return "undefined-condition"
