"""XEP-0079: rules that a message carries about its own delivery.

Rules are checked where the message enters and followed where it is decided what becomes of it: for our users here, for
others at the border. `expire-at` is looked at once more when a kept message is about to be delivered. What rules tell
about a user is only for those who may see that user's presence. A message for another server goes there only if that
server knows this protocol. Never met, because there is no such thing here: `deliver` by `forward` and by `gateway`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from beamish.core import events
from beamish.core.disco import DiscoInfo, DiscoNode
from beamish.core.events import Context, Release
from beamish.core.hooks import STOP, Outcome
from beamish.core.later import then
from beamish.core.module import Identity, Module, ModuleConfig, Xep, on
from beamish.core.remote_disco import RemoteDisco
from beamish.core.router import BARE_TABLE, FULL_TABLE, Action, Reach
from beamish.core.services import AccountsService, PresenceService
from beamish.stream.features import Has, StreamFeature
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import Element, make, to_bytes

log = structlog.get_logger(__name__)

AMP: Final = "http://jabber.org/protocol/amp"
_ERRORS: Final = f"{AMP}#errors"
_EL: Final = f"{{{AMP}}}amp"
_RULE: Final = f"{{{AMP}}}rule"
_MARK: Final = AMP.encode()
ACTIONS: Final = frozenset(("alert", "drop", "error", "notify"))
CONDITIONS: Final = frozenset(("deliver", "expire-at", "match-resource"))
_DELIVER: Final = frozenset(("direct", "forward", "gateway", "none", "stored"))
_MATCH: Final = frozenset(("any", "exact", "other"))
_TYPES: Final = frozenset(("normal", "chat", "groupchat", "headline"))
_MAX_RULES: Final = 20


class Config(ModuleConfig):
    """Message processing has no options."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule (§3.2); `el` is as the sender wrote it."""

    condition: str
    action: str
    value: str
    el: Element


@dataclass(frozen=True, slots=True)
class Fate:
    """What would become of a message without rules: `deliver` as in §3.3.1, and the full addresses that would get it."""

    deliver: str
    targets: tuple[JID, ...] = ()
    here: bool = True
    """False: for somebody who is not our user, so the resource is not ours to judge (§3.3.3)."""


class AmpModule(Module):
    """Follows the rules."""

    name = "amp"
    Config = Config
    xeps = (Xep(79, "1.2"),)
    features = (AMP,)
    stream_features = (StreamFeature(b"<amp xmlns='http://jabber.org/features/amp'/>", needs=Has.AUTHENTICATED),)
    requires = (AccountsService, PresenceService)

    async def start(self) -> None:
        """Find who knows the users and who may see them."""
        self._accounts = self.kernel.service(AccountsService)
        self._presence = self.kernel.service(PresenceService)
        self._undelivered = self.kernel.hooks[events.undelivered]
        self._remote = RemoteDisco(self.kernel)

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | None:
        """What is supported (§2.1.1)."""
        if at.local or node != AMP:
            return None
        listed = [f"{AMP}?action={name}" for name in ACTIONS] + [f"{AMP}?condition={name}" for name in CONDITIONS]
        return DiscoNode(DiscoInfo((Identity("server", "im"),), (AMP, *listed)))

    # ---- where rules are read ---------------------------------------------------------------------------------------

    # after blocking, before everything that keeps or copies messages
    @on(events.inbound, at=25, only=(MESSAGE,), about=(_EL,))
    def inbound(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """A client of ours sends a message with rules."""
        stanza = ctx.stanza
        if _MARK not in stanza.body or stanza.name != MESSAGE:
            return None
        amp = _rules_in(stanza)
        if amp is None or stanza.to is None:
            return None
        assert stanza.sender is not None
        if (refused := self._refused(stanza, amp)) is not None:
            self.kernel.router.answer(ctx, refused)
            return STOP
        # §5.1: what a server passes on says whose message it was
        ctx.stanza = stanza = stanza.without(amp).with_child(to_bytes(_stamped(amp, stanza)))
        to = stanza.to
        assert to is not None
        if self.kernel.is_local_domain(to.domain) and to.local:
            return None  # decided where it arrives
        if self._follow(ctx, _read(amp), Fate("direct", here=False)):
            return STOP
        if self.kernel.router.serves(to.domain):
            return None
        return self._if_supported(ctx, amp, to.domain)

    async def _if_supported(self, ctx: Context, amp: Element, domain: str) -> Outcome:
        """§2.2.4: only to a server that knows this protocol."""
        if AMP in await self._remote.features(JID.of("", domain)):
            return None
        error = StanzaError(Condition.SERVICE_UNAVAILABLE, text=f"{domain} does not know message processing")
        self.kernel.router.answer(ctx, self._failed(ctx.stanza, amp, error))
        return STOP

    @on(
        events.incoming, at=4, only=(MESSAGE,), about=(_EL,)
    )  # before blocking: whom it blocks is told what all strangers are
    def arrived(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """A message for a user of ours: rules that cannot be followed, at all or for a stranger."""
        stanza = ctx.stanza
        if _MARK not in stanza.body or stanza.name != MESSAGE:
            return None
        amp = _rules_in(stanza)
        if amp is None:
            return None
        # those of our clients were looked at before, except in messages without an address, which are for oneself
        if (refused := self._refused(stanza, amp)) is not None:
            self.kernel.router.answer(ctx, refused)
            return STOP
        telling = [rule for rule in _read(amp) if rule.action != "drop"]
        assert stanza.to is not None and stanza.sender is not None
        user, sender = stanza.to.bare, stanza.sender
        if not telling or sender.bare == user:
            return None

        def decide(allowed: bool) -> Outcome:
            if allowed:
                return None
            # §9: an answer would tell a stranger who is online, and whether there is such a user
            self.kernel.router.answer(ctx, self._failed(stanza, amp, _invalid(telling)))
            return STOP

        return then(self._presence.may_see(user, sender), decide)

    @on(events.incoming, at=25, only=(MESSAGE,), about=(_EL,))  # after blocking, before the archive
    def incoming(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """A message with rules for a user of ours, which `arrived` has let pass."""
        stanza = ctx.stanza
        if _MARK not in stanza.body or stanza.name != MESSAGE:
            return None
        amp = _rules_in(stanza)
        return None if amp is None else self._decide(ctx, amp)

    def _refused(self, stanza: Stanza, amp: Element) -> Stanza | None:
        """The error for rules that cannot be followed (§6.1), None if all can."""
        if not stanza.id:
            return self._failed(
                stanza, amp, StanzaError(Condition.BAD_REQUEST, text="a message with rules needs an id")
            )
        rules = _read(amp)
        if not rules or len(rules) > _MAX_RULES or amp.get("per-hop", "false") not in ("true", "false", "1", "0"):
            text = f"from 1 to {_MAX_RULES} rules; per-hop is true or false"
            return self._failed(stanza, amp, StanzaError(Condition.BAD_REQUEST, text=text))
        for name, wrong in (
            ("unsupported-actions", [rule for rule in rules if rule.action not in ACTIONS]),
            ("unsupported-conditions", [rule for rule in rules if rule.condition not in CONDITIONS]),
        ):
            if wrong:
                app = make(f"{{{AMP}}}{name}", None, *(_copy(rule.el) for rule in wrong))
                return self._failed(stanza, amp, StanzaError(Condition.BAD_REQUEST, app=app))
        invalid = [rule for rule in rules if not _valid(rule)]
        return self._failed(stanza, amp, _invalid(invalid)) if invalid else None

    def _failed(self, stanza: Stanza, amp: Element, error: StanzaError) -> Stanza:
        return _failed(stanza, amp, error, self._speaker(stanza))

    def _speaker(self, stanza: Stanza) -> JID:
        """Who answers: the server of the user whom it was for, if that is us; else the sender's."""
        assert stanza.to is not None and stanza.sender is not None
        ours = self.kernel.is_local_domain(stanza.to.domain)
        return JID.of("", stanza.to.domain if ours else stanza.sender.domain)

    # ---- for our users ----------------------------------------------------------------------------------------------

    def _decide(self, ctx: Context, amp: Element) -> Outcome | Awaitable[Outcome]:
        assert ctx.stanza.to is not None
        user = ctx.stanza.to.bare
        exists = user in self.kernel.sessions.by_user or self._accounts.exists(user)

        def follow(there: bool) -> Outcome:
            if not there:
                return None  # nobody's message comes back as any other, and as it does from whoever blocks its sender
            return STOP if self._follow(ctx, _read(amp), self._fate(ctx.stanza)) else None

        return then(exists, follow)

    def _fate(self, stanza: Stanza) -> Fate:
        """What the router would do with the message (RFC 6121 §8.5)."""
        to = stanza.to
        assert to is not None
        if to.resource and self.kernel.sessions.get(to) is not None:
            return Fate("direct", (to,))
        user = self.kernel.sessions.of(to.bare)
        if user.routable:
            reach = Reach.SOME
        elif user.available:
            reach = Reach.ONLY_NEGATIVE
        else:
            reach = Reach.NO_RESOURCES
        type_ = stanza.type if stanza.type in _TYPES else "normal"
        action = (FULL_TABLE if to.resource else BARE_TABLE)[reach][type_]
        if action is Action.ALL:
            return Fate("direct", tuple(session.jid for session in user.routable))
        return Fate("stored" if action is Action.STORE and self._undelivered.rows else "none")

    # ---- following rules --------------------------------------------------------------------------------------------

    def _follow(self, ctx: Context, rules: list[Rule], fate: Fate) -> bool:
        """Do what the first rule says whose condition is met (§2.2.3); True if the message goes no further."""
        now = self.kernel.clock.now()
        to = ctx.stanza.to
        assert to is not None
        rule = next((rule for rule in rules if _met(rule, fate, to, now)), None)
        return rule is not None and self._act(ctx, rule)

    def _act(self, ctx: Context, rule: Rule) -> bool:
        stanza = ctx.stanza
        if rule.action == "error":
            app = make(
                f"{{{_ERRORS}}}failed-rules",
                None,
                make(f"{{{_ERRORS}}}rule", {str(k): str(v) for k, v in rule.el.items()}),
            )
            error = StanzaError(Condition.UNDEFINED_CONDITION, Kind.MODIFY, app=app)
            self.kernel.router.answer(ctx, _answer(stanza, rule, "error", self._speaker(stanza), error))
        elif rule.action != "drop":
            self.kernel.router.answer(ctx, _answer(stanza, rule, rule.action, self._speaker(stanza)))
        return rule.action != "notify"

    # ---- later ------------------------------------------------------------------------------------------------------

    @on(events.releasing)
    def releasing(self, release: Release) -> None:
        """Messages were kept and are now to be delivered: for some it is perhaps too late (§3.3.2)."""
        if _MARK in release.data:
            release.messages = [stanza for stanza in release.messages if not self._expired(stanza)]

    def _expired(self, stanza: Stanza) -> bool:
        amp = _rules_in(stanza) if _MARK in stanza.body else None
        if amp is None:
            return False
        now = self.kernel.clock.now()
        expired = next(
            (r for r in _read(amp) if r.condition == "expire-at" and _valid(r) and _time(r.value) <= now), None
        )
        return expired is not None and self._act(Context(stanza), expired)


def _rules_in(stanza: Stanza) -> Element | None:
    """The element with the rules; None if there is none, or it is an answer about rules."""
    if stanza.type == "error":
        return None
    amp = stanza.child(_EL)
    return None if amp is None or amp.get("status") is not None else amp


def _read(amp: Element) -> list[Rule]:
    return [
        Rule(el.get("condition", ""), el.get("action", ""), el.get("value", ""), el)
        for el in amp.findall(_RULE)[: _MAX_RULES + 1]
    ]


def _valid(rule: Rule) -> bool:
    """Whether the value is one that the condition knows (§3.3)."""
    if rule.condition == "deliver":
        return rule.value in _DELIVER
    if rule.condition == "match-resource":
        return rule.value in _MATCH
    try:
        _time(rule.value)
    except ValueError:
        return False
    return True


def _time(value: str) -> float:
    """A date and time in UTC, as seconds since the epoch. Raises `ValueError`."""
    when = datetime.fromisoformat(value)
    if when.utcoffset() != timedelta(0):
        raise ValueError("the time is not in UTC")
    return when.timestamp()


def _met(rule: Rule, fate: Fate, to: JID, now: float) -> bool:
    if rule.condition == "expire-at":
        return _time(rule.value) <= now
    if rule.condition == "deliver":
        return rule.value == fate.deliver
    if not fate.here:
        return False
    if rule.value == "any":
        return bool(fate.targets)
    if rule.value == "exact":
        return fate.targets == (to,) if to.resource else fate.deliver == "stored"
    return bool(fate.targets) and to not in fate.targets


def _stamped(amp: Element, stanza: Stanza) -> Element:
    made = _copy(amp)
    made.set("from", str(stanza.sender))
    made.set("to", str(stanza.to))
    return made


def _copy(el: Element) -> Element:
    """A copy that stands alone, in the protocol's own namespace."""
    made = make(str(el.tag), {str(key): str(value) for key, value in el.items()})
    for child in el:
        made.append(deepcopy(child))
    return made


def _invalid(rules: list[Rule]) -> StanzaError:
    return StanzaError(
        Condition.NOT_ACCEPTABLE, app=make(f"{{{AMP}}}invalid-rules", None, *(_copy(rule.el) for rule in rules))
    )


def _failed(stanza: Stanza, amp: Element, error: StanzaError, speaker: JID) -> Stanza:
    """The error for rules that are not followed at all: with the rules, without the rest of the message (§2.2.5)."""
    return Stanza.build(
        MESSAGE,
        "error",
        id=stanza.id,
        sender=speaker,
        to=stanza.sender,
        content=to_bytes(_copy(amp)) + error.to_bytes(),
    )


def _answer(stanza: Stanza, rule: Rule, status: str, speaker: JID, error: StanzaError | None = None) -> Stanza:
    """The answer of a rule that was met (§3.4)."""
    about = {"status": status, "from": str(stanza.sender), "to": str(stanza.to)}
    content = to_bytes(make(_EL, about, _copy(rule.el)))
    if error is not None:
        content += error.to_bytes()
    type_ = "error" if error is not None else ""
    return Stanza.build(MESSAGE, type_, id=stanza.id, sender=speaker, to=stanza.sender, content=content)
