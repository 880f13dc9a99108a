"""Asking archives in plays."""

from __future__ import annotations

from beamish.testing.client import Client
from beamish.xmpp.xml import Element

MAM = "urn:xmpp:mam:2"
RSM = "http://jabber.org/protocol/rsm"
RESULT = f"{{{MAM}}}result"
MESSAGE = "{urn:xmpp:forward:0}forwarded/{jabber:client}message"


class Page:
    """What an archive answered: results in the order they came, and the end."""

    def __init__(self, results: list[Element], fin: Element) -> None:
        self.results = results
        self.fin = fin

    @property
    def bodies(self) -> list[str | None]:
        return [m.findtext("{jabber:client}body") for m in self.messages]

    @property
    def messages(self) -> list[Element]:
        found = [r.find(MESSAGE) for r in self.results]
        return [m for m in found if m is not None]

    @property
    def ids(self) -> list[str]:
        return [r.get("id", "") for r in self.results]

    @property
    def complete(self) -> bool:
        return self.fin.get("complete") == "true"

    def rsm(self, name: str) -> str | None:
        return self.fin.findtext(f"{{{RSM}}}set/{{{RSM}}}{name}")

    @property
    def index(self) -> str | None:
        first = self.fin.find(f"{{{RSM}}}set/{{{RSM}}}first")
        return None if first is None else first.get("index")


def field(var: str, *values: str) -> str:
    return f"<field var='{var}'>{''.join(f'<value>{v}</value>' for v in values)}</field>"


def query_xml(fields: dict[str, str | list[str]] | None = None, rsm: str = "", extra: str = "", id: str = "q") -> str:
    inner = ""
    if fields:
        given = "".join(field(k, *([v] if isinstance(v, str) else v)) for k, v in fields.items())
        inner = f"<x xmlns='jabber:x:data' type='submit'>{field('FORM_TYPE', MAM)}{given}</x>"
    if rsm:
        inner += f"<set xmlns='{RSM}'>{rsm}</set>"
    return f"<iq type='set' id='{id}'><query xmlns='{MAM}' queryid='k'>{inner}{extra}</query></iq>"


async def ask(client: Client, fields: dict[str, str | list[str]] | None = None, rsm: str = "", extra: str = "") -> Page:
    """Query one's own archive; other messages stay in the inbox."""
    answer = await client.iq(query_xml(fields, rsm, extra))
    fin = answer.find(f"{{{MAM}}}fin")
    assert fin is not None
    results, rest = [], []
    for el in client.inbox:
        found = el.find(RESULT)
        if found is not None:
            assert el.get("from") == client.jid.bare
            assert el.get("to") == client.jid
            assert found.get("queryid") == "k"
            results.append(found)
        else:
            rest.append(el)
    client.inbox.clear()
    client.inbox.extend(rest)
    return Page(results, fin)


async def refused(client: Client, fields: dict[str, str | list[str]] | None = None, rsm: str = "") -> str:
    """The condition with which a query is refused."""
    answer = await client.iq(query_xml(fields, rsm), type="error")
    error = answer.find("{jabber:client}error")
    assert error is not None
    return str(error[0].tag).rpartition("}")[2]
