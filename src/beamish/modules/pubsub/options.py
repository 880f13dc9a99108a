"""Subscription options (XEP-0060 §6.3): values, their form, and whom a notification reaches because of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from beamish.core.clock import parse_stamp, stamp
from beamish.modules.pubsub.names import SUBSCRIBE_OPTIONS, refused
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.payload.forms import Field, Form, Option, Submission, boolean, choice
from beamish.xmpp.xml import Element

SHOW_VALUES: Final = ("away", "chat", "dnd", "online", "xa")
PRESENCE: Final = "presence"
"""The value of `pubsub#expire` for a subscription that ends with the subscriber's presence (§12.4)."""
LEAST_FREQUENCY: Final = 1000
"""Milliseconds between two digests, at least."""
MOST_FREQUENCY: Final = 7 * 86_400_000
DAY: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one subscription.

    `expire` is seconds since the epoch, or "presence", or None. `frequency` is in milliseconds.
    """

    deliver: bool = True
    digest: bool = False
    frequency: int = DAY
    expire: float | str | None = None
    include_body: bool = False
    show_values: tuple[str, ...] = SHOW_VALUES
    type: str = "items"
    depth: str = "1"

    @property
    def temporary(self) -> bool:
        """Whether the subscription ends with the subscriber's presence."""
        return self.expire == PRESENCE

    @property
    def expires(self) -> float | None:
        """When the lease ends, None if it does not by itself."""
        return self.expire if isinstance(self.expire, float) else None

    @property
    def watches_presence(self) -> bool:
        """Whether delivery depends on how available the subscriber is."""
        return len(self.show_values) < len(SHOW_VALUES)

    def wants(self, shows: Iterable[str] | None) -> bool:
        """Whether a notification is delivered now.

        `shows` are the states of the subscriber's available resources, None if they are not known: then only the
        default, all states, lets it through.
        """
        if not self.deliver:
            return False
        if not self.watches_presence:
            return True
        return shows is not None and any(show in self.show_values for show in shows)

    def fields(self) -> tuple[Field, ...]:
        """The fields of the form, with the present values."""
        expire = stamp(self.expire) if isinstance(self.expire, float) else self.expire or ""
        shows = Field(
            "pubsub#show-values",
            "list-multi",
            self.show_values,
            "Presence states in which notifications are wanted",
            tuple(Option(v, label) for v, label in zip(SHOW_VALUES, _SHOW_LABELS, strict=True)),
        )
        return (
            boolean("pubsub#deliver", self.deliver, "Deliver notifications"),
            boolean("pubsub#digest", self.digest, "Collect notifications and deliver them together"),
            Field(
                "pubsub#digest_frequency",
                "text-single",
                (str(self.frequency),),
                "Milliseconds between two digests, at least",
                datatype="xs:integer",
            ),
            Field(
                "pubsub#expire",
                "text-single",
                (expire,) if expire else (),
                "When the subscription ends: a date and time, or “presence”",
            ),
            boolean("pubsub#include_body", self.include_body, "Add a text to read"),
            shows,
            choice("pubsub#subscription_type", self.type, ("items", "nodes"), "Of what to be notified"),
            choice("pubsub#subscription_depth", self.depth, ("1", "all"), "How deep below a collection"),
        )

    def form(self, type: str = "form") -> Element:
        """The form with these options in it."""
        return Form.of(type, SUBSCRIBE_OPTIONS, self.fields()).to_xml()

    def to_json(self) -> str:
        """For storage: what differs from the defaults."""
        known = asdict(Options())
        return json.dumps({k: v for k, v in asdict(self).items() if v != known[k]}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Options:
        """Read what `to_json` wrote; fields of another version are left out."""
        if text == "{}":
            return cls()
        names = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: v for k, v in json.loads(text).items() if k in names}
        if "show_values" in values:
            values["show_values"] = tuple(values["show_values"])
        return cls(**values)


_SHOW_LABELS: Final = ("Away", "Free for chat", "Do not disturb", "Available", "Away for long")


def changed(options: Options, submitted: Submission, now: float, longest: float | None) -> Options:
    """`options` with what was submitted. Leases are cut to `longest` seconds from `now` (§12.18).

    Raises `StanzaError(bad-request)` with `invalid-options` (§6.3.6).
    """
    known = {f.var for f in options.fields()}
    unknown = [var for var in submitted.fields if var not in known]
    try:
        if unknown:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"there is no option {unknown[0]}")
        return _changed(options, submitted, now, longest)
    except StanzaError as exc:
        raise refused(Condition.BAD_REQUEST, "invalid-options", text=exc.text) from exc


def _changed(options: Options, submitted: Submission, now: float, longest: float | None) -> Options:
    values: dict[str, Any] = {
        "deliver": submitted.boolean("pubsub#deliver"),
        "digest": submitted.boolean("pubsub#digest"),
        "frequency": submitted.integer("pubsub#digest_frequency", 0, MOST_FREQUENCY),
        "include_body": submitted.boolean("pubsub#include_body"),
        "type": submitted.choice("pubsub#subscription_type", ("items", "nodes")),
        "depth": submitted.choice("pubsub#subscription_depth", ("1", "all")),
    }
    if values["frequency"] is not None:
        values["frequency"] = max(values["frequency"], LEAST_FREQUENCY)
    shows = submitted.texts("pubsub#show-values")
    if shows is not None:
        if any(show not in SHOW_VALUES for show in shows):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="pubsub#show-values holds something that is no state")
        values["show_values"] = tuple(show for show in SHOW_VALUES if show in shows)
    after = replace(options, **{k: v for k, v in values.items() if v is not None})
    expire = submitted.text("pubsub#expire")
    if expire is not None:
        after = replace(after, expire=_expire(expire, now, longest))
    return after


def _expire(text: str, now: float, longest: float | None) -> float | str | None:
    if not text or text == PRESENCE:
        return text or None
    try:
        when = parse_stamp(text)
    except ValueError:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text="pubsub#expire is no date and time") from None
    if when <= now:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text="pubsub#expire is over already")
    return float(when if longest is None else min(when, now + longest))
