"""One account of another server, from its first element in the file to the moment when somebody can log in to it.

What it has is given to the modules whose business it is as its owner's client would give it: by IQs of a session that nobody
else sees, so that their checks, limits and caches hold. The account itself is made last, in one transaction with the end of
the note that an import has begun: it exists only if all it has is committed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from copy import deepcopy
from typing import TYPE_CHECKING, Final

from lxml import etree

from beamish.core.clock import parse_stamp
from beamish.core.events import Context
from beamish.core.kernel import new_id
from beamish.core.later import settled
from beamish.core.roster_xml import ITEM, contact_of
from beamish.core.services import AccountsService, PresenceService, RosterItem, RosterService, Skipped, StoredMessages
from beamish.core.sessions import Link, Session
from beamish.modules.portable import nodes
from beamish.modules.portable.credentials import CREDENTIALS, keys_of
from beamish.modules.portable.reader import PIE, Begin, Piece, Place
from beamish.storage.api import Cursor
from beamish.stream.sasl import Algorithm, ScramKeys
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError, StreamError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import IQ, AddressMalformed, SenderMalformed, Stanza, take
from beamish.xmpp.xml import Element, make, to_bytes

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

BEGUN: Final = "portable_begun"
"""The table of accounts whose import has begun and not ended."""
_GROUP: Final = f"{{{ns.ROSTER}}}group"
_PRIVATE: Final = "{jabber:iq:private}query"
_PRIVACY: Final = "{jabber:iq:privacy}"
_DELAY: Final = f"{{{ns.DELAY}}}delay"
_ARCHIVED: Final = "{urn:xmpp:mam:tmp}archived"
_STANZA_ID: Final = "{urn:xmpp:sid:0}stanza-id"
_ANSWER_SECONDS: Final = 60.0
"""Modules answer when what they were given is committed."""
_TOGETHER: Final = 64
"""Contacts that share a commit."""
_REQUESTS: Final = 1_000
"""Requests to subscribe of one account that are looked at."""


class Refused(Exception):
    """A module did not take something; the text says why."""


class _Answers:
    """The outlet of the session in whose name things are stored: it takes answers."""

    def __init__(self) -> None:
        self.awaited: tuple[str, asyncio.Future[Stanza]] | None = None
        """The id of the request, and where its answer goes."""

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """Hand over the answer; all else is nobody's."""
        if self.awaited is not None and stanza.id == self.awaited[0] and not self.awaited[1].done():
            self.awaited[1].set_result(stanza)
        return True

    def close(self, error: StreamError | None, reason: str) -> None:
        """There is no stream."""

    def last_words(self, data: bytes) -> None:
        """There is no stream."""

    def survives(self, link: Link, reason: str) -> bool:
        """There is no connection."""
        return False


class Taking:
    """The account that is being taken. `tally` counts what was taken, by kind; `told` hears what was not."""

    def __init__(
        self,
        kernel: Kernel,
        begin: Begin,
        user: JID,
        usable: AbstractSet[Algorithm],
        tally: Counter[str],
        told: Callable[[Skipped], None],
        dry: bool,
    ) -> None:
        self._kernel = kernel
        self._begin = begin
        self.user = user
        self._usable = usable
        self._tally = tally
        self._told = told
        self._dry = dry
        self._keys: dict[Algorithm, ScramKeys] = {}
        self._nodes = nodes.Nodes()
        self._privacy: list[tuple[Place, Element]] = []
        self._archived = 0
        self._requests = 0
        self._answers = _Answers()
        self._session = Session(JID.of(user.local, user.domain, "import"), self._answers)

    def _skip(self, place: Place, reason: str) -> None:
        self._told(Skipped(place.file, place.line, str(self.user), reason))

    async def piece(self, piece: Piece) -> None:
        """Take one child of the user, or one message."""
        el, place = piece.el, piece.place
        tag = str(el.tag)
        if piece.within == "offline":
            await self._attempt(place, "offline messages", "an offline message", self._offline(el))
        elif piece.within == "archive":
            if not self._archived:
                self._skip(place, "the archive is not taken (archives of other servers cannot be)")
            self._archived += 1
        elif tag == CREDENTIALS:
            self._credentials(el, place)
        elif tag == f"{{{ns.ROSTER}}}query":
            await self._roster(el, place)
        elif tag == "{vcard-temp}vCard":
            if len(el):
                await self._attempt(place, "vCards", "the vCard", self._ask("set", _copy(el)))
        elif tag == _PRIVATE:
            for child in el:
                asked = make(_PRIVATE, None, _copy(child))
                await self._attempt(place, "private data", f"private data {child.tag}", self._ask("set", asked))
        elif tag == f"{_PRIVACY}query":
            self._privacy.append((place, deepcopy(el)))
        elif tag == "{urn:xmpp:blocking}blocklist":
            if len(el):
                asked = make("{urn:xmpp:blocking}block", None, *(_copy(item) for item in el))
                await self._attempt(place, "lists of the blocked", "the list of the blocked", self._ask("set", asked))
        elif tag in (f"{{{ns.CLIENT}}}presence", f"{{{PIE}}}presence"):
            # Prosody (0.12) leaves out the namespace
            await self._attempt(place, "requests to subscribe", "a request to subscribe", self._request(el))
        elif tag == f"{{{nodes.OWNER}}}pubsub":
            for left in self._nodes.configured(el, place, str(self.user)):
                self._skip(place, f"not taken: {left}")
        elif tag == f"{{{nodes.PUBSUB}}}pubsub":
            self._nodes.filled(el, place)
        else:
            self._skip(place, f"not taken: the element {tag}")

    async def end(self) -> None:
        """All is there: take what needs the rest, then make the account."""
        for place, query in self._privacy:
            await self._lists(place, query)
        for node in self._nodes:
            if not node.transient:
                await self._node(node)
        if self._dry:
            await self._account(lambda password: _nothing(), lambda keys: _nothing())
            return
        accounts = self._kernel.service(AccountsService)
        await self._account(
            lambda password: accounts.add(self.user, password, self._finished),
            lambda keys: accounts.adopt(self.user, keys, self._finished),
        )

    def _finished(self, c: Cursor) -> None:
        c.run(f"DELETE FROM {BEGUN} WHERE jid = ?", str(self.user))

    async def _attempt(self, place: Place, kind: str, what: str, work: Awaitable[None]) -> bool:
        try:
            await work
        except (Refused, StanzaError, ValueError) as exc:
            self._skip(place, f"{what} was not taken: {_reason(exc)}")
            return False
        self._tally[kind] += 1
        return True

    # ---- who may log in ---------------------------------------------------------------------------------------------

    def _credentials(self, el: Element, place: Place) -> None:
        try:
            keys = keys_of(el)
        except ValueError as exc:
            self._skip(place, str(exc))
            return
        if self._keys.setdefault(keys.algorithm, keys) != keys:
            self._skip(place, f"second keys for SCRAM-{keys.algorithm}; the first count")

    async def _account(
        self,
        add: Callable[[str], Awaitable[None]],
        adopt: Callable[[list[ScramKeys]], Awaitable[None]],
    ) -> None:
        """Make the account: with its password, else with its keys, else so that it needs a new password."""
        place = self._begin.place
        if self._begin.password:
            try:
                await add(self._begin.password)
            except StanzaError as exc:
                if exc.condition is not Condition.NOT_ACCEPTABLE:
                    raise
                self._skip(place, f"needs a new password: {_reason(exc)}")
            else:
                self._tally["accounts"] += 1
                return
        elif self._keys:
            common = self._kernel.service(AccountsService).algorithms(self.user.domain) & self._usable
            if common & self._keys.keys():
                await adopt(list(self._keys.values()))
                self._tally["accounts"] += 1
                return
            had = ", ".join(f"SCRAM-{algorithm}" for algorithm in self._keys)
            self._skip(
                place, f"needs a new password: with keys for {had} only, no mechanism would be left for all accounts"
            )
        else:
            self._skip(place, "needs a new password: the file has none, and no keys that can be used")
        await adopt([])
        self._tally["accounts"] += 1

    # ---- contacts ---------------------------------------------------------------------------------------------------

    async def _roster(self, query: Element, place: Place) -> None:
        waiting = []
        for el in query:
            if el.tag != ITEM:
                self._skip(place, f"not taken: the element {el.tag}")
                continue
            waiting.append(self._attempt(place, "contacts", f"the contact {el.get('jid')}", self._contact(el)))
            if len(waiting) >= _TOGETHER:
                await asyncio.gather(*waiting)
                waiting = []
        await asyncio.gather(*waiting)

    async def _contact(self, el: Element) -> None:
        contact = contact_of(el)
        subscription = el.get("subscription", "none")
        if contact == self.user or subscription not in ("none", "to", "from", "both"):
            raise Refused(f"with the subscription {subscription!r}")
        limits = self._kernel.limits
        name = el.get("name", "")
        groups = tuple(
            dict.fromkeys(filter(None, ("".join(map(str, each.itertext())) for each in el.iterfind(_GROUP))))
        )
        if (
            len(name.encode()) > limits.roster_name_bytes
            or len(groups) > limits.roster_groups_per_item
            or any(len(group.encode()) > limits.roster_group_bytes for group in groups)
        ):
            raise Refused("its name or groups are too long")
        if self._dry:
            return
        rosters = self._kernel.service(RosterService)
        item = (await settled(rosters.roster(self.user))).get(contact) or RosterItem(contact)
        to = subscription in ("to", "both")
        entry = item.with_(
            name=name,
            groups=groups,
            to=to,
            from_=subscription in ("from", "both"),
            pending_out=el.get("ask") == "subscribe" and not to,
            pending_in=item.pending_in and subscription not in ("from", "both"),
            approved=el.get("approved") in ("true", "1"),
            listed=True,
        )
        await rosters.change(self.user, entry, push=False)

    async def _request(self, el: Element) -> None:
        if el.get("type") != "subscribe":
            raise Refused("it is none")
        self._requests += 1
        if self._requests > _REQUESTS:
            raise Refused("there are too many")
        request = _stanza(el, self.user)
        if not self._dry:
            await self._kernel.service(PresenceService).keep_request(self.user, request)

    # ---- messages ---------------------------------------------------------------------------------------------------

    async def _offline(self, el: Element) -> None:
        if el.tag != f"{{{ns.CLIENT}}}message":
            raise Refused("it is none")
        message = _stanza(el, self.user)
        if message.sender is None:
            raise Refused("it says not from whom")
        stamps = list(message.el.iterfind(_DELAY))
        ours = [each for each in stamps if each.get("from") in (self._begin.host, self.user.domain, str(self.user))]
        found = (ours or stamps)[-1:]
        if not found:
            raise Refused("it says not when it came")
        when = parse_stamp(found[0].get("stamp", ""))
        ids = [each for each in message.el.iterfind(_STANZA_ID) if each.get("by") == str(self.user)]
        # ids of an archive that is not here, and the stamp, which is put in anew
        message = message.without(*found, *ids, *message.el.iterfind(_ARCHIVED)).detached()
        if len(message.to_wire()) > self._kernel.limits.stanza_bytes:
            raise Refused("it is larger than stanzas may be")
        store = self._kernel.service_or_none(StoredMessages)
        if store is None:
            raise Refused("there is no module offline")
        if not self._dry:
            await store.put(self.user, message, when)

    # ---- what is asked for as a client would ------------------------------------------------------------------------

    async def _lists(self, place: Place, query: Element) -> None:
        for el in query.iterfind(f"{_PRIVACY}list"):
            asked = make(f"{_PRIVACY}query", None, _copy(el))
            await self._attempt(place, "privacy lists", f"the privacy list {el.get('name')!r}", self._ask("set", asked))
        default = query.find(f"{_PRIVACY}default")
        if default is not None and default.get("name"):
            asked = make(f"{_PRIVACY}query", None, _copy(default))
            await self._attempt(place, "default privacy lists", "the default privacy list", self._ask("set", asked))

    async def _node(self, node: nodes.Node) -> None:
        what = f"the node {node.name!r}"
        if not await self._attempt(node.place, "nodes", what, self._configured(node)):
            return
        for count, request in nodes.publications(node):
            try:
                await self._ask("set", request)
                self._tally["items of nodes"] += count
            except Refused:
                for item in request[0]:
                    one = nodes.publication(node.name, [item])
                    label = f"the item {item.get('id')!r} of {what}"
                    await self._attempt(node.place, "items of nodes", label, self._ask("set", one))

    async def _configured(self, node: nodes.Node) -> None:
        try:
            await self._made(node.name, node.fields)
        except Refused as exc:
            self._skip(node.place, f"the configuration of the node {node.name!r} is taken in part only: {exc}")
            await self._made(node.name, nodes.cautious(node.fields))

    async def _made(self, name: str, fields: dict[str, list[str]]) -> None:
        try:
            await self._ask("set", nodes.creation(name, fields))
        except Refused as exc:
            if not str(exc).startswith(Condition.CONFLICT.value):
                raise
            # another form of the same thing, a vCard or old bookmarks, has made it
            if fields:
                await self._ask("set", nodes.configuration(name, fields))

    async def _ask(self, type_: str, payload: Element) -> None:
        """Send an IQ in the owner's name. Raises `Refused`."""
        if self._dry:
            return
        content = to_bytes(payload)
        if len(content) > self._kernel.limits.stanza_bytes:
            raise Refused(f"it is larger than stanzas may be ({self._kernel.limits.stanza_bytes} bytes)")
        stanza = Stanza.build(IQ, type_, id=new_id(), sender=self._session.jid, content=content)
        waiter: asyncio.Future[Stanza] = asyncio.get_running_loop().create_future()
        self._answers.awaited = stanza.id, waiter
        rest = self._kernel.iq.handle(Context(stanza, self._session))
        if rest is not None:
            await rest
        try:
            answer = await asyncio.wait_for(waiter, _ANSWER_SECONDS)
        except TimeoutError:
            raise Refused("nobody answered") from None
        if answer.type != "result":
            error = answer.el.find(f"{{{ns.CLIENT}}}error")
            raise Refused(_told_by(error))


async def _nothing() -> None:
    """For a trial."""


def _told_by(error: Element | None) -> str:
    """The condition and the text of an error."""
    if error is None or not len(error):
        return "error"
    space = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
    named = next((str(child.tag).removeprefix(space) for child in error if str(child.tag).startswith(space)), "error")
    text = error.findtext(f"{space}text")
    return f"{named} ({text})" if text else named


def _reason(exc: Exception) -> str:
    if isinstance(exc, StanzaError):
        return exc.text or exc.condition.value
    return str(exc)


def _copy(el: Element) -> Element:
    """A copy that stands for itself, without the file's other namespaces."""
    copy = deepcopy(el)
    copy.tail = None
    etree.cleanup_namespaces(copy)
    return copy


def _stanza(el: Element, user: JID) -> Stanza:
    """A stanza in a file, for the user. Raises `ValueError`."""
    try:
        found = take(_copy(el))
    except (AddressMalformed, SenderMalformed, JidMalformed) as exc:
        raise ValueError(str(exc)) from None
    return found if found.to is not None and found.to.bare == user else found.replace(to=user)
