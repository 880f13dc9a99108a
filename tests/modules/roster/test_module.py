"""RFC 6121 §2, played: what clients ask of rosters and what they get."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamish.core.events import Context
from beamish.modules.roster import module
from beamish.testing import Client, LiveServer, World
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

QUERY = "{jabber:iq:roster}query"
ITEM = "{jabber:iq:roster}item"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def put(items: str, id: str = "rs1", to: str = "") -> str:
    address = f" to='{to}'" if to else ""
    return f"<iq type='set' id='{id}'{address}><query xmlns='jabber:iq:roster'>{items}</query></iq>"


def get(ver: str | None = None) -> str:
    attribute = "" if ver is None else f" ver='{ver}'"
    return f"<iq type='get' id='get'><query xmlns='jabber:iq:roster'{attribute}/></iq>"


def push(item: str) -> str:
    return f"<iq type='set' id='*' from='!'><query xmlns='jabber:iq:roster' ver='*'>{item}</query></iq>"


def items_of(answer: Element) -> dict[str, Element]:
    query = answer.find(QUERY)
    assert query is not None
    return {item.get("jid", ""): item for item in query}


def version_of(answer: Element) -> str:
    query = answer.find(QUERY)
    assert query is not None
    return query.get("ver", "")


async def refused(client: Client, request: str, condition: str, kind: str) -> None:
    answer = await client.iq(request, type="error")
    error = answer.find("{jabber:client}error")
    assert error is not None
    assert error.get("type") == kind
    assert error.find(f"{{{STANZAS}}}{condition}") is not None


async def test_2_6_1_the_stream_offers_versions(world: World) -> None:
    romeo = await world.login("romeo@example.org/a")
    assert romeo.features is not None
    assert romeo.features.find("{urn:xmpp:features:rosterver}ver") is not None
    assert romeo.features.find("{urn:xmpp:features:pre-approval}sub") is not None


async def test_2_1_4_an_empty_roster_is_a_query_without_items(world: World) -> None:
    romeo = await world.login("romeo@example.org/a")
    answer = await romeo.iq(get())
    assert items_of(answer) == {}
    assert version_of(answer) != ""


async def test_2_3_2_adding_an_item_answers_and_pushes_to_interested_sessions_only(world: World) -> None:
    balcony = await world.login("juliet@example.org/balcony", roster=True)
    chamber = await world.login("juliet@example.org/chamber", roster=True)
    deaf = await world.login("juliet@example.org/garden", presence=True)
    nurse = "<item jid='nurse@example.com' name='Nurse'><group>Servants</group></item>"
    pushed = "<item jid='nurse@example.com' name='Nurse' subscription='none'><group>Servants</group></item>"
    balcony.send(put(nurse, "ph1xaz53"))
    await balcony.expect("<iq type='result' id='ph1xaz53'/>")
    first = await balcony.expect(push(pushed))
    second = await chamber.expect(push(pushed))
    assert version_of(first) == version_of(second)
    await deaf.expect_nothing()
    answer = await chamber.iq(get())
    assert list(items_of(answer)) == ["nurse@example.com"]
    assert version_of(answer) == version_of(first)


async def test_2_4_1_an_update_replaces_name_and_groups(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='j@example.net' name='Romeo'><group>Friends</group><group>Lovers</group></item>"))
    await romeo.iq(put("<item jid='j@example.net' name=''><group>Lovers</group></item>"))
    item = items_of(await romeo.iq(get()))["j@example.net"]
    assert item.get("name") is None
    assert [group.text for group in item] == ["Lovers"]
    await romeo.iq(put("<item jid='j@example.net'/>"))
    assert len(items_of(await romeo.iq(get()))["j@example.net"]) == 0


async def test_2_1_5_what_only_the_server_may_say_is_ignored(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='j@example.net' subscription='both' ask='subscribe' approved='true'/>"))
    await romeo.expect(push("<item jid='j@example.net' subscription='none' ask='!' approved='!'/>"))


async def test_addresses_are_prepared_and_lose_their_resource(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='JULIET@Example.NET/balcony'/>"))
    await romeo.expect(push("<item jid='juliet@example.net'/>"))


async def test_markup_in_names_and_groups_comes_back_as_text(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(
        put("<item jid='j@example.net' name='&lt;b&gt;&apos;&quot;&amp;'><group>a&lt;/group&gt;</group></item>")
    )
    item = items_of(await romeo.iq(get()))["j@example.net"]
    assert item.get("name") == "<b>'\"&"
    assert item[0].text == "a</group>"


@pytest.mark.parametrize(
    ("items", "condition", "kind"),
    [
        pytest.param("", "bad-request", "modify", id="no item"),
        pytest.param("<item jid='a@b.c'/><item jid='d@b.c'/>", "bad-request", "modify", id="2.3.3 more than one item"),
        pytest.param("<item/>", "bad-request", "modify", id="no address"),
        pytest.param("<item jid='a@@'/>", "jid-malformed", "modify", id="no JID"),
        pytest.param(
            "<item jid='a@b.c'><group>S</group><group>S</group></item>",
            "bad-request",
            "modify",
            id="2.3.3 duplicate groups",
        ),
        pytest.param("<item jid='a@b.c'><group/></item>", "not-acceptable", "modify", id="2.3.3 empty group"),
        pytest.param(f"<item jid='a@b.c' name='{'x' * 1024}'/>", "not-acceptable", "modify", id="2.3.3 long handle"),
        pytest.param(
            f"<item jid='a@b.c'><group>{'x' * 1024}</group></item>", "not-acceptable", "modify", id="2.3.3 long group"
        ),
        pytest.param(
            "<item jid='a@b.c'>" + "".join(f"<group>{n}</group>" for n in range(33)) + "</item>",
            "not-acceptable",
            "modify",
            id="too many groups",
        ),
        pytest.param("<item jid='romeo@example.org'/>", "not-allowed", "cancel", id="own address"),
        pytest.param(
            "<item jid='a@b.c' subscription='remove'/>",
            "item-not-found",
            "modify",
            id="2.5.3 removing what is not there",
        ),
    ],
)
async def test_roster_sets_that_are_refused(world: World, items: str, condition: str, kind: str) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await refused(romeo, put(items), condition, kind)
    assert items_of(await romeo.iq(get())) == {}
    await romeo.expect_nothing()


async def test_2_3_3_the_roster_of_another_account_is_forbidden(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await refused(romeo, put("<item jid='a@b.c'/>", to="juliet@example.org"), "forbidden", "auth")
    await refused(
        romeo,
        "<iq type='get' id='x' to='juliet@example.org'><query xmlns='jabber:iq:roster'/></iq>",
        "forbidden",
        "auth",
    )


async def test_the_own_bare_address_is_the_same_as_none(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    answer = await romeo.iq(put("<item jid='a@b.c'/>", to="romeo@example.org"))
    assert answer.get("from") == "romeo@example.org"


async def test_what_nobody_knows_in_a_roster_set_is_ignored(world: World) -> None:
    """RFC 6120 §8.4."""
    romeo = await world.login("romeo@example.org/a")
    await romeo.iq(
        put("<annotate xmlns='urn:xmpp:mix:roster:0'/><item jid='j@example.net'><channel xmlns='x:y'/></item>")
    )
    assert list(items_of(await romeo.iq(get()))) == ["j@example.net"]


async def test_a_roster_get_with_items_is_refused(world: World) -> None:
    romeo = await world.login("romeo@example.org/a")
    request = "<iq type='get' id='x'><query xmlns='jabber:iq:roster'><item jid='a@b.c'/></query></iq>"
    await refused(romeo, request, "bad-request", "modify")


async def test_a_roster_get_with_an_extension_is_answered(world: World) -> None:
    """QXmpp, so Kaidan, asks every server to mark the channels (XEP-0405 §6.2)."""
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c'/>"))
    request = (
        "<iq type='get' id='x'><query xmlns='jabber:iq:roster'><annotate xmlns='urn:xmpp:mix:roster:0'/></query></iq>"
    )
    answer = await romeo.iq(request)
    assert [item.get("jid") for item in answer[0]] == ["a@b.c"]
    asked = request.replace("roster'>", f"roster' ver='{answer[0].get('ver')}'>", 1)
    assert len(await romeo.iq(asked)) == 0  # nothing has changed


async def test_answers_to_pushes_are_swallowed(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c'/>"))
    pushed = await romeo.receive()
    romeo.send(f"<iq type='result' id='{pushed.get('id')}'/>")
    romeo.send(f"<iq type='error' id='{pushed.get('id')}'><error type='cancel'/></iq>")
    await romeo.expect_nothing()


async def test_2_5_2_a_removed_item_is_pushed_as_such(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c' name='A'/>"))
    romeo.inbox.clear()
    romeo.send(put("<item jid='a@b.c' subscription='remove'/>", "bye"))
    await romeo.expect(push("<item jid='a@b.c' subscription='remove'/>"))
    await romeo.expect("<iq type='result' id='bye'/>")
    assert items_of(await romeo.iq(get())) == {}


async def test_the_limit_of_items(world: World) -> None:
    async with World(settings={"limits": {"roster_items": 2}}) as small:
        romeo = await small.login("romeo@example.org/a")
        await romeo.iq(put("<item jid='a@b.c'/>"))
        await romeo.iq(put("<item jid='b@b.c'/>"))
        await refused(romeo, put("<item jid='c@b.c'/>"), "resource-constraint", "wait")
        await romeo.iq(put("<item jid='b@b.c' name='still allowed'/>"))
        await romeo.iq(put("<item jid='a@b.c' subscription='remove'/>"))
        await romeo.iq(put("<item jid='c@b.c'/>"))
        assert set(items_of(await romeo.iq(get()))) == {"b@b.c", "c@b.c"}


async def test_the_limit_of_bytes() -> None:
    async with World(settings={"limits": {"roster_bytes": 100}}) as small:
        romeo = await small.login("romeo@example.org/a")
        groups = f"<group>{'g' * 30}</group><group>{'ä' * 10}</group>"
        await romeo.iq(put(f"<item jid='a@b.c' name='{'n' * 40}'>{groups}</item>"))  # 5 + 40 + 50
        await romeo.iq(put("<item jid='b@b.c'/>"))
        for item in (
            "<item jid='c@b.c'/>",
            "<item jid='b@b.c' name='B'/>",
            "<item jid='b@b.c'><group>B</group></item>",
        ):
            await refused(romeo, put(item), "resource-constraint", "wait")
        await romeo.iq(put(f"<item jid='a@b.c' name='{'m' * 40}'>{groups}</item>"))
        await romeo.iq(put(f"<item jid='a@b.c' name='{'m' * 39}'>{groups}</item>"))
        await romeo.iq(put("<item jid='b@b.c' name='B'/>"))
        await romeo.iq(put("<item jid='a@b.c' subscription='remove'/>"))
        await romeo.iq(put(f"<item jid='c@b.c' name='{'n' * 89}'/>"))
        await refused(romeo, put(f"<item jid='c@b.c' name='{'n' * 90}'/>"), "resource-constraint", "wait")


async def test_a_roster_above_a_lower_limit_can_still_be_used_and_shrunk(tmp_path: Path) -> None:
    accounts = ("romeo@example.org", "juliet@example.org")
    async with LiveServer(directory=tmp_path, accounts=accounts) as server:
        romeo = await server.client("romeo@example.org/a")
        await romeo.iq(put(f"<item jid='juliet@example.org' name='{'n' * 90}'/>"))
        await romeo.iq(put(f"<item jid='b@example.org' name='{'n' * 90}'/>"))
    async with LiveServer(directory=tmp_path, settings={"limits": {"roster_bytes": 100}}, accounts=accounts) as server:
        romeo = await server.client("romeo@example.org/a", presence=True, roster=True)
        romeo.send("<presence to='juliet@example.org' type='subscribe'/>")
        await romeo.expect(push("<item jid='juliet@example.org' subscription='none' ask='subscribe'/>"))
        await romeo.iq(put("<item jid='b@example.org' name='shorter'/>"))
        await refused(romeo, put("<item jid='b@example.org' name='longer again'/>"), "resource-constraint", "wait")


async def test_what_was_answered_is_in_the_database(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    with world.db.held():
        romeo.send(put("<item jid='a@b.c'/>"))
        await romeo.expect_nothing()
    await romeo.expect("<iq type='result'/>")
    assert await world.db.fetch("SELECT owner, jid FROM roster") == [("romeo@example.org", "a@b.c")]


async def test_a_write_that_fails_changes_nothing(world: World, expected_errors: object) -> None:
    expected_errors.add("iq_handler_failed")  # type: ignore[attr-defined]
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c' name='before'/>"))
    romeo.inbox.clear()
    world.db.fail_next(OSError("no space left"))
    await refused(romeo, put("<item jid='a@b.c' name='after'/>"), "internal-server-error", "cancel")
    await romeo.expect_nothing()
    assert items_of(await romeo.iq(get()))["a@b.c"].get("name") == "before"


async def test_the_whole_roster_is_that_of_the_moment_after_any_change(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    juliet = await world.login("juliet@example.org/b", roster=True)
    seen = []
    changes = (
        put("<item jid='juliet@example.org'/>"),
        put("<item jid='juliet@example.org' name='J'/>"),
        put("<item jid='juliet@example.org' name='J'><group>Capulets</group></item>"),
        "<presence to='juliet@example.org' type='subscribe'/>",
        "<presence to='juliet@example.org' type='subscribed'/>",
        put("<item jid='nurse@example.org'/>"),
        put("<item jid='nurse@example.org' subscription='remove'/>"),
        "<presence to='juliet@example.org' type='unsubscribe'/>",
        put("<item jid='juliet@example.org' subscription='remove'/>"),
    )
    for change in changes:
        for _ in range(2):
            await romeo.iq(get())
        romeo.send(change)
        await world.settle()
        romeo.inbox.clear()
        juliet.inbox.clear()
        seen.append(sorted(tuple(sorted(i.items())) + tuple(g.text for g in i) for i in (await romeo.iq(get()))[0]))
    one = ("jid", "juliet@example.org"), ("name", "J"), ("subscription", "none"), "Capulets"
    asked = ("ask", "subscribe"), *one
    approved = ("approved", "true"), *asked
    nurse = ("jid", "nurse@example.org"), ("subscription", "none")
    assert seen == [
        [(one[0], one[2])],
        [one[:3]],
        [one],
        [asked],
        [approved],
        sorted([approved, nurse]),
        [approved],
        [(approved[0], *one)],
        [],
    ]


# ---- §2.6 ---------------------------------------------------------------------------------------------------------------


async def test_2_6_3_a_current_version_is_answered_with_nothing_and_stays_live(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c'/>"))
    version = version_of(await romeo.iq(get()))
    again = await world.login("romeo@example.org/b")
    answer = await again.iq(get(version))
    assert len(answer) == 0
    await again.expect_nothing()
    await romeo.iq(put("<item jid='b@b.c'/>"))
    await again.expect(push("<item jid='b@b.c'/>"))


@pytest.mark.parametrize(
    ("query", "plain"),
    [
        ("<query xmlns='jabber:iq:roster'{ver}/>", True),
        ('<query xmlns="jabber:iq:roster"{ver} />', True),
        ("\n <query xmlns='jabber:iq:roster'{ver}/>\n", False),
        ("<query{ver} xmlns='jabber:iq:roster'/>", False),
        ("<query xmlns='jabber:iq:roster'{ver}></query>", False),
        ("<query xmlns='jabber:iq:roster' other='1'{ver}/>", False),
        ("<r:query xmlns:r='jabber:iq:roster'{ver}/>", False),
    ],
)
async def test_2_6_2_a_version_counts_however_the_request_is_written(
    world: World, query: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c'/>"))
    version = version_of(await romeo.iq(get()))
    for number, (ver, whole) in enumerate(
        (("", True), (" ver=''", True), (f" ver='{version}'", False), (f' ver="{version}"', False), (" ver='no'", True))
    ):
        answer = await romeo.iq(f"<iq type='get' id='q{number}'>{query.format(ver=ver)}</iq>")
        assert items_of(answer) != {} if whole else len(answer) == 0, ver
    trees = []
    read = module._query

    def noted(ctx: Context) -> Element:
        trees.append(ctx)
        return read(ctx)

    monkeypatch.setattr(module, "_query", noted)
    query = query.format(ver=f" ver='{version}'")
    await romeo.iq(f"<iq type='get' id='last'>{query}</iq>")
    assert bool(trees) is not plain


async def test_2_6_3_changes_since_a_known_version_are_pushed_in_order(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    for name in ("tybalt", "bill", "nurse", "juliet"):
        await romeo.iq(put(f"<item jid='{name}@b.c'/>"))
    version = version_of(await romeo.iq(get()))
    await romeo.iq(put("<item jid='bill@b.c' name='once'/>"))
    await romeo.iq(put("<item jid='tybalt@b.c' subscription='remove'/>"))
    await romeo.iq(put("<item jid='bill@b.c' name='twice'/>"))
    last = version_of(await romeo.iq(get()))
    late = await world.login("romeo@example.org/b")
    answer = await late.iq(get(version))
    assert len(answer) == 0
    first = await late.expect(push("<item jid='tybalt@b.c' subscription='remove'/>"))
    second = await late.expect(push("<item jid='bill@b.c' name='twice'/>"))
    await late.expect_nothing()
    assert int(version) < int(version_of(first)) < int(version_of(second))
    assert version_of(second) == last


async def test_2_6_3_a_removed_item_that_came_back_is_no_removal(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    await romeo.iq(put("<item jid='a@b.c'/>"))
    version = version_of(await romeo.iq(get()))
    await romeo.iq(put("<item jid='a@b.c' subscription='remove'/>"))
    await romeo.iq(put("<item jid='a@b.c' name='again'/>"))
    late = await world.login("romeo@example.org/b")
    await late.iq(get(version))
    await late.expect(push("<item jid='a@b.c' name='again'/>"))
    await late.expect_nothing()


@pytest.mark.parametrize("ver", ["", "0", "1", "ver14", "-3", "99999999999999999999999999", "4000000000"])
async def test_2_6_2_an_unknown_version_gets_the_whole_roster(world: World, ver: str) -> None:
    romeo = await world.login("romeo@example.org/a")
    await romeo.iq(put("<item jid='a@b.c'/>"))
    assert list(items_of(await romeo.iq(get(ver)))) == ["a@b.c"]
    await romeo.expect_nothing()


async def test_many_removals_are_forgotten_and_older_versions_with_them(world: World) -> None:
    romeo = await world.login("romeo@example.org/a")
    await romeo.iq(put("<item jid='stays@b.c'/>"))
    version = version_of(await romeo.iq(get()))
    for n in range(260):
        await romeo.iq(put(f"<item jid='{n}@b.c'/>"))
        await romeo.iq(put(f"<item jid='{n}@b.c' subscription='remove'/>"))
    assert (await world.db.fetch("SELECT count(*) FROM roster_removed"))[0][0] <= 256
    assert list(items_of(await romeo.iq(get(version)))) == ["stays@b.c"]
    fresh = version_of(await romeo.iq(get()))
    await romeo.iq(put("<item jid='stays@b.c' name='x'/>"))
    late = await world.login("romeo@example.org/b")
    assert len(await late.iq(get(fresh))) == 0
    await late.expect(push("<item jid='stays@b.c' name='x'/>"))


async def test_a_version_is_not_told_before_it_is_committed(world: World) -> None:
    romeo = await world.login("romeo@example.org/a")
    other = await world.login("romeo@example.org/b")
    await romeo.iq(put("<item jid='a@b.c'/>"))
    with world.db.held():
        romeo.send(put("<item jid='b@b.c'/>"))
        await romeo.expect_nothing()
        other.send(get())
        await other.expect_nothing()
    assert set(items_of(await other.receive())) == {"a@b.c", "b@b.c"}


async def test_a_restart_changes_nothing(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    item = "<item jid='a@b.c' name='Å &amp; co'><group>One</group><group>Two</group></item>"
    await romeo.iq(put(item))
    before = await romeo.iq(get())
    async with World(database=world.db) as second:
        again = await second.login("romeo@example.org/a")
        after = await again.iq(get())
        assert version_of(after) == version_of(before)
        assert items_of(after)["a@b.c"].get("name") == "Å & co"
        assert [group.text for group in items_of(after)["a@b.c"]] == ["One", "Two"]


async def test_removing_an_account_tells_its_contacts_and_leaves_no_rows(world: World) -> None:
    from beamish.core.services import AccountsService

    romeo = await world.login("romeo@example.org/a", roster=True, presence=True)
    juliet = await world.login("juliet@example.org/b", roster=True, presence=True)
    await world.befriend(romeo, juliet)
    await world.kernel.service(AccountsService).remove(JID.parse("romeo@example.org"))
    await world.settle()
    kinds = [el.get("type") for el in juliet.inbox if el.tag == "{jabber:client}presence"]
    assert kinds[0] == "unavailable"
    assert set(kinds[1:]) == {"unsubscribe", "unsubscribed"}
    assert len(kinds) == 3
    for table in ("roster", "roster_removed", "roster_version"):
        assert await world.db.fetch(f"SELECT * FROM {table} WHERE owner = 'romeo@example.org'") == []
    rows = await world.db.fetch("SELECT to_, from_ FROM roster WHERE owner = 'juliet@example.org'")
    assert rows == [(0, 0)]
