"""Every form that the servers send is one, and a client that knows nothing but forms gets along with them."""

from __future__ import annotations

import ast
import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import beamish
from beamish.modules.register import RegisterModule
from beamish.testing.client import Client
from beamish.testing.forms import form_problems, forms_in
from beamish.testing.match import show
from beamish.testing.world import PASSWORD
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Form
from beamish.xmpp.xml import Element

from .kit import DATA, INFO, MAM, MUC, ROOM, enter, submission
from .stage import Stage

SOURCE = Path(beamish.__file__).parent
COMMANDS = "http://jabber.org/protocol/commands"
ADMIN = "http://jabber.org/protocol/admin"
PUBSUB = "http://jabber.org/protocol/pubsub"
REGISTER = "jabber:iq:register"
HATS = "urn:xmpp:hats:commands"
FIELD = f"{{{DATA}}}field"
VALUE = f"{{{DATA}}}value"
VICTIM = "mercutio@example.org"
FILLED: dict[str, str | list[str]] = {
    "accountjid": VICTIM,
    "accountjids": [VICTIM],
    "adminjids": ["romeo@example.org"],
    "blacklistjids": ["spam.example"],
    "whitelistjids": [],
    "password": PASSWORD,
    "password-verify": PASSWORD,
    "announcement": ["Hear ye", "all"],
    "subject": "News",
    "motd": ["First line", "second line"],
    "welcome": ["Welcome,", "stranger"],
    "first": "Romeo",
    "nick": "Rome",
    "jid": VICTIM,
    "room": ROOM,
    "owner": VICTIM,
    "domain": "conference.example.org",
    "affiliation": "member",
    "limit": "10",
    "max_items": "25",
}
"""What a person would type, by the name of the field."""
SPECIAL: dict[str, dict[str, str | list[str]]] = {
    "add-user": {"accountjid": "sampson@example.org"},
    "muc.create": {"room": "garden@conference.example.org"},
}
NOT_DONE = ("restart", "shutdown")
"""Commands that are only asked about: they end the server."""
FIRST = ("set-motd", "set-welcome", "muc.create", "add-user", "end-user-session")
LAST = ("delete-motd", "delete-welcome", "muc.destroy", "invite.revoke", "report.remove", "delete-user")
"""Commands that take away what others look at."""

Site = tuple[str, int, int]


def sites() -> list[Site]:
    """Where the source makes a form: file, first and last line."""
    found = []
    for path in sorted((SOURCE / "modules").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                function = node.func
                of = isinstance(function, ast.Attribute) and function.attr == "of" and _is_form(function.value)
                if of or _is_form(function):
                    found.append((str(path.relative_to(SOURCE)), node.lineno, node.end_lineno or node.lineno))
    return found


def _is_form(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "Form"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """The lines of the source that have made forms."""
    lines: set[tuple[str, int]] = set()
    make = Form.__init__

    def note(self: Form, *args: Any, **kwargs: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename == forms.__file__:
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            lines.add((str(path.relative_to(SOURCE)), frame.f_lineno))
        make(self, *args, **kwargs)

    monkeypatch.setattr(Form, "__init__", note)
    return lines


class Collector:
    """Looks at every form that clients receive."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.seen: list[tuple[str, str]] = []
        """Type and FORM_TYPE of each."""

    def look(self, stanza: Element, *, least: int = 0) -> list[Element]:
        """Check the forms in a stanza, of which there must be at least so many."""
        found = list(forms_in(stanza))
        assert len(found) >= least, show(stanza)
        for form in found:
            problems = form_problems(form)
            assert problems == [], "\n".join([*problems, show(form)])
            named = form.find(f"{FIELD}[@var='FORM_TYPE']/{VALUE}")
            self.seen.append((form.get("type", ""), "" if named is None else named.text or ""))
        return found

    async def ask(self, client: Client, to: str, payload: str, *, kind: str = "get", least: int = 1) -> list[Element]:
        """Send an IQ, and check the forms in its answer."""
        at = f" to='{to}'" if to else ""
        return self.look(await client.iq(f"<iq type='{kind}' id='ask'{at}>{payload}</iq>"), least=least)

    async def arrived(self, client: Client, least: int = 1) -> list[Element]:
        """Check the forms in what has come without being asked for."""
        found = [form for el in await self.stage.take(client) for form in self.look(el)]
        assert len(found) >= least
        return found


def fill_in(form: Element, known: Mapping[str, str | list[str]]) -> str:
    """A submission made by somebody who sees the fields of a form, has answers to some, and gives back what is hidden."""
    inner = ""
    for field in form.findall(FIELD):
        var, type_ = field.get("var", ""), field.get("type", "text-single")
        values = [value.text or "" for value in field.findall(VALUE)]
        if type_ != "hidden" and var in known:
            given = known[var]
            values = [given] if isinstance(given, str) else given
        elif (
            field.find(f"{{{DATA}}}required") is not None and not values and field.find(f"{{{DATA}}}option") is not None
        ):
            values = [field.findtext(f"{{{DATA}}}option/{VALUE}") or ""]
        if type_ != "fixed":
            inner += f"<field var='{var}' type='{type_}'>" + "".join(f"<value>{v}</value>" for v in values) + "</field>"
    return f"<x xmlns='{DATA}' type='submit'>{inner}</x>"


async def test_row_31_data_forms(stage: Stage, made: set[tuple[str, int]]) -> None:
    """Every form the server sends validates against 0004; IBR with CAPTCHA form can be completed by a client of forms."""
    all_forms = Collector(stage)
    await registration(stage, all_forms)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.clear()
    for to in ("example.org", "example.net", ROOM, "conference.example.org", "pubsub.example.org", "romeo@example.org"):
        if to != ROOM:
            await all_forms.ask(romeo, to, f"<query xmlns='{INFO}'/>", least=0)
    await rooms(all_forms, romeo, juliet)
    await nodes(all_forms, romeo, juliet, benvolio)
    await archives(all_forms, romeo)
    await directory(all_forms, juliet)
    await contact_lists(all_forms, juliet)
    await notifications(all_forms, juliet)
    await commands(all_forms, romeo, juliet)
    kinds = set(all_forms.seen)
    assert {kind for kind, _ in kinds} == {"form", "result", "submit"}
    for wanted in (
        ("form", REGISTER),
        ("form", f"{MUC}#roomconfig"),
        ("form", f"{MUC}#request"),
        ("form", f"{MUC}#register"),
        ("result", f"{MUC}#roominfo"),
        ("form", f"{PUBSUB}#node_config"),
        ("form", f"{PUBSUB}#subscribe_options"),
        ("form", f"{PUBSUB}#subscribe_authorization"),
        ("result", f"{PUBSUB}#meta-data"),
        ("form", MAM),
        ("form", "jabber:iq:search"),
        ("form", ADMIN),
        ("result", ADMIN),
        ("result", "http://jabber.org/network/serverinfo"),
        ("submit", "urn:xmpp:push:summary"),
        ("submit", f"{PUBSUB}#publish-options"),
    ):
        assert wanted in kinds, wanted
    missing = [site for site in sites() if not any(f == site[0] and site[1] <= at <= site[2] for f, at in made)]
    assert missing == [], "forms that no play has asked for"


async def registration(stage: Stage, all_forms: Collector) -> None:
    """XEP-0077 with XEP-0158: by the image, and by the question; nothing is known but the form (and what a person sees)."""
    for name, way in (("tybalt", "image"), ("paris", "question")):
        client = await stage.stranger()
        asked = await client.iq(f"<iq type='get' id='r1' to='example.org'><query xmlns='{REGISTER}'/></iq>")
        (form,) = all_forms.look(asked, least=1)
        answers: dict[str, str | list[str]] = {"username": name, "password": PASSWORD}
        if way == "image":
            uri = form.find(f"{FIELD}[@var='ocr']/{{urn:xmpp:media-element}}media/{{urn:xmpp:media-element}}uri")
            assert uri is not None and (uri.text or "").startswith("cid:")
            cid = (uri.text or "").removeprefix("cid:")
            bits = await client.iq(
                f"<iq type='get' id='r2' to='example.org'><data xmlns='urn:xmpp:bob' cid='{cid}'/></iq>"
            )
            assert base64.b64decode(bits[0].text or "").startswith(b"\x89PNG")
            answers["ocr"] = next(
                v.challenge.letters for v in stage.module(RegisterModule)._visits.values() if v.challenge is not None
            )
        else:
            question = form.find(f"{FIELD}[@var='qa']")
            assert question is not None and question.get("label") == "What is the capital of Italy?"
            answers["qa"] = "rome"
        filled = fill_in(form, answers)
        await client.iq(f"<iq type='set' id='r3' to='example.org'><query xmlns='{REGISTER}'>{filled}</query></iq>")
        await client.authenticate(name, PASSWORD)
        await client.bind("street")
        await client.close()


async def rooms(all_forms: Collector, romeo: Client, juliet: Client) -> None:
    """XEP-0045, 0317, 0433."""
    stage = all_forms.stage
    await enter(stage, romeo, "romeo")
    owner = f"<query xmlns='{MUC}#owner'/>"
    (form,) = await all_forms.ask(romeo, ROOM, owner)
    moderated = fill_in(form, {"muc#roomconfig_moderatedroom": "1", "muc#roomconfig_roomname": "The square"})
    await all_forms.ask(romeo, ROOM, f"<query xmlns='{MUC}#owner'>{moderated}</query>", kind="set", least=0)
    await enter(stage, juliet, "juliet")
    await all_forms.ask(juliet, ROOM, f"<query xmlns='{INFO}'/>")
    asking = submission(f"{MUC}#request", {"muc#role": "participant"})
    juliet.send(f"<message to='{ROOM}'>{asking}</message>")
    (question,) = await all_forms.arrived(romeo)
    romeo.send(f"<message to='{ROOM}'>{fill_in(question, {'muc#request_allow': '1'})}</message>")
    await stage.seek(juliet, f"<presence><x xmlns='{MUC}#user'><item role='participant'/></x></presence>")
    register = f"<query xmlns='{REGISTER}'/>"
    (form,) = await all_forms.ask(juliet, ROOM, register)
    await stage.clear()
    juliet.send(
        f"<iq type='set' id='r' to='{ROOM}'><query xmlns='{REGISTER}'>"
        f"{fill_in(form, {'muc#register_roomnick': 'Jule'})}</query></iq>"
    )
    await stage.seek(juliet, "<iq type='result' id='r'/>")
    # into a room for members an admin lets people in, asked by a form
    club = "club@conference.example.org"
    await enter(stage, romeo, "romeo", club)
    (form,) = await all_forms.ask(romeo, club, owner)
    members = fill_in(form, {"muc#roomconfig_membersonly": "1", "muc#roomconfig_registration": "1"})
    await all_forms.ask(romeo, club, f"<query xmlns='{MUC}#owner'>{members}</query>", kind="set", least=0)
    (form,) = await all_forms.ask(juliet, club, register)
    await stage.clear()
    filled = fill_in(form, {"muc#register_roomnick": "Jule"})
    juliet.send(f"<iq type='set' id='r' to='{club}'><query xmlns='{REGISTER}'>{filled}</query></iq>")
    (question,) = await all_forms.arrived(romeo)
    romeo.send(f"<message to='{club}'>{fill_in(question, {'muc#register_allow': '1'})}</message>")
    await stage.clear()
    # hats: a form for each command, and tables
    nodes = await items_with_nodes(romeo, ROOM, COMMANDS)
    assert nodes
    hat = {
        "hats#title": "Prince",
        "hats#uri": "urn:example:prince",
        "hats#hue": "200",
        "hats#jid": "juliet@example.org",
    }
    order = ("create", "list", "assign", "list-assigned", "unassign", "destroy", "list")
    for name in order:
        (node,) = [each for each in nodes if each == f"{HATS}:{name}"]
        (form,) = await all_forms.ask(
            romeo, ROOM, f"<command xmlns='{COMMANDS}' node='{node}' action='execute'/>", kind="set"
        )
        if form.get("type") == "form":
            done = f"<command xmlns='{COMMANDS}' node='{node}' action='complete'>{fill_in(form, hat)}</command>"
            await all_forms.ask(romeo, ROOM, done, kind="set", least=0)
    await all_forms.ask(romeo, "conference.example.org", "<search xmlns='urn:xmpp:channel-search:0:search'/>")
    await stage.clear()


async def items_with_nodes(client: Client, to: str, node: str) -> list[str]:
    query = f"<query xmlns='http://jabber.org/protocol/disco#items' node='{node}'/>"
    answer = await client.iq(f"<iq type='get' id='n' to='{to}'>{query}</iq>")
    return [el.get("node", "") for el in answer[0]]


async def nodes(all_forms: Collector, romeo: Client, juliet: Client, benvolio: Client) -> None:
    """XEP-0060, at the service and at accounts."""
    stage, service = all_forms.stage, "pubsub.example.org"

    def pubsub(inner: str, owner: bool = False) -> str:
        return f"<pubsub xmlns='{PUBSUB}{'#owner' if owner else ''}'>{inner}</pubsub>"

    config = submission(f"{PUBSUB}#node_config", {"pubsub#access_model": "authorize", "pubsub#title": "News"})
    inner = f"<create node='news'/><configure>{config}</configure>"
    await all_forms.ask(romeo, service, pubsub(inner), kind="set", least=0)
    await all_forms.ask(romeo, service, pubsub("<configure node='news'/>", owner=True))
    await all_forms.ask(romeo, service, pubsub("<default/>", owner=True))
    await all_forms.ask(romeo, service, pubsub("<default/>"))
    await all_forms.ask(romeo, service, f"<query xmlns='{INFO}' node='news'/>")
    for subscriber in (juliet, benvolio):
        who = subscriber.jid.bare
        await all_forms.ask(subscriber, service, pubsub(f"<subscribe node='news' jid='{who}'/>"), kind="set", least=0)
    await stage.seek(romeo, f"<message from='{service}'><x xmlns='{DATA}' type='form'/></message>")
    await stage.quiet()
    pending = f"<command xmlns='{COMMANDS}' node='{PUBSUB}#get-pending' action='execute'/>"
    (form,) = await all_forms.ask(romeo, service, pending, kind="set")
    await stage.clear()
    chosen = fill_in(form, {"pubsub#node": "news"})
    done = f"<command xmlns='{COMMANDS}' node='{PUBSUB}#get-pending' action='complete'>{chosen}</command>"
    await all_forms.ask(romeo, service, done, kind="set", least=0)
    for question in await all_forms.arrived(romeo, 2):
        romeo.send(f"<message to='{service}'>{fill_in(question, {'pubsub#allow': '1'})}</message>")
    await stage.clear()
    await all_forms.ask(juliet, service, pubsub(f"<options node='news' jid='{juliet.jid.bare}'/>"))
    await all_forms.ask(romeo, service, pending, kind="set", least=0)
    # personal nodes, with and without groups of contacts
    publish = "<publish node='urn:example:tune'><item id='1'><tune xmlns='urn:example:tune'/></item></publish>"
    await all_forms.ask(romeo, "", pubsub(publish), kind="set", least=0)
    await all_forms.ask(romeo, "", pubsub("<configure node='urn:example:tune'/>", owner=True))
    item = "<item jid='juliet@example.org'><group>Capulets</group></item>"
    await romeo.iq(f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    await all_forms.ask(romeo, "", pubsub("<configure node='urn:example:tune'/>", owner=True))
    await all_forms.ask(romeo, "", f"<query xmlns='{INFO}' node='urn:example:tune'/>")


async def archives(all_forms: Collector, romeo: Client) -> None:
    """XEP-0313."""
    for to in ("", ROOM):
        await all_forms.ask(romeo, to, f"<query xmlns='{MAM}'/>")


async def directory(all_forms: Collector, juliet: Client) -> None:
    """XEP-0055."""
    space = "jabber:iq:search"
    await juliet.command("urn:beamish:command:directory.publish", {"nick": "JuliC", "first": "Juliet"})
    (form,) = await all_forms.ask(juliet, "example.org", f"<query xmlns='{space}'/>")
    for known in ({"nick": "juli"}, {"nick": "nobody"}):
        found = f"<query xmlns='{space}'>{fill_in(form, known)}</query>"
        await all_forms.ask(juliet, "example.org", found, kind="set")


async def notifications(all_forms: Collector, juliet: Client) -> None:
    """XEP-0357: a push service gets what a client registered with it, and what there is to be told."""
    mercutio = await all_forms.stage.login("mercutio@example.org/phone", presence=True)
    options = (
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>"
        f"{PUBSUB}#publish-options</value></field><field var='secret'><value>s3cret</value></field></x>"
    )
    service = await all_forms.stage.component("proxy.example.org")
    await mercutio.iq(
        f"<iq type='set' id='on'><enable xmlns='urn:xmpp:push:0' jid='proxy.example.org' node='n'>{options}</enable></iq>"
    )
    await all_forms.stage.leave(mercutio)
    await all_forms.stage.clear()
    juliet.send("<message to='mercutio@example.org' type='chat'><body>Ho</body></message>")
    all_forms.look(await service.receive(), least=2)
    service.drop()


async def contact_lists(all_forms: Collector, juliet: Client) -> None:
    """XEP-0321: a service that asks whether it may manage contacts."""
    stage, service, space = all_forms.stage, "gate.example.org", "urn:xmpp:tmp:roster-management:0"
    gate = await stage.component(service)
    gate.send(f"<presence from='{service}' to='{juliet.jid.bare}' type='subscribe'/>")
    await stage.seek(juliet, f"<presence from='{service}' type='subscribe'/>")
    juliet.send(f"<presence to='{service}' type='subscribed'/>")
    await stage.clear()
    wish = f"<query xmlns='{space}' reason='Friends\nand&#10;foes' type='request'/>"
    gate.send(f"<iq type='set' id='w' from='{service}' to='{juliet.jid.bare}'>{wish}</iq>")
    question = await stage.seek(juliet, f"<message from='example.org'><x xmlns='{DATA}'/></message>")
    (form,) = all_forms.look(question, least=1)
    juliet.send(f"<message to='example.org'>{fill_in(form, {'answer': '1'})}</message>")
    await stage.clear()


async def commands(all_forms: Collector, romeo: Client, juliet: Client) -> None:
    """XEP-0050 and 0133: each command that there is, asked about and carried out."""
    stage = all_forms.stage
    nodes = await items_with_nodes(romeo, "example.org", COMMANDS)
    assert len(nodes) > 40 and set(await items_with_nodes(juliet, "example.org", COMMANDS)) < set(nodes)

    async def execute(node: str, more: str = "action='execute'/>") -> Element:
        # what a command refuses is no form, but an error: of those only the forms count
        romeo.send(f"<iq type='set' id='c' to='example.org'><command xmlns='{COMMANDS}' node='{node}' {more}</iq>")
        while True:
            got = await romeo.receive()
            if got.get("id") == "c" and got.get("type") in ("result", "error"):
                return got

    names = {node.rpartition("#")[2].removeprefix("urn:beamish:command:"): node for node in nodes}
    order = [*FIRST, *sorted(names.keys() - {*FIRST, *LAST}), *(name for name in LAST if name in names)]
    reported = "<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'/>"
    block = f"<block xmlns='urn:xmpp:blocking'><item jid='iago@example.org'>{reported}</item></block>"
    await juliet.iq(f"<iq type='set' id='b'>{block}</iq>")
    await stage.login(f"{VICTIM}/square", presence=True)
    known = dict(FILLED)
    for name in order:
        node = names[name]
        answer = await execute(node)
        if name in NOT_DONE:
            all_forms.look(answer, least=1)
            continue
        found = all_forms.look(answer)
        if found and found[0].get("type") == "form":
            session = answer[0].get("sessionid")
            filled = fill_in(found[0], {**known, **SPECIAL.get(name, {})})
            answer = await execute(node, f"sessionid='{session}' action='complete'>{filled}</command>")
            found = all_forms.look(answer)
        assert answer.get("type") == "result", show(answer)
        for form in found:  # what a list tells is what a later command wants
            for field in form.iter(FIELD):
                if field.get("var") in ("token", "id") and field.find(VALUE) is not None:
                    known[field.get("var", "")] = field.findtext(VALUE) or ""
        await stage.clear()
