"""Plays for service administration (XEP-0133), one for each command, named after it."""

from __future__ import annotations

import base64

import pytest
import pytest_asyncio
from tests.modules.conftest import COURT

from beamish import __version__
from beamish.core.clock import stamp
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client, ClientError
from beamish.testing.match import mismatch
from beamish.testing.world import PASSWORD, World
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

ADMIN = "http://jabber.org/protocol/admin"


@pytest_asyncio.fixture
async def romeo(court: World) -> Client:
    return await court.login("romeo@example.org/orchard", presence=True)


def values(answer: Element, var: str) -> list[str]:
    """The values of a field of the result."""
    field = answer.find(f".//{{jabber:x:data}}field[@var='{var}']")
    return [] if field is None else [v.text or "" for v in field.findall("{jabber:x:data}value")]


def error(answer: Element, condition: str) -> None:
    wanted = f"<iq type='error'><error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    assert mismatch(wanted, answer) == ""


async def can_log_in(court: World, user: str, password: str = PASSWORD) -> bool:
    client = court.connect()
    await client.open_stream(user.partition("@")[2])
    try:
        await client.authenticate(user.partition("@")[0], password)
    except ClientError:
        return False
    return True


async def test_all_thirty_are_there(court: World, romeo: Client) -> None:
    items = await romeo.iq(
        "<iq type='get' id='i' to='example.org'><query xmlns='http://jabber.org/protocol/disco#items' "
        "node='http://jabber.org/protocol/commands'/></iq>"
    )
    nodes = {item.get("node", "").removeprefix(f"{ADMIN}#") for item in items[0] if ADMIN in item.get("node", "")}
    assert nodes == FORMS.keys()
    assert len(nodes) == 30


ACCOUNT, ACCOUNTS = ("accountjid", "jid-single", True), ("accountjids", "jid-multi", True)
MOST, DELAY = ("max_items", "list-single", False), ("delay", "list-single", False)
FORMS: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "add-user": (ACCOUNT, ("password", "text-private", True), ("password-verify", "text-private", False)),
    **dict.fromkeys(
        ("delete-user", "disable-user", "reenable-user", "end-user-session", "get-user-roster", "get-user-lastlogin"),
        (ACCOUNTS,),
    ),
    "change-user-password": (ACCOUNT, ("password", "text-private", True)),
    "user-stats": (ACCOUNT,),
    "edit-blacklist": (("blacklistjids", "jid-multi", False),),
    "edit-whitelist": (("whitelistjids", "jid-multi", False),),
    **dict.fromkeys((f"get-{kind}-users-num" for kind in ("registered", "disabled", "online", "active", "idle")), ()),
    **dict.fromkeys((f"get-{kind}-users-list" for kind in ("registered", "disabled", "online")), (MOST,)),
    "get-active-users": (MOST,),
    "get-idle-users": (MOST,),
    "announce": (("announcement", "text-multi", True),),
    "set-motd": (("motd", "text-multi", True),),
    "edit-motd": (("motd", "text-multi", True),),
    "delete-motd": (),
    "set-welcome": (("welcome", "text-multi", True),),
    "delete-welcome": (),
    "edit-admin": (("adminjids", "jid-multi", True),),
    "restart": (DELAY, ("announcement", "text-multi", False)),
    "shutdown": (DELAY, ("announcement", "text-multi", False)),
}
"""What the form of each command asks for; none where it is carried out at once."""


@pytest.mark.parametrize("node", FORMS)
async def test_each_command_asks_for_what_the_specification_says_and_refuses_who_may_not(
    court: World, romeo: Client, node: str
) -> None:
    asked = FORMS[node]
    juliet = await court.login("juliet@example.org/balcony")
    error(await juliet.command(f"{ADMIN}#{node}", type="error"), "forbidden")
    error(await juliet.command(f"{ADMIN}#{node}", type="error", at="example.net"), "forbidden")
    if not asked:
        answer = await romeo.command(f"{ADMIN}#{node}")
        assert answer[0].get("status") == "completed" and answer[0].get("sessionid")
        return
    form = await romeo.command(f"{ADMIN}#{node}")
    assert form[0].get("status") == "executing"
    x = form.find(".//{jabber:x:data}x[@type='form']")
    assert x is not None and x.findtext("{jabber:x:data}title")
    told = {
        field.get("var"): (field.get("type"), field.find("{jabber:x:data}required") is not None)
        for field in x.findall("{jabber:x:data}field")
    }
    assert values(form, "FORM_TYPE") == [ADMIN]
    for var, type_, required in asked:
        assert told[var] == (type_, required)
    assert not {var for var, (_, required) in told.items() if required} - {var for var, *_ in asked}
    if any(required for *_, required in asked):
        bad = await romeo.command(f"{ADMIN}#{node}", {"unheard-of": "x"}, type="error")
        assert bad.find(".//{http://jabber.org/protocol/commands}bad-payload") is not None


@pytest.mark.parametrize("node", [node for node, asked in FORMS.items() if {ACCOUNT, ACCOUNTS} & set(asked)])
@pytest.mark.parametrize("jid", ["nobody@example.org", "nobody@elsewhere.example", "example.org", "@", ""])
async def test_each_command_on_an_account_that_is_not_there_fails(
    court: World, romeo: Client, node: str, jid: str
) -> None:
    var = FORMS[node][0][0]
    if node == "add-user" and jid == "nobody@example.org":
        jid = "juliet@example.org"
    before = await court.db.fetch("SELECT jid FROM account")
    answer = await romeo.command(f"{ADMIN}#{node}", {var: jid, "password": "correct horse"}, type="error")
    condition = str(answer.find("{jabber:client}error")[0].tag).rpartition("}")[2]  # type: ignore[index]
    assert condition in ("item-not-found", "conflict", "jid-malformed", "bad-request", "not-acceptable")
    assert await court.db.fetch("SELECT jid FROM account") == before


async def test_add_user(court: World, romeo: Client) -> None:
    await romeo.command(f"{ADMIN}#add-user", {"accountjid": "tybalt@example.net", "password": "prince of cats"})
    assert await can_log_in(court, "tybalt@example.net", "prince of cats")


async def test_delete_user(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony")
    done = {"accountjids": ["juliet@example.org", "nurse@example.org"]}
    await romeo.command(f"{ADMIN}#delete-user", done)
    await juliet.expect_closed("not-authorized")
    assert not await can_log_in(court, "juliet@example.org")
    error(await romeo.command(f"{ADMIN}#delete-user", done, type="error"), "item-not-found")


async def test_disable_user_and_reenable_user(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony")
    await romeo.command(f"{ADMIN}#disable-user", {"accountjids": "juliet@example.org"})
    await juliet.expect_closed("not-authorized")
    assert not await can_log_in(court, "juliet@example.org")
    plain = court.connect()
    await plain.open_stream("example.org")
    auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}</auth>"
    for password, condition in ((PASSWORD, "account-disabled"), ("wrong", "not-authorized")):
        plain.send(auth.format(base64.b64encode(f"\0juliet\0{password}".encode()).decode()))
        await plain.expect(f"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{condition}/></failure>")
    assert values(await romeo.command(f"{ADMIN}#get-disabled-users-num"), "disabledusersnum") == ["1"]
    assert values(await romeo.command(f"{ADMIN}#get-disabled-users-list", {}), "disableduserjids") == [
        "juliet@example.org"
    ]
    romeo.send("<message to='juliet@example.org' type='chat'><body>wait</body></message>")
    await romeo.command(f"{ADMIN}#reenable-user", {"accountjids": "juliet@example.org"})
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    await juliet.expect("<message><body>wait</body></message>")
    error(
        await romeo.command(f"{ADMIN}#disable-user", {"accountjids": "nobody@example.org"}, type="error"),
        "item-not-found",
    )


async def test_a_locked_account_stays_locked_after_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database, settings=COURT) as court:
        await court.kernel.commands.run("user.disable", {"jid": "juliet@example.org"})
    async with World(database=database, settings=COURT) as court:
        assert not await can_log_in(court, "juliet@example.org")
        await court.kernel.commands.run("user.remove", {"jid": "juliet@example.org"})
        await court.kernel.commands.run("user.add", {"jid": "juliet@example.org", "password": PASSWORD})
        assert await can_log_in(court, "juliet@example.org")
    await database.close()


async def test_end_user_session(court: World, romeo: Client) -> None:
    one = await court.login("juliet@example.org/balcony")
    two = await court.login("juliet@example.org/chamber")
    three = await court.login("juliet@example.org/garden")
    await romeo.command(f"{ADMIN}#end-user-session", {"accountjids": "juliet@example.org/balcony"})
    await one.expect_closed("policy-violation")
    await two.expect_nothing()
    await romeo.command(f"{ADMIN}#end-user-session", {"accountjids": "juliet@example.org"})
    for client in (two, three):
        await client.expect_closed("policy-violation")
    gone = {"accountjids": "juliet@example.org"}
    error(await romeo.command(f"{ADMIN}#end-user-session", gone, type="error"), "item-not-found")


async def test_change_user_password(court: World, romeo: Client) -> None:
    await romeo.command(f"{ADMIN}#change-user-password", {"accountjid": "juliet@example.org", "password": "new one"})
    assert not await can_log_in(court, "juliet@example.org")
    assert await can_log_in(court, "juliet@example.org", "new one")


async def test_get_user_roster(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    await court.befriend(romeo, juliet)
    await juliet.iq(
        "<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='nurse@example.org' name='Nurse'>"
        "<group>House</group></item></query></iq>"
    )
    got = await romeo.command(f"{ADMIN}#get-user-roster", {"accountjids": "juliet@example.org"})
    wanted = (
        "<iq><command xmlns='http://jabber.org/protocol/commands' status='completed'><x xmlns='jabber:x:data' type='result'>"
        "<field var='accountjids'><value>juliet@example.org</value></field><query xmlns='jabber:iq:roster'>"
        "<item jid='nurse@example.org' name='Nurse' subscription='none'><group>House</group></item>"
        "<item jid='romeo@example.org' subscription='both'/></query></x></command></iq>"
    )
    assert mismatch(wanted, got) == ""


async def test_get_user_lastlogin(court: World, romeo: Client) -> None:
    node = f"{ADMIN}#get-user-lastlogin"
    assert values(await romeo.command(node, {"accountjids": "juliet@example.org"}), "lastlogin") == []
    await court.login("juliet@example.org/balcony")
    first = values(await romeo.command(node, {"accountjids": "juliet@example.org"}), "lastlogin")
    assert len(first) == 1 and first[0].endswith("Z")
    await court.pass_time(60)
    await court.login("juliet@example.org/chamber")
    assert values(await romeo.command(node, {"accountjids": "juliet@example.org"}), "lastlogin") > first


async def test_user_stats(court: World, romeo: Client) -> None:
    await court.login("juliet@example.org/balcony")
    got = await romeo.command(f"{ADMIN}#user-stats", {"accountjid": "juliet@example.org"})
    assert values(got, "onlineresources") == ["balcony"]
    assert values(got, "ipaddresses") == ["192.0.2.1"]
    assert values(got, "rostersize") == ["0"]


async def test_numbers_and_lists_of_users(court: World, romeo: Client) -> None:
    await court.login("juliet@example.org/balcony")
    nurse = await court.login("nurse@example.org/street", presence=True)
    nurse.send("<presence><show>xa</show></presence>")
    await court.login("benvolio@example.net/street", presence=True)
    await court.settle()

    async def number(kind: str) -> str:
        return values(await romeo.command(f"{ADMIN}#get-{kind}-users-num"), f"{kind}usersnum")[0]

    assert [await number(kind) for kind in ("registered", "online", "active", "idle")] == ["4", "3", "1", "2"]
    assert values(await romeo.command(f"{ADMIN}#get-online-users-list", {"max_items": "none"}), "onlineuserjids") == [
        "juliet@example.org",
        "nurse@example.org",
        "romeo@example.org",
    ]
    assert values(await romeo.command(f"{ADMIN}#get-active-users", {}), "activeuserjids") == ["romeo@example.org"]
    assert values(await romeo.command(f"{ADMIN}#get-idle-users", {}), "activeuserjids") == [
        "juliet@example.org",
        "nurse@example.org",
    ]
    listed = values(
        await romeo.command(f"{ADMIN}#get-registered-users-list", {"max_items": "25"}), "registereduserjids"
    )
    assert len(listed) == 4
    error(await romeo.command(f"{ADMIN}#get-registered-users-list", {"max_items": "26"}, type="error"), "bad-request")
    elsewhere = await romeo.command(f"{ADMIN}#get-registered-users-num", at="example.net")
    assert values(elsewhere, "registeredusersnum") == ["1"]
    assert await court.kernel.commands.run("users.count", {}) == {"registeredusersnum": 5}
    assert await court.kernel.commands.run("users.count-online", {"domain": "example.net"}) == {"onlineusersnum": 1}


async def test_edit_admin(court: World, romeo: Client) -> None:
    node = f"{ADMIN}#edit-admin"
    form = (await romeo.command(node))[0]
    assert values(form, "adminjids") == ["romeo@example.org"]
    await romeo.command(node, {"adminjids": ["romeo@example.org", "juliet@example.org"]})
    juliet = await court.login("juliet@example.org/balcony")
    await juliet.command(f"{ADMIN}#get-online-users-num")
    error(await juliet.command(node, {"adminjids": "juliet@example.org"}, type="error"), "not-allowed")
    error(await juliet.command(node, {"adminjids": "romeo@example.org"}, type="error"), "not-allowed")
    error(
        await romeo.command(node, {"adminjids": ["romeo@example.org", "example.org"]}, type="error"), "not-acceptable"
    )
    await romeo.command(f"{ADMIN}#delete-user", {"accountjids": "juliet@example.org"})
    assert court.kernel.admins == {JID.parse("romeo@example.org")}


async def test_administrators_made_by_command_are_so_after_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database, settings=COURT) as court:
        await court.kernel.commands.run("admins.set", {"jids": ["romeo@example.org", "juliet@example.org"]})
    async with World(database=database, settings=COURT) as court:
        listed = await court.kernel.commands.run("admins.list", {})
        assert listed == [
            {"jid": "juliet@example.org", "configured": False},
            {"jid": "romeo@example.org", "configured": True},
        ]
    await database.close()


async def test_how_the_server_is(court: World, romeo: Client) -> None:
    before = stamp(court.clock.now())
    await court.login("romeo@example.org/garden")
    await court.login("juliet@example.org/balcony")
    await court.pass_time(60)
    status = await court.kernel.commands.run("server.status", {})
    assert status.pop("since") <= before
    accounts = len(await court.kernel.commands.run("user.list", {}))
    assert status == {
        "version": __version__,
        "domains": ["example.org", "example.net"],
        "accounts": accounts,
        "users": 2,
        "sessions": 3,
        "available": 1,
    }
    answer = await romeo.command("urn:beamish:command:server.status")
    assert (values(answer, "sessions"), values(answer, "domains")) == (["3"], ["example.org", "example.net"])


@pytest.mark.parametrize(("node", "again"), [("restart", True), ("shutdown", False)])
async def test_restart_and_shutdown(court: World, romeo: Client, node: str, again: bool) -> None:
    error(await romeo.command(f"{ADMIN}#{node}", {}, type="error"), "feature-not-implemented")
    asked: list[bool] = []
    court.kernel.ask_to_stop = asked.append
    juliet = await court.login("juliet@example.org/balcony")
    error(await romeo.command(f"{ADMIN}#{node}", {"delay": "-1"}, type="error"), "not-acceptable")
    await romeo.command(f"{ADMIN}#{node}", {"delay": "30", "announcement": ["The play is over.", "Go home."]})
    await juliet.expect(
        "<message from='example.org' type='headline'><body>The play is over.\nGo home.</body></message>"
    )
    await court.pass_time(29)
    assert asked == []
    await court.pass_time(2)
    assert asked == [again]


async def test_a_restart_that_would_fail_is_refused(court: World, romeo: Client) -> None:
    """And nobody is told of it; what would keep the server from starting does not keep it from stopping."""
    asked: list[bool] = []
    court.kernel.ask_to_stop = asked.append
    court.kernel.obstacle = lambda: "beamish.toml:3: is not UTF-8"
    juliet = await court.login("juliet@example.org/balcony")
    refused = await romeo.command(f"{ADMIN}#restart", {"announcement": "Back soon"}, type="error")
    error(refused, "conflict")
    assert "not restarted: beamish.toml:3: is not UTF-8" in "".join(refused.itertext())
    await juliet.expect_nothing()
    await court.pass_time(60)
    assert asked == []
    await romeo.command(f"{ADMIN}#shutdown", {})
    await court.pass_time(1)
    assert asked == [False]
