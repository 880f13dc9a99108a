"""lxml's pull parser as streams use it, and what its failures mean."""

from __future__ import annotations

from typing import Any, Final, cast

from lxml import etree

from beamish.stream.gate import encoding_error, refuse, restricted
from beamish.stream.items import StreamHeader
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.xml import Element

_EVENTS: Final = ("start", "end", "start-ns", "comment", "pi")
_FATAL: Final = 3


def too_many_names() -> StreamError:
    """The error for whoever invents names without end."""
    return refuse(StreamErrorCondition.POLICY_VIOLATION, "too many element or attribute names not seen before")


def new_pull() -> etree.XMLPullParser:
    """A parser for one stream; it takes 10 KiB."""
    return etree.XMLPullParser(
        events=_EVENTS,
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        huge_tree=False,
        load_dtd=False,
        remove_blank_text=False,
        collect_ids=False,  # libxml2 would keep every xml:id
    )


def header_of(root: Element) -> StreamHeader:
    """The stream header that a document's root element is. Raises `StreamError` if it is none (RFC 6120 §4.8, §11.1)."""
    if cast("Any", root.getroottree().docinfo).doctype:
        raise restricted()
    if root.tag == f"{{{ns.STREAM}}}stream":
        return StreamHeader(
            to=root.get("to", ""),
            sender=root.get("from", ""),
            version=root.get("version", ""),
            lang=root.get(ns.XML_LANG, ""),
            id=root.get("id", ""),
            content_ns=root.nsmap.get(None, ""),
        )
    if str(root.tag).endswith("}stream"):
        raise refuse(StreamErrorCondition.INVALID_NAMESPACE, f"the stream's namespace is {ns.STREAM}")
    raise refuse(StreamErrorCondition.BAD_FORMAT, "the first element of a stream is <stream:stream>")


def first_failure(pull: etree.XMLPullParser) -> int:
    """The number of the error that made libxml2 give up, 0 if it did not. What it forgives, this server may forgive as
    well: forbidden declarations of prefixes are left out of what is relayed."""
    return next((entry.type for entry in pull.feed_error_log if entry.level >= _FATAL), 0)


def malformed(code: int) -> StreamError:
    """The stream error for a number of `etree.ErrorTypes` (RFC 6120 §4.9.3, §11.1)."""
    codes = cast("Any", etree.ErrorTypes)
    if code in (codes.ERR_UNDECLARED_ENTITY, codes.WAR_UNDECLARED_ENTITY, codes.ERR_ENTITY_PE_INTERNAL):
        return restricted()
    if code in (codes.ERR_INVALID_ENCODING, codes.ERR_UNSUPPORTED_ENCODING, codes.ERR_UNKNOWN_ENCODING):
        return encoding_error()
    return refuse(StreamErrorCondition.NOT_WELL_FORMED)
