"""Photos in vCards (XEP-0153) and avatars in personal eventing (XEP-0084): the same picture, written in two ways. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from beamish.modules.vcard.convert import TEMP
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, escape_attr, escape_text, make

DATA: Final = "urn:xmpp:avatar:data"
METADATA: Final = "urn:xmpp:avatar:metadata"
UPDATE: Final = "vcard-temp:x:update"

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture: its bytes and media type, and the SHA-1 by which both protocols know it."""

    data: bytes
    type: str
    hash: str

    @classmethod
    def of(cls, data: bytes, said: str = "") -> Photo:
        """`said` is the type that was claimed; what the bytes say comes first (XEP-0153 §5)."""
        return cls(data, type_of(data) or said or "image/png", hashlib.sha1(data, usedforsecurity=False).hexdigest())

    def to_vcard(self) -> Element:
        """The `<PHOTO/>` of a vCard."""
        binval = make(f"{{{TEMP}}}BINVAL", None, base64.b64encode(self.data).decode())
        return make(f"{{{TEMP}}}PHOTO", None, make(f"{{{TEMP}}}TYPE", None, self.type), binval)

    def to_data(self) -> bytes:
        """The payload of the data node (XEP-0084 §4.2.1)."""
        return f"<data xmlns='{DATA}'>{base64.b64encode(self.data).decode()}</data>".encode()

    def to_metadata(self) -> bytes:
        """The payload of the metadata node (XEP-0084 §4.2.2)."""
        info = f"<info id='{self.hash}' bytes='{len(self.data)}' type='{escape_attr(self.type)}'/>"
        return f"<metadata xmlns='{METADATA}'>{info}</metadata>".encode()


def type_of(data: bytes) -> str:
    """The media type that the first bytes tell, "" for none that we know."""
    for magic, type_ in _MAGIC:
        if data.startswith(magic):
            return type_
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def decode(text: str) -> bytes | None:
    """Base64 with any white space (XEP-0153 §4.6); None if it is none, or nothing."""
    try:
        return base64.b64decode("".join(text.split()), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def from_vcard(card: Element) -> tuple[Photo | None, Element | None]:
    """The photo that a vCard holds, and the `<PHOTO/>` that it is in."""
    for el in card.iterfind(f"{{{TEMP}}}PHOTO"):
        data = decode(el.findtext(f"{{{TEMP}}}BINVAL") or "")
        if data is not None:
            return Photo.of(data, (el.findtext(f"{{{TEMP}}}TYPE") or "").strip()[:128]), el
    return None, None


def info_of(metadata: Element) -> tuple[str, str] | None:
    """Hash and type of the avatar that is kept in the data node (XEP-0398 §3.1: the one without a `url`)."""
    for info in metadata.iterfind(f"{{{METADATA}}}info"):
        if info.get("url") is None and info.get("id"):
            return info.get("id", ""), info.get("type", "")[:128]
    return None


def announce(presence: Stanza, hash: str) -> Stanza:
    """An available presence with the hash of the user's photo, "" for none (XEP-0398 §4).

    One that says that the user has no photo to show (an empty `<photo/>`) is left as it is, and so is one that says
    something else when there is nothing to put in its place.
    """
    x = presence.child(f"{{{UPDATE}}}x") if presence.body != b"/>" else None
    photo = x.find(f"{{{UPDATE}}}photo") if x is not None else None
    said = (photo.text or "").strip() if photo is not None else ""
    if not hash or (photo is not None and (not said or said.lower() == hash)):
        return presence
    if x is not None:
        presence = presence.without(x)
    return presence.with_child(update(hash))


def replace(presence: Stanza, hash: str) -> Stanza | None:
    """The presence of a session after the photo has changed ("": it was removed); None if it stays as it is."""
    x = presence.child(f"{{{UPDATE}}}x") if presence.body != b"/>" else None
    said = x.findtext(f"{{{UPDATE}}}photo") if x is not None else None
    if (said is not None and not said.strip()) or (said or "").strip().lower() == hash:
        return None  # a client that shows no photo, or has told the new one by itself
    if x is not None:
        presence = presence.without(x)
    return presence.with_child(update(hash))


def update(hash: str) -> bytes:
    """The `<x/>` of XEP-0153."""
    return f"<x xmlns='{UPDATE}'><photo>{escape_text(hash)}</photo></x>".encode()
