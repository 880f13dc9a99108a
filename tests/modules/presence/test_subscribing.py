"""RFC 6121 §3, played between local users, and with one end elsewhere."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from beamish.core import events
from beamish.core.hooks import Row
from beamish.core.services import RosterService
from beamish.testing import Client, World

if TYPE_CHECKING:
    from tests.modules.presence.conftest import Remote

ROMEO, JULIET = "romeo@example.org", "juliet@example.org"
AWAY = "juliet@elsewhere.example"
STANZAS = "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'"
NEITHER = "ask='!' approved='!'"


def push(jid: str, subscription: str, extra: str = "") -> str:
    item = f"<item jid='{jid}' subscription='{subscription}' {extra or NEITHER}/>"
    return f"<iq type='set'><query xmlns='jabber:iq:roster'>{item}</query></iq>"


def presence(kind: str, sender: str, to: str, inner: str = "") -> str:
    return f"<presence type='{kind}' from='{sender}' to='{to}'>{inner}</presence>"


async def state_of(world: World, owner: str, contact: str) -> tuple[object, ...] | None:
    rows = await world.db.fetch(
        "SELECT to_, from_, pending_out, pending_in, approved, listed FROM roster WHERE owner = ? AND jid = ?",
        owner,
        contact,
    )
    return rows[0] if rows else None


async def pair(world: World) -> tuple[Client, Client]:
    romeo = await world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    juliet = await world.login(f"{JULIET}/balcony", roster=True, presence=True)
    return romeo, juliet


async def test_3_1_the_whole_handshake_step_by_step(world: World) -> None:
    romeo, juliet = await pair(world)
    chamber = await world.login(f"{JULIET}/chamber", roster=True, presence=True)
    await juliet.expect(f"<presence from='{JULIET}/chamber'/>")
    await chamber.expect(f"<presence from='{JULIET}/balcony'/>")
    romeo.send(f"<presence id='xk3h1v69' to='{JULIET}/balcony' type='subscribe'><status>Hi</status></presence>")
    await romeo.expect(push(JULIET, "none", "ask='subscribe'"))
    for client in (juliet, chamber):
        await client.expect(
            f"<presence id='xk3h1v69' from='{ROMEO}' to='{JULIET}' type='subscribe'><status>Hi</status></presence>"
        )
    # appendix A.1, state 3: not in her roster before she answers
    assert await state_of(world, JULIET, ROMEO) == (0, 0, 0, 1, 0, 0)
    assert len((await juliet.roster())[0]) == 0
    await chamber.expect_nothing()

    juliet.send(f"<presence id='h4v1c4kj' to='{ROMEO}' type='subscribed'/>")
    await juliet.expect(push(ROMEO, "from"))
    await chamber.expect(push(ROMEO, "from"))
    await romeo.expect(f"<presence id='h4v1c4kj' from='{JULIET}' to='{ROMEO}' type='subscribed'/>")
    await romeo.expect(push(JULIET, "to"))
    await romeo.expect_all(
        f"<presence from='{JULIET}/balcony' to='{ROMEO}' type='!'/>",
        f"<presence from='{JULIET}/chamber' to='{ROMEO}' type='!'/>",
    )
    for client in (romeo, juliet, chamber):
        await client.expect_nothing()
    assert await state_of(world, ROMEO, JULIET) == (1, 0, 0, 0, 0, 1)
    assert await state_of(world, JULIET, ROMEO) == (0, 1, 0, 0, 0, 1)
    assert await world.db.fetch("SELECT * FROM presence_request") == []


async def test_3_1_2_a_roster_set_before_or_after_the_request_keeps_its_labels(world: World) -> None:
    romeo, juliet = await pair(world)
    item = f"<item jid='{JULIET}' name='J'><group>L</group></item>"
    await romeo.iq(f"<iq type='set' id='1'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    await world.befriend(romeo, juliet)
    stored = (await romeo.roster())[0][0]
    assert (stored.get("name"), stored.get("subscription"), stored[0].text) == ("J", "both", "L")


async def test_3_1_3_a_request_waits_for_the_user_and_comes_again_until_answered(world: World) -> None:
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(
        f"<presence to='{JULIET}' type='subscribe'><status>Hi, Juliet</status><nick xmlns='urn:n'>Ro</nick></presence>"
    )
    romeo.send(f"<presence to='{JULIET}' type='subscribe'><status>again</status></presence>")
    await world.settle()
    request = presence("subscribe", ROMEO, JULIET, "<status>Hi, Juliet</status><nick xmlns='urn:n'>Ro</nick>")
    for resource in ("one", "two"):
        juliet = await world.login(f"{JULIET}/{resource}", presence=True)
        for el in list(juliet.inbox):
            if el.get("type") is None:
                juliet.inbox.remove(el)
        await juliet.expect(request)
        await juliet.expect_nothing()
        juliet.drop()
        await world.settle()
    juliet = await world.login(f"{JULIET}/three", presence=True)
    await juliet.expect(request)
    juliet.send(f"<presence to='{ROMEO}' type='unsubscribed'/>")
    await juliet.expect_nothing()
    assert await state_of(world, JULIET, ROMEO) is None
    juliet.drop()
    await world.settle()
    juliet = await world.login(f"{JULIET}/four", presence=True)
    await juliet.expect_nothing()
    await romeo.expect(presence("unsubscribed", JULIET, ROMEO))


async def test_3_1_3_a_waiting_request_survives_a_restart(world: World) -> None:
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(f"<presence to='{JULIET}' type='subscribe'><status>Hi &amp; bye</status></presence>")
    await world.settle()
    async with World(database=world.db) as second:
        juliet = await second.login(f"{JULIET}/b", presence=True)
        await juliet.expect(presence("subscribe", ROMEO, JULIET, "<status>Hi &amp; bye</status>"))


async def test_3_1_3_a_second_presence_of_the_session_does_not_repeat_the_request(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await juliet.expect(presence("subscribe", ROMEO, JULIET))
    juliet.send("<presence><show>away</show></presence>")
    await juliet.expect("<presence><show>away</show></presence>")
    await juliet.expect_nothing()


async def test_3_1_3_rule_2_a_subscriber_who_asks_again_is_answered_by_the_server(world: World) -> None:
    romeo, juliet = await pair(world)
    await world.befriend(romeo, juliet)
    romeo.send(f"<presence id='again' to='{JULIET}' type='subscribe'/>")
    await world.settle()
    await juliet.expect_nothing()
    # The answer changes nothing at Romeo's, so he sees only the presence that follows it.
    await romeo.expect(f"<presence from='{JULIET}/balcony' type='!'/>")
    await romeo.expect_nothing()


async def test_3_1_6_an_approval_nobody_asked_for_is_ignored(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    for kind in ("subscribed", "unsubscribed", "unsubscribe"):
        await remote.send(presence(kind, AWAY, ROMEO))
    await romeo.expect_nothing()
    assert await state_of(wide_world, ROMEO, AWAY) is None
    await remote.expect()


async def test_3_2_cancelling_shows_unavailable_before_unsubscribed(world: World) -> None:
    romeo, juliet = await pair(world)
    await world.befriend(romeo, juliet)
    juliet.send(f"<presence id='ij5b1v7g' to='{ROMEO}' type='unsubscribed'/>")
    await romeo.expect(presence("unavailable", f"{JULIET}/balcony", ROMEO))
    await romeo.expect(f"<presence id='ij5b1v7g' from='{JULIET}' to='{ROMEO}' type='unsubscribed'/>")
    await romeo.expect(push(JULIET, "from"))
    await juliet.expect(push(ROMEO, "to"))
    for client in (romeo, juliet):
        await client.expect_nothing()
    juliet.send("<presence><show>dnd</show></presence>")
    await juliet.receive()
    await romeo.expect_nothing()


async def test_3_2_cancelling_what_never_was_is_told_to_nobody(wide_world: World, remote: Remote) -> None:
    juliet = await wide_world.login(f"{JULIET}/balcony", roster=True, presence=True)
    juliet.send(f"<presence to='{AWAY}' type='unsubscribed'/>")
    await juliet.expect_nothing()
    await remote.expect()


async def test_3_3_unsubscribing(world: World) -> None:
    romeo, juliet = await pair(world)
    await world.befriend(romeo, juliet)
    romeo.send(f"<presence id='ul4bs71n' to='{JULIET}' type='unsubscribe'/>")
    await juliet.expect(f"<presence id='ul4bs71n' from='{ROMEO}' to='{JULIET}' type='unsubscribe'/>")
    await juliet.expect(push(ROMEO, "to"))
    await romeo.expect(push(JULIET, "from"))
    await romeo.expect(presence("unavailable", f"{JULIET}/balcony", ROMEO))
    for client in (romeo, juliet):
        await client.expect_nothing()
    assert await state_of(world, ROMEO, JULIET) == (0, 1, 0, 0, 0, 1)
    assert await state_of(world, JULIET, ROMEO) == (1, 0, 0, 0, 0, 1)


async def test_3_3_3_withdrawing_a_request_removes_all_traces(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await juliet.expect(presence("subscribe", ROMEO, JULIET))
    romeo.send(f"<presence to='{JULIET}' type='unsubscribe'/>")
    await juliet.expect(presence("unsubscribe", ROMEO, JULIET))  # appendix A.3.2
    await juliet.expect_nothing()
    assert await state_of(world, JULIET, ROMEO) is None
    assert await world.db.fetch("SELECT * FROM presence_request") == []
    assert await state_of(world, ROMEO, JULIET) == (0, 0, 0, 0, 0, 1)


async def test_3_4_pre_approval(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send(f"<presence id='pg81vx64' to='{JULIET}' type='subscribed'/>")
    await romeo.expect(push(JULIET, "none", "approved='true' ask='!'"))
    await juliet.expect_nothing()
    juliet.send(f"<presence id='s1' to='{ROMEO}' type='subscribe'/>")
    await juliet.expect(push(ROMEO, "none", "ask='subscribe'"))
    await juliet.expect(f"<presence id='s1' from='{ROMEO}' to='{JULIET}' type='subscribed'/>")
    await juliet.expect(push(ROMEO, "to"))
    await juliet.expect(f"<presence from='{ROMEO}/orchard' to='{JULIET}' type='!'/>")
    await romeo.expect(push(JULIET, "from", "approved='true'"))
    for client in (romeo, juliet):
        await client.expect_nothing()


async def test_3_4_2_a_pre_approval_can_be_taken_back_quietly(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send(f"<presence to='{JULIET}' type='subscribed'/>")
    await romeo.receive()
    romeo.send(f"<presence to='{JULIET}' type='unsubscribed'/>")
    await romeo.expect(push(JULIET, "none"))
    await juliet.expect_nothing()
    juliet.send(f"<presence to='{ROMEO}' type='subscribe'/>")
    await romeo.expect(presence("subscribe", JULIET, ROMEO))


async def test_2_5_2_removing_a_contact_ends_both_subscriptions(world: World) -> None:
    romeo, juliet = await pair(world)
    await world.befriend(romeo, juliet)
    romeo.send(
        f"<iq type='set' id='rm'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='remove'/></query></iq>"
    )
    await romeo.expect(push(JULIET, "remove"))
    await romeo.expect(presence("unavailable", f"{JULIET}/balcony", ROMEO))
    await romeo.expect("<iq type='result' id='rm'/>")  # it comes when everything is done
    await romeo.expect_nothing()
    await juliet.expect(presence("unavailable", f"{ROMEO}/orchard", JULIET))
    await juliet.expect(presence("unsubscribe", ROMEO, JULIET))
    await juliet.expect(push(ROMEO, "to"))
    await juliet.expect(presence("unsubscribed", ROMEO, JULIET))
    await juliet.expect(push(ROMEO, "none"))
    await juliet.expect_nothing()
    assert await state_of(world, ROMEO, JULIET) is None
    assert await state_of(world, JULIET, ROMEO) == (0, 0, 0, 0, 0, 1)


async def test_removing_a_contact_that_asks_denies_the_request(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    await romeo.iq(f"<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='{AWAY}'/></query></iq>")
    await remote.send(presence("subscribe", AWAY, ROMEO))
    await romeo.expect(presence("subscribe", AWAY, ROMEO))
    await romeo.iq(
        f"<iq type='set' id='2'><query xmlns='jabber:iq:roster'><item jid='{AWAY}' subscription='remove'/></query></iq>"
    )
    await remote.expect(presence("unsubscribed", ROMEO, AWAY))
    assert await state_of(wide_world, ROMEO, AWAY) is None


async def test_3_1_with_a_contact_elsewhere(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    romeo.send(f"<presence id='a' to='{AWAY}/tab' type='subscribe'><status>Hi</status></presence>")
    await romeo.expect(push(AWAY, "none", "ask='subscribe'"))
    await remote.expect(f"<presence id='a' type='subscribe' from='{ROMEO}' to='{AWAY}'><status>Hi</status></presence>")
    await remote.send(presence("subscribed", f"{AWAY}/x", ROMEO))
    await romeo.expect(presence("subscribed", AWAY, ROMEO))
    await romeo.expect(push(AWAY, "to"))
    await remote.send(presence("subscribe", AWAY, ROMEO))
    await romeo.expect(presence("subscribe", AWAY, ROMEO))
    romeo.send(f"<presence to='{AWAY}' type='subscribed'/>")
    await romeo.expect(push(AWAY, "both"))
    await remote.expect(presence("subscribed", ROMEO, AWAY), f"<presence from='{ROMEO}/orchard' to='{AWAY}' type='!'/>")
    await remote.send(presence("unsubscribe", AWAY, ROMEO))
    await romeo.expect(presence("unsubscribe", AWAY, ROMEO))
    await romeo.expect(push(AWAY, "to"))
    await remote.expect(presence("unavailable", f"{ROMEO}/orchard", AWAY), presence("unsubscribed", ROMEO, AWAY))
    await remote.send(presence("unsubscribed", AWAY, ROMEO))
    await romeo.expect(presence("unsubscribed", AWAY, ROMEO))
    await romeo.expect(push(AWAY, "none"))


async def test_3_1_2_an_unanswered_request_is_sent_again_by_the_next_session(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(f"<presence to='{AWAY}' type='subscribe'/>")
    await remote.expect(presence("subscribe", ROMEO, AWAY))
    await wide_world.login(f"{ROMEO}/study", presence=True)
    await remote.expect(presence("subscribe", ROMEO, AWAY))


async def test_3_1_2_a_domain_that_cannot_be_reached_is_reported(world: World) -> None:
    romeo = await world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    romeo.send(f"<presence id='q' to='{AWAY}' type='subscribe'/>")
    await romeo.expect(push(AWAY, "none", "ask='subscribe'"))
    await romeo.expect(
        f"<presence id='q' type='error' from='{AWAY}' to='{ROMEO}'><error>"
        "<remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
    )


async def test_8_5_1_nothing_is_stored_or_said_for_accounts_that_do_not_exist(
    wide_world: World, remote: Remote
) -> None:
    for kind in ("subscribe", "subscribed", "unsubscribe", "unsubscribed"):
        await remote.send(presence(kind, AWAY, "nobody@example.org"))
    await remote.expect()
    assert await wide_world.db.fetch("SELECT * FROM roster") == []
    assert await wide_world.db.fetch("SELECT * FROM presence_request") == []


async def test_8_5_3_2_2_answers_to_a_resource_that_is_not_there_are_ignored(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    romeo.send(f"<presence to='{AWAY}' type='subscribe'/>")
    await romeo.receive()
    await remote.send(presence("subscribed", AWAY, f"{ROMEO}/gone"))
    await romeo.expect_nothing()
    await remote.send(presence("subscribed", AWAY, f"{ROMEO}/orchard"))
    await romeo.expect(presence("subscribed", AWAY, ROMEO))


async def test_requests_that_are_too_long_or_too_many_are_not_kept(
    wide_world: World, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamish.modules.roster.module.REQUESTS", 2)
    long = f"<status>{'x' * 17_000}</status>"
    juliet = await wide_world.login(f"{JULIET}/balcony", presence=True)
    for to in (ROMEO, "nobody@example.org"):  # nothing tells whether there is such an account, or whether it blocks
        await remote.send(presence("subscribe", AWAY, to, long))
        await remote.expect()
        juliet.send(f"<presence id='s' type='subscribe' to='{to}'>{long}</presence>")
        await juliet.expect(f"<presence id='s' type='error' from='{to}'/>")
    assert await wide_world.db.fetch("SELECT count(*) FROM roster") == [(0,)]
    for n in range(4):
        await remote.send(presence("subscribe", f"{n}@elsewhere.example", ROMEO))
    await remote.expect()
    assert await wide_world.db.fetch("SELECT count(*) FROM roster") == [(2,)]
    assert await wide_world.db.fetch("SELECT count(*) FROM presence_request") == [(2,)]


async def test_a_full_roster_refuses_new_subscriptions() -> None:
    async with World(settings={"limits": {"roster_items": 1}}) as small:
        romeo = await small.login(f"{ROMEO}/orchard", presence=True)
        romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
        romeo.send("<presence id='2' to='mercutio@example.org' type='subscribe'/>")
        await romeo.expect(
            "<presence id='2' type='error'><error type='wait'>"
            "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
        )


async def test_strangers_without_number_do_not_fill_the_log(
    wide_world: World, remote: Remote, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamish.modules.roster.module.REQUESTS", 2)
    caplog.set_level(logging.INFO)
    for hours in range(2):
        for n in range(5):
            await remote.send(presence("subscribe", f"{hours}{n}@elsewhere.example", ROMEO))
        said = [record for record in caplog.records if "subscription_stanza_dropped" in record.getMessage()]
        assert len(said) == hours + 1
        await wide_world.pass_time(3600)


@pytest.mark.parametrize("kind", ["subscribe", "subscribed", "unsubscribe", "unsubscribed"])
async def test_subscribing_to_oneself_or_to_nobody_is_refused(world: World, kind: str) -> None:
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(f"<presence id='1' to='{ROMEO}' type='{kind}'/>")
    await romeo.expect(f"<presence id='1' type='error'><error><not-allowed {STANZAS}/></error></presence>")
    romeo.send(f"<presence id='2' type='{kind}'/>")
    await romeo.expect(f"<presence id='2' type='error'><error><bad-request {STANZAS}/></error></presence>")


async def test_nothing_leaves_before_it_is_committed(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    await remote.send(presence("subscribe", AWAY, ROMEO))
    await romeo.receive()
    with wide_world.db.held():
        romeo.send(f"<presence to='{AWAY}' type='subscribed'/>")
        await romeo.expect_nothing()
        await remote.expect()
    await remote.expect(presence("subscribed", ROMEO, AWAY), f"<presence from='{ROMEO}/orchard' type='!'/>")


async def test_two_sessions_that_decide_at_once_decide_once(wide_world: World, remote: Remote) -> None:
    one = await wide_world.login(f"{ROMEO}/one", presence=True)
    two = await wide_world.login(f"{ROMEO}/two", presence=True)
    await remote.send(presence("subscribe", AWAY, ROMEO))
    with wide_world.db.held():
        one.send(f"<presence id='1' to='{AWAY}' type='subscribed'/>")
        two.send(f"<presence id='2' to='{AWAY}' type='unsubscribed'/>")
        await wide_world.settle()
    await wide_world.settle()
    kinds = [stanza.type for stanza in remote.got]
    assert kinds.count("subscribed") == kinds.count("unsubscribed") == 1
    assert await state_of(wide_world, ROMEO, AWAY) == (0, 0, 0, 0, 0, 1)


async def test_the_hook_sees_every_change_after_the_commit(world: World) -> None:
    seen: list[tuple[str, str, str, str]] = []
    world.kernel.hooks[events.subscription_changed].add(
        Row(50, "test", lambda e: seen.append((str(e.user), str(e.contact), e.before, e.after)))
    )
    romeo, juliet = await pair(world)
    await world.befriend(romeo, juliet)
    assert seen == [
        (JULIET, ROMEO, "none", "from"),
        (ROMEO, JULIET, "none", "to"),
        (ROMEO, JULIET, "to", "both"),
        (JULIET, ROMEO, "from", "both"),
    ]


async def test_3_1_2_a_request_lost_between_the_commits_of_its_two_ends_is_sent_again(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True, roster=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True, roster=True)
    romeo.send("<presence to='juliet@example.org' type='subscribe'/>")
    await juliet.expect("<presence from='romeo@example.org' type='subscribe'/>")
    # what a crash between the two leaves behind: romeo has asked, juliet knows of nothing
    await world.kernel.service(RosterService).remove(juliet.jid.bare, romeo.jid.bare, push=False)

    await romeo.close()
    again = await world.login("romeo@example.org/orchard", presence=True)
    await juliet.expect("<presence from='romeo@example.org' type='subscribe'/>")
    await again.close()
    await world.login("romeo@example.org/orchard", presence=True)
    await juliet.expect_nothing()


async def test_whoever_listens_hears_of_a_request_once_it_is_stored_and_only_once(world: World) -> None:
    heard: list[tuple[str, str]] = []

    def listen(event: events.SubscriptionAsked) -> None:
        heard.append((event.user, event.contact))

    world.kernel.hooks[events.subscription_asked].add(Row(50, "test", listen))
    romeo, juliet = await pair(world)
    with world.db.held():
        romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
        await world.settle()
        assert heard == []
    await world.settle()
    assert heard == [(JULIET, ROMEO)]
    romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await world.settle()
    juliet.send(f"<presence to='{ROMEO}' type='subscribed'/>")
    await world.settle()
    assert heard == [(JULIET, ROMEO)]  # asked again, and answered
    juliet.send(f"<presence to='{ROMEO}' type='subscribe'/>")
    await world.settle()
    assert heard == [(JULIET, ROMEO), (ROMEO, JULIET)]
