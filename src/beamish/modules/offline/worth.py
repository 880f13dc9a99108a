"""Which messages are worth keeping for later (XEP-0160 §3, XEP-0334 §4)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from beamish.core.content import Holds, survey
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

NEVER: Final = frozenset(("groupchat", "headline", "error"))
"""Types that are not stored (XEP-0160 §3)."""

_HINTS: Final = "{urn:xmpp:hints}"
_BODY: Final = f"{{{ns.CLIENT}}}body"
_THREAD: Final = f"{{{ns.CLIENT}}}thread"
_DELAY: Final = f"{{{ns.DELAY}}}delay"
_NO_STORE: Final = _HINTS + "no-store"
_HAS_BODY: Final = int(Holds.BODY)
_STANZA_ID: Final = "{urn:xmpp:sid:0}stanza-id"
_NO_CONTENT: Final = (
    "{http://jabber.org/protocol/chatstates}",
    "{urn:xmpp:sid:0}",
    "{urn:xmpp:carbons:2}",
    _HINTS,
    f"{{{ns.DELAY}}}",
    "{urn:xmpp:receipts}received",
)
"""What accompanies content or is of use only at once, and receipts, which are no messages; as beginnings of tags."""
_RECEIPT: Final = b"urn:xmpp:receipts"
_COMBINATIONS: Final = 1_024
_FEW: Final = 16
"""How many combinations of children are remembered with what they mean, and of how many children. Peers choose them."""


def worth_keeping(stanza: Stanza, domain: str) -> Stanza | None:
    """The message as it is to be stored, or None for one that means nothing later.

    Worth keeping are a body, or anything else but what merely accompanies content (`_NO_CONTENT`, a thread). `no-store`
    forbids it; `no-permanent-store` is about archives and does not. Stamps that claim to be from `domain`, ours,
    are forged and taken out (XEP-0203 §5).
    """
    tags = stanza.known_tags
    if tags is not None and _DELAY not in tags:  # no tree need be made
        means, forbidden = _verdict(tags) if len(tags) <= _FEW else _verdict.__wrapped__(tags)
        return stanza if not forbidden and (means or survey(stanza) & _HAS_BODY) else None
    worth = False
    forged = []
    for child in stanza.el:
        tag = child.tag
        if tag == _BODY:
            worth = worth or bool(child.text) or len(child) > 0
        elif tag == _DELAY:
            if is_own_delay(child, domain):
                forged.append(child)
        elif tag == _NO_STORE:
            return None
        else:
            worth = worth or _means_something(tag)
    if not worth:
        return None
    return stanza.without(*forged) if forged else stanza


def archived_receipt(stanza: Stanza, account: JID) -> bool:
    """A receipt (XEP-0184) that the account's archive has: an error would tell its sender less than the truth."""
    return _RECEIPT in stanza.body and any(
        child.tag == _STANZA_ID and child.get("by") == account for child in stanza.el
    )


def is_own_delay(child: Any, domain: str) -> bool:
    """Whether an element is a stamp that says it is from this domain."""
    return child.tag == _DELAY and (child.get("from") or "").lower() == domain


@lru_cache(maxsize=_COMBINATIONS)
def _verdict(tags: tuple[str, ...]) -> tuple[bool, bool]:
    """What the tags of a message's children say: whether it is worth keeping without a body, whether it must not be kept."""
    return any(_means_something(tag) for tag in tags), _NO_STORE in tags


def _means_something(tag: str) -> bool:
    """Whether a child that is neither a body nor a stamp makes a message worth keeping."""
    return tag == _HINTS + "store" or (tag not in (_THREAD, _BODY) and not tag.startswith(_NO_CONTENT))
