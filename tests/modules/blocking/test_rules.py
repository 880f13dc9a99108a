"""XEP-0016 §2.1, §2.2: which rule decides. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.core.services import RosterItem
from beamish.modules.blocking.rules import EVERYTHING, Kind, PrivacyList, Rule, blocking, unblocking
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import from_bytes

TYBALT = JID.parse("tybalt@example.com/pda")


def nobody() -> RosterItem | None:
    """Not in the roster."""
    return None


def deny(order: int, value: str = "tybalt@example.com", kinds: Kind = EVERYTHING) -> Rule:
    """A rule about an address."""
    return Rule(order, False, "jid", value, kinds)


@pytest.mark.parametrize(
    ("value", "peer", "matches"),
    [
        ("tybalt@example.com/pda", "tybalt@example.com/pda", True),
        ("tybalt@example.com/pda", "tybalt@example.com/home", False),
        ("tybalt@example.com/pda", "tybalt@example.com", False),
        ("tybalt@example.com", "tybalt@example.com/pda", True),
        ("tybalt@example.com", "tybalt@example.com", True),
        ("tybalt@example.com", "paris@example.com", False),
        ("example.com/pda", "example.com/pda", True),
        ("example.com/pda", "example.com", False),
        ("example.com/pda", "tybalt@example.com/pda", False),
        ("example.com", "tybalt@example.com/pda", True),
        ("example.com", "example.com/pda", True),
        ("example.com", "example.com", True),
        ("example.com", "tybalt@sub.example.com", False),
    ],
)
def test_matching_of_addresses(value: str, peer: str, matches: bool) -> None:
    made = PrivacyList([deny(1, value)])
    assert made.allows(Kind.MESSAGE, JID.parse(peer), nobody) is not matches


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("other", list(Kind))
def test_a_rule_is_about_its_kinds_only(kind: Kind, other: Kind) -> None:
    made = PrivacyList([deny(1, kinds=kind)])
    assert made.allows(other, TYBALT, nobody) is (kind != other)
    assert not PrivacyList([deny(1)]).allows(other, TYBALT, nobody)


def test_the_first_rule_in_order_decides_wherever_it_stands_in_the_list() -> None:
    allow = Rule(2, True, "jid", "tybalt@example.com")
    assert PrivacyList([deny(3, "example.com"), allow]).allows(Kind.MESSAGE, TYBALT, nobody)
    assert not PrivacyList([deny(1, "example.com"), allow]).allows(Kind.MESSAGE, TYBALT, nobody)
    assert not PrivacyList([Rule(9, False), Rule(10, True)]).allows(Kind.IQ, TYBALT, nobody)
    # within a run of addresses a rule about another kind does not end the search
    made = PrivacyList([Rule(1, True, "jid", "tybalt@example.com", Kind.IQ), deny(2, "example.com")])
    assert made.allows(Kind.IQ, TYBALT, nobody) and not made.allows(Kind.MESSAGE, TYBALT, nobody)


def test_what_nothing_speaks_of_is_allowed() -> None:
    assert PrivacyList([]).allows(Kind.MESSAGE, TYBALT, nobody)
    assert PrivacyList([deny(1, "paris@example.com")]).allows(Kind.MESSAGE, TYBALT, nobody)


@pytest.mark.parametrize(
    ("rule", "item", "matches"),
    [
        (Rule(1, False, "subscription", "none"), None, True),
        (Rule(1, False, "subscription", "none"), RosterItem(TYBALT.bare), True),
        (Rule(1, False, "subscription", "none"), RosterItem(TYBALT.bare, pending_in=True, listed=False), True),
        (Rule(1, False, "subscription", "none"), RosterItem(TYBALT.bare, to=True), False),
        (Rule(1, False, "subscription", "to"), RosterItem(TYBALT.bare, to=True), True),
        (Rule(1, False, "subscription", "to"), RosterItem(TYBALT.bare, to=True, from_=True), False),
        (Rule(1, False, "subscription", "both"), RosterItem(TYBALT.bare, to=True, from_=True), True),
        (Rule(1, False, "group", "Enemies"), RosterItem(TYBALT.bare, groups=("Enemies", "Cousins")), True),
        (Rule(1, False, "group", "Enemies"), RosterItem(TYBALT.bare, groups=("Cousins",)), False),
        (Rule(1, False, "group", "Enemies"), None, False),
        (Rule(1, False), None, True),
    ],
)
def test_rules_about_the_roster(rule: Rule, item: RosterItem | None, matches: bool) -> None:
    made = PrivacyList([rule])
    assert made.allows(Kind.MESSAGE, TYBALT, lambda: item) is not matches
    assert made.asks_roster is (rule.type != "")


@pytest.mark.parametrize(
    "xml",
    [
        "<item action='deny'/>",
        "<item action='maybe' order='1'/>",
        "<item action='deny' order='-1'/>",
        "<item action='deny' order='x'/>",
        "<item action='deny' order='4294967296'/>",
        "<item order='1'/>",
        "<item action='deny' order='1' type='subscription' value='all'/>",
        "<item action='deny' order='1' type='group'/>",
        "<item action='deny' order='1' type='jid'/>",
        "<item action='deny' order='1' type='jid' value='@@'/>",
        "<item action='deny' order='1' type='colour' value='red'/>",
        "<item action='deny' order='1' value='red'/>",
        "<item action='deny' order='1'><letter/></item>",
        "<list action='deny' order='1'/>",
    ],
)
def test_malformed_items_are_refused(xml: str) -> None:
    with pytest.raises(StanzaError):
        Rule.from_xml(from_bytes(xml.replace(" ", " xmlns='jabber:iq:privacy' ", 1).encode()))


addresses = st.sampled_from(["a@x.example", "b@x.example", "x.example", "a@x.example/r", "y.example"])
rules = st.builds(
    Rule,
    st.integers(0, 20),
    st.booleans(),
    st.just("jid"),
    addresses,
    st.integers(1, 31).map(Kind),
)


@given(st.lists(rules, unique_by=lambda rule: rule.order), addresses, st.sampled_from(list(Kind)))
def test_the_compiled_list_decides_as_the_plain_reading_does(given_: list[Rule], peer: str, kind: Kind) -> None:
    jid = JID.parse(peer)
    expected = True
    for rule in sorted(given_, key=lambda r: r.order):
        if rule.kinds & kind and rule.value in (str(jid), str(jid.bare), jid.domain):
            expected = rule.allow
            break
    assert PrivacyList(given_).allows(kind, jid, nobody) is expected


@given(st.lists(rules, unique_by=lambda rule: rule.order), st.lists(addresses))
def test_blocking_puts_addresses_in_front_and_unblocking_takes_them_out(given_: list[Rule], blocked: list[str]) -> None:
    made = PrivacyList(blocking(given_, blocked))
    assert len({rule.order for rule in made.rules}) == len(made.rules)
    assert set(blocked) <= set(made.blocked())
    fresh = set(blocked) - {rule.value for rule in given_ if rule.blocks}
    assert {rule.value for rule in made.rules[: len(fresh)]} == fresh
    left = PrivacyList(unblocking(made.rules, blocked))
    assert not set(left.blocked()) & set(blocked)
    strip = [(r.allow, r.type, r.value, r.kinds) for r in left.rules]
    kept = [r for r in sorted(given_, key=lambda r: r.order) if not (r.blocks and r.value in blocked)]
    assert strip == [(r.allow, r.type, r.value, r.kinds) for r in kept]
    assert PrivacyList(unblocking(made.rules, None)).blocked() == ()


@given(rules)
def test_items_survive_the_wire(rule: Rule) -> None:
    spoken = rule.kinds & ~Kind.OTHER if rule.kinds != EVERYTHING else EVERYTHING
    if spoken:  # the rest has no form of its own
        plain = Rule(rule.order, rule.allow, rule.type, rule.value, spoken)
        assert Rule.from_xml(plain.to_xml()) == plain
