import pytest

from beamish.testing.world import World

PING = "<ping xmlns='urn:xmpp:ping'/>"


@pytest.mark.parametrize("to", ["", "to='example.org'", "to='romeo@example.org'"])
async def test_the_server_answers_pings_for_itself_and_the_own_account(world: World, to: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    answer = await romeo.iq(f"<iq type='get' id='p1' {to}>{PING}</iq>")
    assert len(answer) == 0
    assert answer.get("from") in (None, to.removeprefix("to=").strip("'"))


async def test_a_stranger_cannot_tell_an_account_from_none(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    answers = []
    for address in ("juliet@example.org", "nobody@example.org"):
        error = await romeo.iq(f"<iq type='get' id='p' to='{address}'>{PING}</iq>", type="error")
        answers.append([(el.tag, dict(el.attrib)) for el in error.iter() if el is not error])
    assert answers[0] == answers[1]
    assert "{urn:ietf:params:xml:ns:xmpp-stanzas}service-unavailable" in [tag for tag, _ in answers[0]]


async def test_a_contact_may_ping_the_account(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.befriend(romeo, juliet)
    await juliet.close()
    await romeo.iq(f"<iq type='get' id='p' to='juliet@example.org'>{PING}</iq>")


async def test_a_ping_to_a_full_address_is_the_clients_to_answer(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    other = await world.login("romeo@example.org/phone", presence=True)
    await world.settle()
    other.inbox.clear()
    romeo.send(f"<iq type='get' id='p9' to='romeo@example.org/phone'>{PING}</iq>")
    await other.expect(f"<iq type='get' id='p9' from='romeo@example.org/orchard'>{PING}</iq>")
