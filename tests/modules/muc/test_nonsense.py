"""Whatever clients send to rooms is answered with a proper error or not at all: nothing crashes (the log would tell)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM

from beamish.testing.match import show

TO = (ROOM, f"{ROOM}/romeo", f"{ROOM}/juliet", f"{ROOM}/nobody", "conference.example.org", "x@conference.example.org/y",
      "conference.example.org/r", "x@conference.example.org")  # fmt: skip
TYPES = {
    "message": ("", "groupchat", "chat", "normal", "headline", "error", "nonsense"),
    "presence": ("", "unavailable", "error", "probe", "subscribe"),
    "iq": ("get", "set", "result", "error"),
}
ATTRS = ("", "jid='juliet@example.org'", "jid='@'", "jid=''", "nick='juliet'", "nick=''", "role='none'", "role='x'",
         "affiliation='owner'", "affiliation='outcast'", "affiliation=''", "to='juliet@example.org'", "to='@'", "to=''",
         "id='x'", "id=''", "node='urn:xmpp:hats:commands:create'", "node='x'", "type='submit'", "type='cancel'", "type='x'",
         "var='FORM_TYPE'", "var='muc#role'", "var='muc#roomconfig_maxusers'", "var='q'", "var='start'", "var='with'",
         "maxchars='-1'", "since='x'", "code='110'")  # fmt: skip
TAGS = (f"{{{MUC}}}x", f"{{{MUC}#user}}x", f"{{{MUC}#admin}}query", f"{{{MUC}#owner}}query", "{jabber:iq:register}query",
        "{jabber:x:data}x", "{urn:xmpp:mam:2}query", "{urn:xmpp:mam:2}metadata", "{urn:xmpp:message-moderate:1}moderate",
        "{urn:xmpp:fasten:0}apply-to", "{urn:xmpp:message-moderate:0}moderate",
        "{urn:xmpp:channel-search:0:search}search", "{vcard-temp}vCard", "{http://jabber.org/protocol/commands}command",
        "{http://jabber.org/protocol/disco#info}query", "{http://jabber.org/protocol/disco#items}query",
        "{urn:xmpp:ping}ping", "{urn:xmpp:message-retract:1}retract", "{urn:xmpp:delay}delay", "{jabber:client}error",
        "{jabber:client}subject", "{jabber:client}body", "{jabber:client}show")  # fmt: skip
INNER = ("item", "invite", "decline", "destroy", "history", "password", "reason", "field", "value", "remove", "x", "set",
         "max", "before", "after", "PHOTO", "BINVAL", "retract", "status", "continue")  # fmt: skip
TEXTS = ("", "x", "0", "-1", "juliet", "=", f"{MUC}#roomconfig", f"{MUC}#request", "2024-01-01T00:00:00Z", "\u200b")
SPACES = ("", f" xmlns='{MUC}#user'", " xmlns='jabber:x:data'", " xmlns='http://jabber.org/protocol/rsm'",
          " xmlns='urn:xmpp:message-retract:1'", f" xmlns='{MUC}#owner'")  # fmt: skip


def attributes(choose: Random) -> str:
    """Up to three different ones."""
    chosen = {a.partition("=")[0]: a for a in choose.choices(ATTRS, k=3)}
    return "".join(f" {a}" for a in chosen.values() if a)


def inner(choose: Random, depth: int) -> str:
    """Elements in elements."""
    if depth == 0 or choose.random() < 0.3:
        return choose.choice(TEXTS)
    return "".join(
        f"<{tag}{choose.choice(SPACES)}{attributes(choose)}>{inner(choose, depth - 1)}</{tag}>"
        for tag in choose.choices(INNER, k=choose.randint(1, 3))
    )


def stanza(choose: Random) -> str:
    """Something that is well-formed."""
    name = choose.choice(("message", "presence", "iq", "iq"))
    type_ = choose.choice(TYPES[name])
    children = ""
    for tag in choose.choices(TAGS, k=1 if name == "iq" else choose.randint(0, 3)):
        space, _, local = tag[1:].partition("}")
        xmlns = "" if space == "jabber:client" else f" xmlns='{space}'"
        children += f"<{local}{xmlns}{attributes(choose)}>{inner(choose, 3)}</{local}>"
    at = f" type='{type_}'" if type_ else ""
    return f"<{name} to='{choose.choice(TO)}' id='n'{at}>{children}</{name}>"


@pytest.mark.parametrize("seed", range(6))
async def test_nonsense(rooms: Any, seed: int) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    choose = Random(seed)
    await rooms.full(romeo, juliet)
    for _ in range(150):
        client = choose.choice((romeo, juliet))
        sent = stanza(choose)
        client.send(sent)
        for el in await rooms.take(client):
            error = el.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}internal-server-error")
            assert error is None, f"{sent}\n{show(el)}"
        assert not client.closed and not client.disconnected, sent
        await rooms.world.pass_time(1)
