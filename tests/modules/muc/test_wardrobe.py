from __future__ import annotations

from typing import Any

from tests.modules.muc.conftest import ROOM

from beamish.testing.match import condition

COMMANDS = "http://jabber.org/protocol/commands"
URI = "http://example.org/hats#host"


async def run(client: Any, name: str, type: str = "result", **fields: str) -> Any:
    inner = "".join(f"<field var='hats#{var}'><value>{v}</value></field>" for var, v in fields.items())
    form = f"<x xmlns='jabber:x:data' type='submit'>{inner}</x>" if fields else ""
    return await client.iq(
        f"<iq to='{ROOM}' type='set' id='h'><command xmlns='{COMMANDS}' node='urn:xmpp:hats:commands:{name}' "
        f"action='execute'>{form}</command></iq>",
        type=type,
    )


def hats(el: Any) -> list[str]:
    return [h.get("title") for h in el.iter("{urn:xmpp:hats:0}hat")]


async def test_hats_are_made_given_shown_and_taken(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    form = await run(romeo, "create")
    assert form[0].get("status") == "executing"
    done = await run(romeo, "create", title="Host", uri=URI, hue="327.25")
    assert done[0].get("status") == "completed"
    assert codes((await rooms.take(juliet))[0]) == {104}
    await run(romeo, "assign", jid="juliet@example.org", uri=URI)
    (seen,) = await rooms.take(juliet)
    assert hats(seen) == ["Host"]
    got = await rooms.enter(nurse, "nurse")
    assert [hats(el) for el in got[:2]] == [[], ["Host"]]
    listed = await run(romeo, "list-assigned")
    assert [f.findtext("{*}value") for f in listed.iter("{jabber:x:data}field") if f.find("{*}value") is not None] == [
        "juliet@example.org", URI, "Host", "327.25",
    ]  # fmt: skip
    await rooms.clear(romeo, juliet, nurse)
    await run(romeo, "create", title="Presenter", uri=URI)
    assert hats((await rooms.take(nurse))[0]) == ["Presenter"], "a changed hat is shown at once"
    await run(romeo, "unassign", jid="juliet@example.org", uri=URI)
    assert hats((await rooms.take(nurse))[-1]) == []
    assert condition(await run(romeo, "unassign", type="error", jid="juliet@example.org", uri=URI)) == "item-not-found"


async def test_a_destroyed_hat_is_worn_by_nobody(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await run(romeo, "create", title="Host", uri=URI)
    await run(romeo, "assign", jid="juliet@example.org", uri=URI)
    await rooms.clear(juliet)
    await run(romeo, "destroy", uri=URI)
    got = await rooms.take(juliet)
    assert hats(got[0]) == [] and got[0].tag.endswith("}presence")
    assert condition(await run(romeo, "assign", type="error", jid="juliet@example.org", uri=URI)) == "item-not-found"
    assert len(list((await run(romeo, "list")).iter("{jabber:x:data}item"))) == 0


async def test_hats_are_a_matter_of_admins(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    for name in ("create", "list", "assign"):
        assert condition(await run(juliet, name, type="error")) == "forbidden"
    assert condition(await run(romeo, "knit", type="error")) == "item-not-found"
    assert condition(await run(romeo, "create", type="error", title="no URI")) == "bad-request"
    items = await juliet.iq(
        f"<iq to='{ROOM}' type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#items' node='{COMMANDS}'/></iq>"
    )
    assert len(items[0]) == 0
    items = await romeo.iq(
        f"<iq to='{ROOM}' type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#items' node='{COMMANDS}'/></iq>"
    )
    assert len(items[0]) == 6
