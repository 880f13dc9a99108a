"""Small things that plays of several rows say."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from beamish.testing.client import Client
from beamish.xmpp.xml import Element

from .stage import Stage

INFO = "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"
CARBONS = "urn:xmpp:carbons:2"
MAM = "urn:xmpp:mam:2"
RSM = "http://jabber.org/protocol/rsm"
MUC = "http://jabber.org/protocol/muc"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
DATA = "jabber:x:data"
ROOM = "square@conference.example.org"
FORWARDED = "{urn:xmpp:forward:0}forwarded/{jabber:client}message"
BODY = "{jabber:client}body"


def body(message: Element | None) -> str | None:
    """The text of a message."""
    return None if message is None else message.findtext(BODY)


def kind(el: Element) -> str:
    """The name of an element, without its namespace."""
    return str(el.tag).rpartition("}")[2]


def condition(stanza: Element) -> str:
    """The condition of an error, "" if the stanza is none."""
    error = stanza.find("{jabber:client}error")
    return "" if error is None else kind(error[0])


def values(answer: Element) -> dict[str, str]:
    """The fields of all forms in an answer: name → first value."""
    return {f.get("var", ""): f.findtext(f"{{{DATA}}}value") or "" for f in answer.iter(f"{{{DATA}}}field")}


def submission(form_type: str, fields: Mapping[str, str | list[str]]) -> str:
    """A form as a client returns it."""
    inner = f"<field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>"
    for var, given in fields.items():
        each = [given] if isinstance(given, str) else given
        inner += f"<field var='{var}'>" + "".join(f"<value>{value}</value>" for value in each) + "</field>"
    return f"<x xmlns='{DATA}' type='submit'>{inner}</x>"


async def disco(client: Client, what: str, to: str = "", node: str = "", type: str = "result") -> Element:
    """The query of an answer to disco (`INFO` or `ITEMS`); the whole answer if it must be an error."""
    at = (f" to='{to}'" if to else "") + ""
    asked = f"<query xmlns='{what}'" + (f" node='{node}'" if node else "") + "/>"
    answer = await client.iq(f"<iq type='get' id='disco'{at}>{asked}</iq>", type)
    return answer if type == "error" else answer[0]


async def features(client: Client, to: str = "", node: str = "") -> set[str]:
    """What an entity says it can do."""
    query = await disco(client, INFO, to, node)
    return {el.get("var", "") for el in query.findall(f"{{{INFO}}}feature")}


async def items(client: Client, to: str = "", node: str = "") -> set[str]:
    """The addresses that an entity lists."""
    return {el.get("jid", "") for el in await disco(client, ITEMS, to, node)}


async def copies(client: Client) -> None:
    """Switch carbons on."""
    await client.iq(f"<iq type='set' id='c'><enable xmlns='{CARBONS}'/></iq>")


async def archive(
    client: Client, to: str = "", fields: Mapping[str, str | list[str]] | None = None, rsm: str = "", extra: str = ""
) -> tuple[list[Element], Element]:
    """Query an archive (the own one by default): its results in order, and `<fin/>`. Other messages stay in the inbox."""
    inner = submission(MAM, fields) if fields else ""
    inner += f"<set xmlns='{RSM}'>{rsm}</set>" if rsm else ""
    at = f" to='{to}'" if to else ""
    query = f"<query xmlns='{MAM}' queryid='k'>{inner}{extra}</query>"
    fin = (await client.iq(f"<iq type='set' id='mam'{at}>{query}</iq>"))[0]
    found = [(el, el.find(f"{{{MAM}}}result")) for el in client.inbox]
    rest = [el for el, result in found if result is None]
    client.inbox.clear()
    client.inbox.extend(rest)
    return [result for _, result in found if result is not None], fin


def kept(result: Element) -> Element:
    """The message in a result of an archive."""
    message = result.find(FORWARDED)
    assert message is not None
    return message


async def bodies(client: Client, to: str = "", **fields: str) -> list[str | None]:
    """The texts in an archive."""
    found, _ = await archive(client, to, {k.replace("_", "-"): v for k, v in fields.items()})
    return [body(kept(result)) for result in found]


async def enter(stage: Stage, client: Client, nick: str, room: str = ROOM, inner: str = "") -> list[Element]:
    """Go into a room; whoever makes it makes it persistent. Everything that arrives."""
    client.send(f"<presence to='{room}/{nick}'><x xmlns='{MUC}'>{inner}</x></presence>")
    await stage.seek(client, f"<message from='{room}' type='groupchat'><subject/></message>")
    got = await stage.take(client)
    if any(el.find(f"{{{MUC}#user}}x/{{{MUC}#user}}status[@code='201']") is not None for el in got):
        form = submission(f"{MUC}#roomconfig", {"muc#roomconfig_persistentroom": "1"})
        await client.iq(f"<iq type='set' id='conf' to='{room}'><query xmlns='{MUC}#owner'>{form}</query></iq>")
    return got


def capabilities(*features_: str, node: str = "http://client.example") -> tuple[str, str, str]:
    """Of a client with these features (XEP-0115 §5.1): `<c/>`, the node that is asked about, and what to answer."""
    listed = sorted({INFO, *features_})
    text = "client/pc//Play<" + "".join(f"{each}<" for each in listed)
    ver = base64.b64encode(hashlib.sha1(text.encode()).digest()).decode()
    answer = "<identity category='client' type='pc' name='Play'/>" + "".join(f"<feature var='{e}'/>" for e in listed)
    c = f"<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='{node}' ver='{ver}'/>"
    return c, f"{node}#{ver}", answer


async def tell(stage: Stage, client: Client, node: str, inner: str) -> None:
    """Be asked by the server what the client can do, and answer."""
    asked = await stage.seek(client, f"<iq type='get'><query xmlns='{INFO}' node='{node}'/></iq>")
    query = f"<query xmlns='{INFO}' node='{node}'>{inner}</query>"
    client.send(f"<iq type='result' id='{asked.get('id')}' to='{asked.get('from')}'>{query}</iq>")
