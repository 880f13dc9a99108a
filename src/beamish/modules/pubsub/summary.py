"""Texts to read for payloads that this server understands (XEP-0060 §12.7, `pubsub#include_body`)."""

from __future__ import annotations

from typing import Final

from beamish.xmpp.xml import from_bytes, local_name, namespace_of

ATOM: Final = "http://www.w3.org/2005/Atom"
MOST: Final = 2000
"""Characters of a summary."""

_FIELDS: Final = {
    ATOM: ("title", "summary", "content"),
    "http://jabber.org/protocol/tune": ("artist", "title", "source"),
    "http://jabber.org/protocol/mood": ("text",),
    "http://jabber.org/protocol/activity": ("text",),
    "http://jabber.org/protocol/geoloc": ("text", "locality", "region", "country"),
}
_NICK: Final = "http://jabber.org/protocol/nick"


def summary(payload: bytes) -> str:
    """What a payload says in plain text, "" if its format is not known here or says nothing."""
    if not payload:
        return ""
    try:
        el = from_bytes(payload)
    except ValueError:
        return ""
    namespace = namespace_of(el)
    if namespace == _NICK:
        return (el.text or "")[:MOST]
    names = _FIELDS.get(namespace)
    if names is None:
        return ""
    texts = []
    for name in names:
        child = el.find(f"{{{namespace}}}{name}")
        text = "" if child is None else "".join(map(str, child.itertext())).strip()
        if text and text not in texts:
            texts.append(text)
    if not texts and len(el) and namespace != ATOM:
        texts = [local_name(el[0]).replace("_", " ")]  # a mood or an activity without words
    return "\n".join(texts)[:MOST]
