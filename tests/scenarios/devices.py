"""Devices that lose their connections and come back, and remember everything that they sent, saw and were told.

Each has carbons on, is in a room, and follows the pushes of its account's roster without ever asking for it again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from tests.system.resuming import BODY, DELAY, Connect, Resuming, Stanza, Violation

from beamish.xmpp.xml import Element

MAM = "urn:xmpp:mam:2"
CARBONS = "urn:xmpp:carbons:2"
ROSTER = "jabber:iq:roster"
ROOM = "hall@conference.example.org"

Message = tuple[str, int]
"""The device that sent it, and its number there."""


@dataclass
class Ledger:
    """What all devices know together since the last check."""

    acknowledged: dict[str, list[Message]] = field(default_factory=dict)
    """Account or room → messages to it or from it that the server has acknowledged."""
    uncertain: set[Message] = field(default_factory=set)
    """Sent a second time because nobody could tell whether the first was handled (XEP-0198 §4 allows for that)."""
    repeated: int = 0


class Device(Resuming[Message]):
    """One device of one account."""

    def __init__(self, address: str, password: str, connect: Connect, ledger: Ledger) -> None:
        super().__init__(address, password, connect)
        self.account = str(self.jid.bare)
        self._ledger = ledger
        self._numbers = 0
        self.seen: set[Message] = set()
        """In all streams, since the last check; what it sent itself included."""
        self.live: dict[str, list[Message]] = {"": [], ROOM: []}
        """What came live since the last check, undelayed and in order: to or from the account, and from the room."""
        self.archived: dict[str, list[Message]] = {}
        """What the last reading of each archive gave, in order."""
        self.roster: dict[str, str] = {}
        """Contacts and their names, from the answer at the begin of the stream and from pushes."""
        self._stream: set[Message] = set()
        self._latest: dict[str, int] = {}
        self.fresh = True
        """A stream has begun since the last check: what came before it was for others."""
        self._pings: dict[str, asyncio.Future[None]] = {}
        self._readings: dict[str, asyncio.Future[str]] = {}
        """Requests for pages of archives under way, by id."""
        self._reading = ""
        """The `queryid` of the archive that is being read; what earlier readings still bring is not of this one."""
        self._looking = ""
        self._counter = 0
        self.looked: dict[str, str] | None = None
        """The roster as the server has it, once `look` was answered."""

    # ---- the stream -------------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        self._stream = set()
        self._latest = {}
        self.fresh = True
        self.roster = {}
        self.send(Stanza(f"<iq type='get' id='roster'><query xmlns='{ROSTER}'/></iq>"))
        self.send(Stanza(f"<iq type='set' id='carbons'><enable xmlns='{CARBONS}'/></iq>"))
        self.send(Stanza("<presence/>"))
        nick = f"{self.jid.local}-{self.jid.resource}"
        self.send(
            Stanza(
                f"<presence to='{ROOM}/{nick}'><x xmlns='http://jabber.org/protocol/muc'>"
                "<history maxstanzas='0'/></x></presence>"
            )
        )

    def _done(self, stanza: Stanza[Message]) -> None:
        assert stanza.message is not None
        for account in stanza.accounts:
            self._ledger.acknowledged.setdefault(account, []).append(stanza.message)

    def _again(self, stanza: Stanza[Message]) -> None:
        self._ledger.repeated += stanza.message is not None

    def _forgotten(self) -> None:
        self._ledger.uncertain |= {s.message for s in self._unacknowledged if s.message is not None}

    def _unsure(self) -> None:
        self._forgotten()

    def _give_up(self) -> None:
        for future in (*self._pings.values(), *self._readings.values()):
            if not future.done():
                future.cancel()
        self._pings.clear()
        self._readings.clear()

    # ---- sending ----------------------------------------------------------------------------------------------------

    def say(self, to: str) -> None:
        """A message to an account, one of its devices, or the room."""
        self._numbers += 1
        message = (self.name, self._numbers)
        text = f"{self.name} {self._numbers}"
        type_ = "groupchat" if to == ROOM else "chat"
        xml = f"<message to='{to}' type='{type_}' id='{text}'><body>{text}</body></message>"
        if to == ROOM:
            self.send(Stanza(xml, message, (ROOM,)))
        else:
            self.seen.add(message)
            self.send(Stanza(xml, message, tuple({to.partition("/")[0], self.account})))

    def name_contact(self, contact: str, name: str) -> None:
        """Change the roster."""
        self._counter += 1
        item = f"<item jid='{contact}' name='{name}'/>"
        self.send(Stanza(f"<iq type='set' id='set-{self._counter}'><query xmlns='{ROSTER}'>{item}</query></iq>"))

    # ---- receiving --------------------------------------------------------------------------------------------------

    def _handle(self, el: Element) -> None:
        tag = str(el.tag)
        if tag == "{jabber:client}message":
            self._message(el)
        elif tag == "{jabber:client}iq":
            self._iq(el)

    def _message(self, el: Element) -> None:
        if el.get("type") == "error":
            raise Violation(f"{self.name}: bounced: {el.get('id')}")
        archived = el.find(f"{{{MAM}}}result")
        copy = el.find(f"{{{CARBONS}}}sent")
        if copy is None:
            copy = el.find(f"{{{CARBONS}}}received")
        inner = (
            el
            if archived is None and copy is None
            else el.find(".//{urn:xmpp:forward:0}forwarded/{jabber:client}message")
        )
        body = None if inner is None else inner.findtext(BODY)
        if inner is None or body is None:
            return
        sender, _, number = body.rpartition(" ")
        message = (sender, int(number))
        self.seen.add(message)
        delay = inner.find(DELAY)
        stamp = "" if delay is None else f" of {delay.get('stamp')}"
        how = "" if archived is None else " from the archive"
        how += "" if copy is None else " as a copy"
        self.history.append(f"seen {body} as {self._received}{stamp}{how}")
        if archived is not None:
            if archived.get("queryid") == self._reading:
                self.archived[self._reading.partition(" ")[2]].append(message)
            return
        in_room = inner.get("type") == "groupchat"
        if delay is None:
            self.live[ROOM if in_room else ""].append(message)
        if message in self._ledger.uncertain:
            return
        if message in self._stream:
            raise Violation(f"{self.name}: {body} came twice in one stream")
        self._stream.add(message)
        if delay is None:
            key = f"{sender} in the room" if in_room else sender
            if self._latest.get(key, 0) > message[1]:
                raise Violation(f"{self.name}: {body} came after {self._latest[key]}")
            self._latest[key] = message[1]

    def _iq(self, el: Element) -> None:
        if el.get("type") == "error":
            raise Violation(f"{self.name}: {el.get('id')} was refused: {[str(child.tag) for child in el.iter()]}")
        roster = el.find(f"{{{ROSTER}}}query")
        if roster is not None and el.get("type") in ("set", "result"):
            if el.get("id") == self._looking:
                self.looked = {item.get("jid") or "": item.get("name") or "" for item in roster}
            elif not (el.get("id") or "").startswith("look"):
                self.roster |= {item.get("jid") or "": item.get("name") or "" for item in roster}
        if el.get("type") in ("get", "set"):
            self.send(Stanza(f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'/>"))
            self.request()
            return
        waiting = self._pings.pop(el.get("id") or "", None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        fin = el.find(f"{{{MAM}}}fin")
        reading = self._readings.pop(el.get("id") or "", None)
        if fin is not None and reading is not None and not reading.done():
            last = fin.findtext(".//{http://jabber.org/protocol/rsm}last") or ""
            reading.set_result("" if fin.get("complete") == "true" else last)

    async def ping(self) -> None:
        """Wait until everything that the server has sent so far is here. Cancelled if the connection breaks."""
        self._counter += 1
        id_ = f"ping-{self._counter}"
        self._pings[id_] = future = asyncio.get_running_loop().create_future()
        self.send(Stanza(f"<iq type='get' id='{id_}'><ping xmlns='urn:xmpp:ping'/></iq>"))
        await future

    def look(self) -> None:
        """Ask for the roster, without believing the answer."""
        self.looked = None
        self._counter += 1
        self._looking = f"look-{self._counter}"
        self.send(Stanza(f"<iq type='get' id='{self._looking}'><query xmlns='{ROSTER}'/></iq>"))

    async def catch_up(self, since: str, archive: str = "") -> None:
        """Read the archive from a time on: one's own, or the room's."""
        after = ""
        self.archived[archive] = []
        self._counter += 1
        self._reading = f"{self._counter} {archive}"
        to = f" to='{archive}'" if archive else ""
        while True:
            page = f"<after>{after}</after>" if after else ""
            self._counter += 1
            id_ = f"mam-{self._counter}"
            self._readings[id_] = future = asyncio.get_running_loop().create_future()
            self.send(
                Stanza(
                    f"<iq type='set' id='{id_}'{to}><query xmlns='{MAM}' queryid='{self._reading}'>"
                    "<x xmlns='jabber:x:data' type='submit'>"
                    f"<field var='FORM_TYPE'><value>{MAM}</value></field>"
                    f"<field var='start'><value>{since}</value></field></x>"
                    f"<set xmlns='http://jabber.org/protocol/rsm'><max>200</max>{page}</set></query></iq>"
                )
            )
            after = await future
            if not after:
                return

    # ---- the check --------------------------------------------------------------------------------------------------

    def check(self, expected: list[Message], *, archive: bool) -> None:
        """Everything acknowledged to the account was seen; a device that has begun anew needs the archive for it."""
        if self.fresh and not archive:
            return
        missing = [message for message in expected if message not in self.seen]
        if missing:
            raise Violation(f"{self.name}: {len(missing)} acknowledged messages were not seen: {missing[:5]}")

    def check_archive(self, archive: str, expected: list[Message]) -> None:
        """An archive that was read has everything acknowledged, once."""
        found = self.archived.get(archive)
        if found is None:
            return
        missing = [message for message in expected if message not in found]
        twice = [message for message in set(found) - self._ledger.uncertain if found.count(message) > 1]
        if missing or twice:
            raise Violation(
                f"{self.name}: in the archive {archive} {missing[:5]} are missing, {twice[:5]} are there twice"
            )

    def check_order(self, archive: str, order: list[Message]) -> None:
        """What came live came in the order of the archive: all of a room, in an account's what one device sent.

        (Messages of two senders that arrive while an account is looked up for the first time may change places.)
        """
        place = {message: at for at, message in enumerate(order)}
        copies = Counter(order)
        latest: dict[str, Message] = {}
        for message in self.live[archive]:
            # one that a device sent again after it had forgotten its stream may be there twice: live it was either of them
            if copies[message] != 1:
                continue
            key = "" if archive else message[0]
            before = latest.setdefault(key, message)
            if place[before] > place[message]:
                raise Violation(f"{self.name}: {message} came after {before}, not so in the archive {archive}")
            latest[key] = message

    def check_roster(self) -> None:
        """What it was told of the roster is what the roster is."""
        if self.looked is not None and self.looked != self.roster:
            raise Violation(f"{self.name}: believes in the roster {self.roster}, which is {self.looked}")

    def checked(self) -> None:
        """Begin a new round."""
        self.seen.clear()
        for messages in self.live.values():
            messages.clear()
        self.archived.clear()
        self.fresh = False
        # a message of before the check must not come again either, but the last ones are enough to tell
        if len(self._stream) > 20_000:
            self._stream.clear()
