"""Random events: what must hold in a room whatever happens, and what every session believes about it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from beamish.modules.muc.administration import (
    AffiliationItem,
    RoleItem,
    apply_affiliations,
    apply_config,
    change_roles,
    plan_affiliations,
    plan_lists,
)
from beamish.modules.muc.config_form import Lists, RoomConfig
from beamish.modules.muc.history import History
from beamish.modules.muc.names import MUC_USER
from beamish.modules.muc.occupants import Effect, Seat, Tell, nick_key
from beamish.modules.muc.privileges import Affiliation, Role, Standing
from beamish.modules.muc.room import Bounds, Room
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE

USERS = [JID(f"{name}@example.org") for name in ("ann", "bob", "cat")] + [JID("dan@example.net")]
JIDS = [user.with_resource(r) for user in USERS for r in ("1", "2")]
NICKS = ["A", "B", "b", "C", "D", "E"]

jids, nicks, users = st.sampled_from(JIDS), st.sampled_from(NICKS), st.sampled_from(USERS)
whom = st.sampled_from([*USERS, JID("example.org"), JID("example.net")])  # whole domains, too
roles, affiliations = st.sampled_from(list(Role)), st.sampled_from(list(Affiliation))
actors = st.sampled_from([JIDS[0], JIDS[0], *JIDS])  # mostly the owner, as most others are refused
shown = st.sampled_from([b"", b"<show>away</show>"])
events = st.one_of(
    st.tuples(st.just("join"), jids, nicks, shown),
    st.tuples(st.just("join"), jids, nicks, shown),
    st.tuples(st.just("presence"), jids, nicks, shown),
    st.tuples(st.just("leave"), jids),
    st.tuples(st.just("role"), actors, st.lists(st.tuples(nicks, roles), min_size=1, max_size=2)),
    st.tuples(st.just("affiliation"), actors, st.lists(st.tuples(whom, affiliations), min_size=1, max_size=2)),
    st.tuples(st.just("owners"), actors, st.lists(users, max_size=2)),
    st.tuples(
        st.just("config"),
        st.fixed_dictionaries(
            {},
            optional={
                "members_only": st.booleans(),
                "moderated": st.booleans(),
                "whois": st.sampled_from(["anyone", "moderators"]),
                "presence_broadcast": st.sampled_from(
                    [("moderator", "participant", "visitor"), ("moderator",), ("moderator", "participant"), ()]
                ),
            },
        ),
    ),
)


class Watched:
    """A room, and what each session was told."""

    def __init__(self) -> None:
        self.room = Room(JID("r@c.example.org"), RoomConfig(persistent=True), b"s", Bounds(rate=1e9, burst=1e9))
        self.room.set_standing(USERS[0], Standing(Affiliation.OWNER))
        self.room.history = History(self.room.jid)
        self.views: dict[JID, dict[str, tuple[str, str]]] = {}
        self.now = 0.0

    def do(self, event: tuple[Any, ...]) -> None:
        self.now += 1.0
        before = {jid: seat.occupant.role for jid, seat in self.room.seats.items()}
        try:
            effects = self.effects(event)
        except StanzaError:
            assert {jid: seat.occupant.role for jid, seat in self.room.seats.items()} == before, "refused, yet changed"
            return
        for effect in effects:
            if isinstance(effect, Tell) and effect.stanza.name == PRESENCE:
                for seat in effect.seats:
                    self.told(seat, effect, before.get(seat.jid))
        for jid in [j for j in self.views if j not in self.room.seats]:
            del self.views[jid]

    def effects(self, event: tuple[Any, ...]) -> list[Effect]:
        room = self.room
        match event:
            case ("join", jid, nick, shown):
                return room.join(jid, nick, shown, self.now)
            case ("presence", jid, nick, shown):
                return room.presence(jid, nick, shown, self.now) if jid in room.seats else []
            case ("leave", jid):
                return room.leave(jid)
            case ("role", jid, items):
                return change_roles(room, jid, [RoleItem(nick, role) for nick, role in items])
            case ("affiliation", jid, items):
                return apply_affiliations(room, plan_affiliations(room, jid, [AffiliationItem(u, a) for u, a in items]))
            case ("owners", jid, owners):
                if room.affiliation_of(jid) is not Affiliation.OWNER:
                    return []
                changes = plan_lists(room, jid, Lists(tuple(owners), None))
                return apply_config(room, room.config, changes)
            case ("config", values):
                return apply_config(room, room.config.changed(**values), [])
        raise AssertionError(event)

    def told(self, seat: Seat, effect: Tell, role_before: Role | None) -> None:
        stanza = effect.stanza
        assert stanza.sender is not None
        item = stanza.el.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
        assert item is not None
        codes = {s.get("code") for s in stanza.el.iter(f"{{{MUC_USER}}}status")}
        view = self.views.setdefault(seat.jid, {})
        if "110" not in codes and item.get("jid") is not None and seat.jid in self.room.seats:
            may_know = Role.MODERATOR in (seat.occupant.role, role_before)
            assert self.room.config.non_anonymous or may_know, "a real address leaked"
        if stanza.type == "unavailable":
            view.pop(stanza.sender.resource, None)
        else:
            view[stanza.sender.resource] = (item.get("affiliation", ""), item.get("role", ""))

    def check(self) -> None:
        room = self.room
        assert room.owners, "a room has an owner"
        for key, occupant in room.occupants.items():
            assert key == nick_key(occupant.nick)
            assert occupant.seats and occupant.main in occupant.seats.values()
            assert occupant.affiliation is room.affiliation_of(occupant.bare)
            assert occupant.affiliation is not Affiliation.OUTCAST, "no outcast inside"
            assert not (room.config.members_only and occupant.affiliation is Affiliation.NONE)
            assert occupant.affiliation < Affiliation.ADMIN or occupant.role is Role.MODERATOR
            assert occupant.role is not Role.NONE
            assert all(room.seats[jid] is seat and seat.occupant is occupant for jid, seat in occupant.seats.items())
            assert all(jid.bare == occupant.bare for jid in occupant.seats)
        assert sum(len(o.seats) for o in room.occupants.values()) == len(room.seats)
        assert set(self.views) == set(room.seats)
        for jid, view in self.views.items():
            own = room.seats[jid].occupant
            truth = {
                o.nick: (o.affiliation.label, o.role.label)
                for o in room.occupants.values()
                if o is own or room.is_shown(o.role)
            }
            assert view == truth, f"{jid} believes {view}, true is {truth}"


@settings(max_examples=200, deadline=None)
@given(st.lists(events, min_size=10, max_size=60))
def test_whatever_happens(sequence: list[tuple[Any, ...]]) -> None:
    watched = Watched()
    everybody = [("join", jid, nick, b"") for jid, nick in zip(JIDS[::2], "ABCD", strict=True)]
    for event in [*everybody, *sequence]:
        watched.do(event)
        watched.check()
