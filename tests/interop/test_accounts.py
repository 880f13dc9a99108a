"""slixmpp's and aioxmpp's own plugins register, administer and address through the server."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from beamish.testing import LiveServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in conftest
    import aioxmpp
    import aioxmpp.adhoc
    import aioxmpp.errors
    import aioxmpp.ibr
    import aioxmpp.stream
    import slixmpp

if TYPE_CHECKING:
    from tests.interop.conftest import Login

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
    pytest.mark.filterwarnings("ignore:send:DeprecationWarning"),  # and of itself
]
PATIENCE = 15.0
ADMIN = "http://jabber.org/protocol/admin"
SETTINGS = {
    "server": {"admins": ["romeo@example.org"]},
    "modules": {"register": {"open": True, "captcha": "none"}},
}


@pytest_asyncio.fixture
async def live_server() -> AsyncIterator[LiveServer]:
    """A server that is open to everybody, where romeo is an administrator."""
    async with LiveServer(settings=SETTINGS) as made:
        yield made


async def test_slixmpp_registers_and_logs_in(live_server: LiveServer) -> None:
    client = slixmpp.ClientXMPP("tybalt@example.org/street", "prince of cats")
    client.ca_certs = live_server.ca
    client.enable_plaintext = False
    client.register_plugin("xep_0077")
    loop = asyncio.get_running_loop()
    started: asyncio.Future[set[str]] = loop.create_future()
    fields: set[str] = set()

    async def fill_in(form: Any) -> None:
        fields.update(form["register"]["fields"])
        reply = client.Iq()
        reply["type"] = "set"
        reply["register"]["username"] = client.boundjid.user
        reply["register"]["password"] = client.password
        await reply.send(timeout=PATIENCE)

    client.add_event_handler("register", fill_in)
    client.add_event_handler("session_start", lambda _: started.done() or started.set_result(fields))
    client.add_event_handler("failed_all_auth", lambda _: started.done() or started.set_exception(PermissionError()))
    client.connect(live_server.host, live_server.port)
    assert await asyncio.wait_for(started, PATIENCE) == {"username", "password"}
    assert str(client.boundjid) == "tybalt@example.org/street"
    await client.plugin["xep_0077"].change_password("king of cats", timeout=PATIENCE)
    gone = await client.plugin["xep_0077"].cancel_registration(timeout=PATIENCE)
    assert gone["type"] == "result"
    client.cancel_connection_attempt()
    await asyncio.wait_for(client.disconnect(), PATIENCE)
    for task in (client._run_out_filters, client._current_connection_attempt):
        if task is not None:
            task.cancel()


async def test_aioxmpp_reads_changes_and_gives_up_its_registration(login: Login) -> None:
    juliet = await login("aioxmpp", "juliet@example.org/balcony")
    service = juliet.client.summon(aioxmpp.ibr.RegistrationService)
    known = await service.get_client_info()
    assert known.registered and known.username == "juliet"
    await service.change_pass("a new password")
    again = await login("aioxmpp", "juliet@example.org/chamber", password="a new password")
    service = again.client.summon(aioxmpp.ibr.RegistrationService)
    with suppress(aioxmpp.stream.DestructionRequested):  # the library drops the answer when the stream ends behind it
        await service.cancel_registration()
    assert await again.ended == "not-authorized"
    assert await juliet.ended == "not-authorized"
    with pytest.raises(PermissionError):
        await login("aioxmpp", "juliet@example.org/garden", password="a new password")


async def test_slixmpp_administers(login: Login) -> None:
    romeo = await login("slixmpp", "romeo@example.org/orchard")
    for plugin in ("xep_0004", "xep_0050", "xep_0133"):
        romeo.client.register_plugin(plugin)
    listed = await romeo.client.plugin["xep_0133"].get_commands("example.org", timeout=PATIENCE)
    nodes = {item[1] for item in listed["disco_items"]["items"]}
    assert sum(1 for node in nodes if node.startswith(f"{ADMIN}#")) == 30
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    commands = romeo.client.plugin["xep_0050"]

    def filled_in(iq: Any, session: dict[str, Any]) -> None:
        asked = iq["command"]["form"]
        assert list(asked.get_fields())[:3] == ["FORM_TYPE", "accountjid", "password"]
        form = romeo.client.plugin["xep_0004"].make_form(ftype="submit")
        form.add_field(var="accountjid", value="tybalt@example.org")
        form.add_field(var="password", value="prince of cats")
        session["payload"] = form
        session["next"] = lambda answer, _session: done.set_result(answer["command"]["status"])
        commands.complete_command(session)

    session = {"next": filled_in, "error": lambda iq, _session: done.set_exception(AssertionError(str(iq)))}
    romeo.client.plugin["xep_0133"].add_user("example.org", session=session)
    assert await asyncio.wait_for(done, PATIENCE) == "completed"
    await login("slixmpp", "tybalt@example.org/street", password="prince of cats")


async def test_aioxmpp_administers(login: Login) -> None:
    romeo = await login("aioxmpp", "romeo@example.org/orchard")
    server = aioxmpp.JID.fromstr("example.org")
    client = romeo.client.summon(aioxmpp.AdHocClient)
    assert await client.supports_commands(server)
    names = {item.node for item in await client.get_commands(server)}
    assert f"{ADMIN}#get-registered-users-num" in names and "urn:xmpp:invite#invite" in names
    info = await client.get_command_info(server, f"{ADMIN}#disable-user")
    assert any(identity.category == "automation" for identity in info.identities)
    session = await client.execute(server, f"{ADMIN}#disable-user")
    assert session.status == aioxmpp.adhoc.CommandStatus.EXECUTING
    assert aioxmpp.adhoc.ActionType.COMPLETE in session.allowed_actions
    form = session.first_payload
    field = next(each for each in form.fields if each.var == "accountjids")
    field.values[:] = ["juliet@example.org"]
    form.type_ = aioxmpp.forms.DataType.SUBMIT
    await session.proceed(action=aioxmpp.adhoc.ActionType.COMPLETE, payload=form)
    assert session.status == aioxmpp.adhoc.CommandStatus.COMPLETED
    with pytest.raises(PermissionError):
        await login("aioxmpp", "juliet@example.org/balcony")
    nurse = await login("aioxmpp", "nurse@example.org/street")
    with pytest.raises(aioxmpp.errors.XMPPAuthError):
        await nurse.client.summon(aioxmpp.AdHocClient).execute(server, f"{ADMIN}#disable-user")


async def test_slixmpp_addresses_many_and_sets_rules(login: Login) -> None:
    romeo = await login("slixmpp", "romeo@example.org/orchard")
    for plugin in ("xep_0033", "xep_0079"):
        romeo.client.register_plugin(plugin)
    nurse = await login("slixmpp", "nurse@example.org/street")
    benvolio = await login("aioxmpp", "benvolio@example.net/street")
    for peer in (romeo, nurse, benvolio):
        await peer.becomes_available()
    message = romeo.client.make_message("example.org", mbody="to you both")
    message["addresses"].add_address("to", "nurse@example.org")
    message["addresses"].add_address("bcc", "benvolio@example.net")
    message.send()
    for peer in (nurse, benvolio):
        heard = await peer.hears()
        assert (heard.sender, heard.body) == (romeo.jid, "to you both")
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    romeo.client.add_event_handler("amp_alert", told.set_result)
    message = romeo.client.make_message("romeo@example.org", mbody="to myself", mtype="chat")
    message["id"] = "rule1"
    message["amp"].add_rule("alert", "deliver", "direct")
    message.send()
    answer = await asyncio.wait_for(told, PATIENCE)
    assert answer["id"] == "rule1" and answer["amp"]["status"] == "alert"
