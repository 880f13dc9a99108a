"""XEP-0227 files as a row of events, read piece by piece: what is in memory at a time is one child of one user, never a file.

Files come from elsewhere, so nothing in them makes this process do anything: there are no document types and so no entities,
nothing is fetched, and XInclude reaches only files in the directory of the first one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from lxml import etree

from beamish.xmpp.xml import Element

PIE: Final = "urn:xmpp:pie:0"
ARCHIVE: Final = f"{{{PIE}#mam}}archive"
OFFLINE: Final = f"{{{PIE}}}offline-messages"
INCLUDE: Final = "{http://www.w3.org/2001/XInclude}include"
PIECE_BYTES: Final = 64 << 20
"""Largest child of a user that is read, in bytes: the data of all nodes is one (offline messages are one each)."""
DEPTH: Final = 5
"""Files that include one another: the format has three, and a child of a user may be a file, too."""
_CHUNK: Final = 1 << 16
_REST: Final = "the rest of the file is not read"
"""Nobody can name the accounts that are in there."""
_PROLOG: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?+(?:<\?xml(?P<declared>[^?]*+)\?>)?+"
    rb"(?:\s++|<\?(?!xml)(?:[^?]|\?(?!>))*+\?>|<!--(?:[^-]|-(?!-))*+-->)*+<[A-Za-z_:]"
)
_ENCODING: Final = re.compile(rb"encoding\s*=\s*[\"']([^\"']*)")

_CONTAINERS: Final = {
    ("", f"{{{PIE}}}server-data"): "server-data",
    ("", f"{{{PIE}}}host"): "host",
    ("server-data", f"{{{PIE}}}host"): "host",
    ("host", f"{{{PIE}}}user"): "user",
    ("user", OFFLINE): "offline",
    ("user", ARCHIVE): "archive",
}
"""What is gone into, by what it is in; everything else is a piece."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Begin:
    """A user begins."""

    place: Place
    host: str
    name: str
    password: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A child of a user, or (`within` is `offline` or `archive`) one message; in `host` or `server-data`, something unknown.

    The element is only good until the next event is asked for.
    """

    place: Place
    within: str
    el: Element


@dataclass(frozen=True, slots=True)
class End:
    """The user is complete."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A file, or what is left of it, cannot be read. A user that has begun and not ended is incomplete."""

    place: Place
    reason: str


Event: TypeAlias = Begin | Piece | End | Broken


class _Damaged(Exception):
    """The rest of a file cannot be read."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def read(path: Path) -> Iterator[Event]:
    """What a file and those that it includes hold, in order."""
    return _Reader(path).file(path, "", "", ())


class _Reader:
    def __init__(self, first: Path) -> None:
        self._folder = first.resolve().parent

    def file(self, path: Path, within: str, host: str, above: tuple[Path, ...]) -> Iterator[Event]:
        try:
            yield from self._parsed(path, within, host, (*above, path.resolve()))
        except _Damaged as exc:
            yield Broken(Place(str(path), exc.line), str(exc))
        except OSError as exc:
            yield Broken(Place(str(path), 0), f"cannot be read: {exc.strerror or exc}")

    def _parsed(self, path: Path, within: str, host: str, files: tuple[Path, ...]) -> Iterator[Event]:
        stack = [within]
        inside = since = 0
        parser = etree.XMLPullParser(
            events=("start", "end"),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            collect_ids=False,
            remove_comments=True,
            remove_pis=True,
        )
        with path.open("rb") as source:
            chunk = source.read(_CHUNK)
            _check_prolog(chunk)
            more = True
            while more:
                error: etree.XMLSyntaxError | None = None
                try:
                    if chunk:
                        parser.feed(chunk)
                    else:
                        more = False
                        parser.close()
                except etree.XMLSyntaxError as exc:
                    error = exc  # what comes before it counts
                since += len(chunk)
                for event, found in parser.read_events():
                    el = cast("Element", found)
                    if event == "start":
                        kind = None if inside else _CONTAINERS.get((stack[-1], str(el.tag)))
                        if kind is None:
                            inside += 1
                            continue
                        stack.append(kind)
                        if kind == "host":
                            host = el.get("jid", "")
                        elif kind == "user":
                            yield Begin(_place(path, el), host, el.get("name", ""), el.get("password"))
                        continue
                    if inside > 1:
                        inside -= 1
                        continue
                    if inside == 1:
                        inside = 0
                        if not stack[-1]:
                            raise _Damaged(_line(el), f"no data of {PIE}: the file begins with {el.tag}")
                        if el.tag == INCLUDE and stack[-1] in ("server-data", "host", "user"):
                            yield from self._included(path, el, stack[-1], host, files)
                        else:
                            yield Piece(_place(path, el), stack[-1], el)
                    elif stack.pop() == "user":
                        yield End()
                    _let_go(el)
                    since = 0
                if error is not None:
                    raise _Damaged(error.lineno or 0, f"not well-formed: {error.msg}; {_REST}")
                if since > PIECE_BYTES:
                    raise _Damaged(0, f"one element has more than {PIECE_BYTES >> 20} MiB; {_REST}")
                chunk = source.read(_CHUNK)

    def _included(self, path: Path, el: Element, within: str, host: str, files: tuple[Path, ...]) -> Iterator[Event]:
        """XEP-0227 §5: a relative reference, as it is; no other kind."""
        href = el.get("href", "")
        parts = urlsplit(href)
        place = _place(path, el)
        if el.get("parse") is not None or el.get("xpointer") is not None:
            yield Broken(place, f"this kind of inclusion is not done: {href!r}")
            return
        if not parts.path or parts.scheme or parts.netloc or parts.query or parts.fragment:
            yield Broken(place, f"only files beside this one are included, not {href!r}")
            return
        try:
            target = path.parent / unquote(parts.path)
            real = target.resolve()
        except (OSError, ValueError, RuntimeError):
            yield Broken(place, f"there is no such file: {href!r}")
            return
        if not real.is_relative_to(self._folder) or not real.is_file():
            yield Broken(place, f"no file in the directory of the first one: {href!r}")
        elif real in files or len(files) >= DEPTH:
            yield Broken(place, f"files include one another too deeply: {href!r}")
        else:
            yield from self.file(target, within, host, files)


def _check_prolog(head: bytes) -> None:
    """Before the parser sees anything: UTF-8, and no document type (which is where entities are made)."""
    found = _PROLOG.match(head)
    if found is None:
        if b"<!DOCTYPE" in head:
            raise _Damaged(0, "a document type is not allowed")
        raise _Damaged(0, "this is not XML in UTF-8")
    encoding = _ENCODING.search(found["declared"] or b"")
    if encoding is not None and encoding[1].lower() not in (b"utf-8", b"us-ascii"):
        raise _Damaged(1, "only UTF-8 is read")


def _place(path: Path, el: Element) -> Place:
    return Place(str(path), _line(el))


def _line(el: Element) -> int:
    return cast("int | None", el.sourceline) or 0


def _let_go(el: Element) -> None:
    """Free an element that was dealt with, and those before it; an empty one stays for the parser to go on at."""
    el.clear(keep_tail=True)  # type: ignore[call-arg]
    parent = el.getparent()
    if parent is not None:
        while el.getprevious() is not None:
            del parent[0]
