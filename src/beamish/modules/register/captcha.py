"""XEP-0158: challenges for those who register: an image with letters (`ocr`), or a question (`qa`).

The image is drawn here, warped and speckled, as a PNG of one bit a pixel; it costs some milliseconds and at most 8 KiB
(XEP-0231 §2.1). It keeps simple robots out and no others. Answers are compared without regard to case and blanks.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from beamish.xmpp.payload.forms import Field
from beamish.xmpp.xml import Element, make

MEDIA_NS: Final = "urn:xmpp:media-element"
BOB: Final = "urn:xmpp:bob"
WIDTH: Final = 200
HEIGHT: Final = 70
LETTERS: Final = 6
_SCALE: Final = 5
_GLYPHS: Final = {
    "A": "0e 11 11 1f 11 11 11",
    "C": "0e 11 10 10 10 11 0e",
    "E": "1f 10 10 1e 10 10 1f",
    "F": "1f 10 10 1e 10 10 10",
    "H": "11 11 11 1f 11 11 11",
    "J": "07 02 02 02 02 12 0c",
    "K": "11 12 14 18 14 12 11",
    "L": "10 10 10 10 10 10 1f",
    "M": "11 1b 15 15 11 11 11",
    "N": "11 19 19 15 13 13 11",
    "P": "1e 11 11 1e 10 10 10",
    "R": "1e 11 11 1e 14 12 11",
    "T": "1f 04 04 04 04 04 04",
    "U": "11 11 11 11 11 11 0e",
    "W": "11 11 11 15 15 1b 11",
    "X": "11 11 0a 04 0a 11 11",
    "Y": "11 11 0a 04 04 04 04",
    "3": "1e 01 01 0e 01 01 1e",
    "4": "02 06 0a 12 1f 02 02",
    "7": "1f 01 02 02 04 04 04",
    "9": "0e 11 11 0f 01 01 0e",
}
"""Letters that are not mistaken for one another, five points wide and seven high: a number for each row."""
_POINTS: Final = {letter: tuple(int(row, 16) for row in rows.split()) for letter, rows in _GLYPHS.items()}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the answers that will do."""

    text: str
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Challenge:
    """What somebody has been asked. One right answer, to either of the two, is enough."""

    id: str
    letters: str = ""
    image: bytes = b""
    question: Question | None = None

    @classmethod
    def new(cls, *, image: bool, questions: Sequence[Question] = ()) -> Challenge:
        """A fresh challenge with an image, a question chosen from these, or both."""
        letters = "".join(secrets.choice(tuple(_GLYPHS)) for _ in range(LETTERS)) if image else ""
        return cls(
            secrets.token_urlsafe(12),
            letters,
            draw(letters, Random(secrets.randbits(64))) if image else b"",
            secrets.choice(questions) if questions else None,
        )

    def solved(self, ocr: str | None, qa: str | None) -> bool:
        """Whether one of the two answers is right."""
        if self.letters and ocr is not None and _plain(ocr) == _plain(self.letters):
            return True
        return self.question is not None and qa is not None and _plain(qa) in map(_plain, self.question.answers)

    @property
    def cid(self) -> str:
        """The image's content id (XEP-0231 §2.2)."""
        # the protocol's own hash, a name and no protection
        return f"sha1+{hashlib.sha1(self.image, usedforsecurity=False).hexdigest()}@bob.xmpp.org"

    def data(self) -> Element:
        """The image as bits of binary; fit to be shown once, so it is not to be kept."""
        text = b64encode(self.image).decode()
        return make(f"{{{BOB}}}data", {"cid": self.cid, "type": "image/png", "max-age": "0"}, text)

    def put_into(self, form: Element, request_id: str, domain: str) -> None:
        """Add the challenge to a registration form (XEP-0158 §4), whose other fields are there already."""
        hidden = {"challenge": self.id, "sid": request_id, "from": domain, "answers": "1"}
        for var, value in hidden.items():
            form.append(Field(var, "hidden", (value,)).to_xml())
        if self.image:
            field = Field("ocr", "text-single", (), "Enter the text you see").to_xml()
            uri = make(f"{{{MEDIA_NS}}}uri", {"type": "image/png"}, f"cid:{self.cid}")
            field.append(make(f"{{{MEDIA_NS}}}media", {"width": str(WIDTH), "height": str(HEIGHT)}, uri))
            form.append(field)
        if self.question is not None:
            form.append(Field("qa", "text-single", (), self.question.text).to_xml())


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def draw(letters: str, random: Random) -> bytes:
    """The letters as a PNG, warped and with noise. Takes about ten milliseconds."""
    pitch = (WIDTH - 10) // max(len(letters), 1)
    spots = [
        (8 + i * pitch + random.randint(-2, 2), random.randint(10, HEIGHT - 7 * _SCALE - 10))
        for i in range(len(letters))
    ]
    wave, phase, tall = random.uniform(14.0, 22.0), random.uniform(0.0, math.tau), random.uniform(2.5, 4.0)
    across, shift, wide = random.uniform(18.0, 26.0), random.uniform(0.0, math.tau), random.uniform(2.0, 3.5)
    down = [round(tall * math.sin(x / wave + phase)) for x in range(WIDTH)]
    aside = [round(wide * math.sin(y / across + shift)) for y in range(HEIGHT)]
    plain = [bytearray(WIDTH) for _ in range(HEIGHT)]
    for letter, (left, top) in zip(letters, spots, strict=True):
        _stamp(plain, letter, left, top)
    rows = _warped(plain, down, aside)
    for _ in range(4):
        _line(rows, random)
    for _ in range(WIDTH * HEIGHT // 25):
        x, y = random.randrange(WIDTH), random.randrange(HEIGHT)
        rows[y][x] ^= 1
    return png(rows)


def _stamp(rows: list[bytearray], letter: str, left: int, top: int) -> None:
    for row, bits in enumerate(_POINTS[letter]):
        for column in range(5):
            if bits >> (4 - column) & 1:
                x = left + column * _SCALE
                for y in range(top + row * _SCALE, top + (row + 1) * _SCALE):
                    rows[y][x : x + _SCALE] = b"\1" * _SCALE


def _warped(plain: list[bytearray], down: list[int], aside: list[int]) -> list[bytearray]:
    """Each column moved by what `down` says of it, each row by what `aside` says."""
    rows: list[bytearray] = []
    for y in range(HEIGHT):
        warped = bytearray(WIDTH)
        for x in range(WIDTH):
            from_y, from_x = y + down[x], x + aside[y]
            if 0 <= from_y < HEIGHT and 0 <= from_x < WIDTH:
                warped[x] = plain[from_y][from_x]
        rows.append(warped)
    return rows


def _line(rows: list[bytearray], random: Random) -> None:
    y, slope = random.uniform(5, HEIGHT - 5), random.uniform(-0.25, 0.25)
    for x in range(WIDTH):
        at = round(y + slope * x)
        if 0 <= at < HEIGHT:
            rows[at][x] = 1


def png(rows: Sequence[bytearray]) -> bytes:
    """Rows of points (1 is black) as a PNG of one bit a pixel."""
    lines = []
    for row in rows:
        bits = "".join("0" if point else "1" for point in row).ljust((len(row) + 7) // 8 * 8, "1")
        lines.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 1, 0, 0, 0, 0)
    data = zlib.compress(b"".join(lines), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
