"""Items of rosters, read and written."""

from __future__ import annotations

import pytest

from beamish.core.roster_xml import contact_of, item_bytes, only_item
from beamish.core.services import RosterItem
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import from_bytes

JULIET = JID.parse("juliet@example.org")


def query(content: str) -> bytes:
    return f"<query xmlns='jabber:iq:roster'>{content}</query>".encode()


def test_an_item_is_written_with_all_that_a_client_may_see() -> None:
    assert item_bytes(RosterItem(JULIET)) == b"<item jid='juliet@example.org' subscription='none'/>"
    full = RosterItem(
        JULIET, name="J & Co", groups=("Fri<ends",), to=True, from_=False, pending_out=True, approved=True
    )
    assert item_bytes(full) == (
        b"<item jid='juliet@example.org' name='J &amp; Co' subscription='to' ask='subscribe' approved='true'>"
        b"<group>Fri&lt;ends</group></item>"
    )


def test_a_roster_set_has_one_item_and_perhaps_white_space() -> None:
    item = only_item(from_bytes(query(" <item jid='Juliet@Example.org/balcony'/>\n")))
    assert contact_of(item) == JULIET


@pytest.mark.parametrize("content", ["", "<item/><item/>", "<group/>", "<item xmlns='urn:other'/>"])
def test_other_numbers_and_kinds_of_children_are_refused(content: str) -> None:
    with pytest.raises(StanzaError) as caught:
        only_item(from_bytes(query(content)))
    assert caught.value.condition is Condition.BAD_REQUEST


@pytest.mark.parametrize(
    ("item", "condition"), [("<item/>", Condition.BAD_REQUEST), ("<item jid='@x'/>", Condition.JID_MALFORMED)]
)
def test_an_item_names_an_address(item: str, condition: Condition) -> None:
    with pytest.raises(StanzaError) as caught:
        contact_of(only_item(from_bytes(query(item))))
    assert caught.value.condition is condition
