"""Which messages belong into an archive (XEP-0313 §6.1.1, XEP-0334), and whose ids in them are forged (XEP-0359 §3)."""

from __future__ import annotations

from typing import Final

from beamish.core.content import STANZA_ID_TAG
from beamish.core.content import Holds as H
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import Stanza

NEVER_TYPES: Final = frozenset(("groupchat", "headline", "error"))
"""Rooms have archives of their own; headlines and errors are of the moment. Unknown types are normal (RFC 6121 §5.2.2)."""
REFUSED: Final = int(H.NO_STORE | H.NO_PERMANENT_STORE | H.COPY | H.ARCHIVE_RESULT)
WORTH: Final = int(
    H.BODY | H.ENCRYPTED | H.RECEIPT | H.MARKER | H.REACTION | H.RETRACTION | H.CALL | H.INVITATION | H.FILE | H.STORE
)


def belongs(type_: str, content: int) -> bool:
    """Whether a message of this type and content (`core.content.survey`) is archived, if its owner wants that at all."""
    return type_ not in NEVER_TYPES and bool(content & WORTH) and not content & REFUSED


def without_forged_ids(stanza: Stanza, archive: JID) -> Stanza:
    """The stanza without ids that claim to be from this archive; the stanza itself if there are none."""
    forged = [child for child in stanza.el.iterfind(STANZA_ID_TAG) if _is_by(child.get("by", ""), archive)]
    return stanza.without(*forged) if forged else stanza


def _is_by(text: str, archive: JID) -> bool:
    try:
        return JID.parse(text) == archive
    except JidMalformed:
        return False
