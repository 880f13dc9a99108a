"""The ways to other servers there are, and whose turn it is to look for one: few at a time, and nobody waits behind what
somebody else has asked for.

Opening a stream costs up to four questions to the DNS, sockets, a handshake, and half a minute where the other side is
silent; and whoever may send a stanza may name any domain. So the number at a time is bounded, in all and for each account.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from beamish.stream.s2s import Pair
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    from beamish.net.s2s_route import Route

NOBODY: Final = JID.of("", "localhost")
"""Who asks for what is no account's wish: resuming a stream, or looking whether a server is there."""


class Turn:
    """A place in the queue, of one route. `granted` is done when the route may begin."""

    __slots__ = ("asking", "by", "granted", "over")

    def __init__(self) -> None:
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asking: set[JID] = set()
        """In whose queues it is."""
        self.by: JID | None = None
        """At whose expense it was granted."""
        self.over = False


class Turns:
    """At most `most` streams are being opened at a time, `share` of them for one who asks; who asks take turns."""

    def __init__(self, most: int, share: int) -> None:
        self._most = most
        self._share = share
        self._opening = 0
        self._held: dict[JID, int] = {}
        self._queues: dict[JID, deque[Turn]] = {}
        self._next: OrderedDict[JID, None] = OrderedDict()
        """Those who ask and have not used up their share."""

    @property
    def opening(self) -> int:
        """How many streams are being opened."""
        return self._opening

    def wanted(self, who: JID) -> int:
        """How many streams somebody waits for, those that are being opened included."""
        return self._held.get(who, 0) + len(self._queues.get(who, ()))

    def join(self, turn: Turn, who: JID) -> None:
        """Somebody wants this stream; when others do too, it is opened as soon as it is any one's turn."""
        if turn.over or turn.by is not None or who in turn.asking:
            return
        turn.asking.add(who)
        self._queues.setdefault(who, deque()).append(turn)
        self._ready(who)
        self._grant()

    def done(self, turn: Turn) -> None:
        """The stream is open, or could not be opened, or nobody wants it any more."""
        if turn.over:
            return
        turn.over = True
        turn.granted.cancel()
        by = turn.by
        for who in turn.asking:
            if who != by and (queue := self._queues.get(who)) is not None:
                queue.remove(turn)
                self._tidy(who, queue)
        if by is None:
            return
        self._opening -= 1
        if left := self._held.pop(by) - 1:
            self._held[by] = left
        self._ready(by)
        self._grant()

    def _ready(self, who: JID) -> None:
        if who in self._queues and (who == NOBODY or self._held.get(who, 0) < self._share):
            self._next.setdefault(who)

    def _tidy(self, who: JID, queue: deque[Turn]) -> None:
        if not queue:
            del self._queues[who]
            self._next.pop(who, None)

    def _grant(self) -> None:
        while self._next and self._opening < self._most:
            who, _ = self._next.popitem(last=False)
            queue = self._queues[who]
            turn = queue.popleft()
            self._tidy(who, queue)
            for other in turn.asking:
                if other != who and (theirs := self._queues.get(other)) is not None:
                    theirs.remove(turn)
                    self._tidy(other, theirs)
            turn.asking = {who}
            turn.by = who
            self._opening += 1
            self._held[who] = self._held.get(who, 0) + 1
            self._ready(who)  # behind all others
            turn.granted.set_result(None)


_SECOND: Final = frozenset(("ac", "co", "com", "edu", "gob", "gov", "mil", "net", "org"))
"""Labels below which countries register names (`co.uk`, `com.br`), and which hardly anybody owns where they do not."""
_SECOND_OF: Final = {
    "at": ("gv", "or"),
    "au": ("asn", "id"),
    "br": ("art", "blog", "eco", "eng", "ind", "inf", "jus", "leg", "nom", "tv", "wiki"),
    "fr": ("asso", "gouv", "nom"),
    "id": ("biz", "desa", "go", "my", "or", "sch", "web"),
    "il": ("idf", "k12", "muni"),
    "in": ("firm", "gen", "ind", "nic", "res"),
    "jp": ("ad", "ed", "go", "gr", "lg", "ne", "or"),
    "ke": ("go", "info", "me", "mobi", "ne", "or", "sc"),
    "kr": ("go", "ne", "or", "pe", "re"),
    "nz": ("geek", "gen", "govt", "iwi", "kiwi", "maori", "school"),
    "pl": ("biz", "edu", "info", "waw"),
    "th": ("go", "in", "mi", "or"),
    "tr": ("av", "bel", "biz", "dr", "gen", "info", "k12", "name", "pol", "tel", "web"),
    "tw": ("club", "ebiz", "game", "idv"),
    "ua": ("in", "kharkov", "kiev", "kyiv", "lviv", "odesa", "odessa"),
    "uk": ("ltd", "me", "nhs", "plc", "police", "sch"),
    "za": ("law", "nom", "school", "web"),
}
"""What else single countries have."""


def family(domain: str) -> str:
    """The domain that somebody registered: below it, people have as many names as they like.

    That is the last two labels; three where the two are a country's and what it registers names below (`example.co.uk`),
    by a small list of these. Names that are given away below others (`duckdns.org`) are one family: anybody may have many.
    """
    labels = domain.rsplit(".", 3)
    if len(labels) < 3 or labels[-1].isdecimal():  # or an IP address, which is nobody's kin
        return domain
    second, country = labels[-2:]
    if len(country) == 2 and (second in _SECOND or second in _SECOND_OF.get(country, ())):
        return ".".join(labels[-3:])
    return f"{second}.{country}"


class Routes(dict[Pair, "Route"]):
    """The ways from our domains to others, by the pair; changed by `add` and `forget` alone.

    At most `most`, and once half of that is in use, at most a tenth of it to domains of one family.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._families: Counter[str] = Counter()
        self._to: dict[str, dict[str, Route]] = {}

    def full(self, remote: str) -> bool:
        """Whether there is no place for a way to a domain."""
        if len(self) < self._most // 2:
            return False
        return len(self) >= self._most or self._families[family(remote)] >= max(1, self._most // 10)

    def add(self, route: Route) -> None:
        """Know a way that was not known."""
        self[route.local, route.remote] = route
        self._families[family(route.remote)] += 1
        self._to.setdefault(route.remote, {})[route.local] = route

    def forget(self, local: str, remote: str) -> None:
        """Know a way no longer."""
        del self[local, remote]
        kin = family(remote)
        self._families[kin] -= 1
        if not self._families[kin]:
            del self._families[kin]
        ways = self._to[remote]
        del ways[local]
        if not ways:
            del self._to[remote]

    def to(self, remote: str) -> Collection[Route]:
        """The ways to a domain, from each of ours."""
        return self._to.get(remote, {}).values()
