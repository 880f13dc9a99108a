from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from random import Random

import pytest

from beamish.modules.register.captcha import HEIGHT, LETTERS, WIDTH, Challenge, Question, draw
from beamish.xmpp.payload.forms import Form
from beamish.xmpp.xml import make

CAPITAL = Question("What is the capital of Italy?", ("Rome", "Roma"))


def points(png: bytes) -> list[str]:
    """Decode a PNG of one bit a pixel into rows of # and blanks; every checksum is verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour) == (1, 0) and b"IEND" in chunks
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = (width + 7) // 8 + 1
    assert len(raw) == stride * height
    rows = []
    for y in range(height):
        line = raw[y * stride : (y + 1) * stride]
        assert line[0] == 0
        bits = bin(int.from_bytes(line[1:], "big"))[2:].zfill((stride - 1) * 8)[:width]
        rows.append("".join("#" if bit == "0" else " " for bit in bits))
    return rows


def test_the_image_is_a_png_of_its_size_and_shows_something() -> None:
    rows = points(draw("ACEFHJ", Random(1)))
    assert (len(rows), {len(row) for row in rows}) == (HEIGHT, {WIDTH})
    black = sum(row.count("#") for row in rows)
    assert 1500 < black < WIDTH * HEIGHT // 2


def test_images_differ_even_with_the_same_letters() -> None:
    assert len({draw("ACEFHJ", Random(seed)) for seed in range(10)}) == 10


def test_an_image_is_small_enough_for_bits_of_binary() -> None:
    assert max(len(Challenge.new(image=True).image) for _ in range(20)) < 8192


@pytest.mark.parametrize("given", [str.lower, str.upper, lambda text: f" {text[:3]} {text[3:]} "])
def test_the_letters_solve_it(given: object) -> None:
    challenge = Challenge.new(image=True)
    assert len(challenge.letters) == LETTERS
    assert challenge.solved(given(challenge.letters), None)  # type: ignore[operator]


@pytest.mark.parametrize(("ocr", "qa"), [(None, None), ("", ""), ("wrong", None), (None, "Paris"), ("Rome", None)])
def test_anything_else_does_not(ocr: str | None, qa: str | None) -> None:
    assert not Challenge.new(image=True, questions=(CAPITAL,)).solved(ocr, qa)
    assert not Challenge.new(image=False, questions=(CAPITAL,)).solved(ocr, qa)
    assert not Challenge.new(image=True).solved(ocr, qa)


def test_a_question_may_have_several_answers_and_either_challenge_is_enough() -> None:
    both = Challenge.new(image=True, questions=(CAPITAL,))
    assert both.solved(None, " roma ") and both.solved("wrong", "ROME") and both.solved(both.letters, "wrong")


def test_the_form_holds_what_xep_0158_wants() -> None:
    challenge = Challenge.new(image=True, questions=(CAPITAL,))
    form = make("{jabber:x:data}x", {"type": "form"})
    challenge.put_into(form, "reg1", "example.org")
    fields = {f.var: f for f in Form.from_xml(form).fields}
    assert fields["challenge"].value == challenge.id and fields["sid"].value == "reg1"
    assert fields["from"].value == "example.org" and fields["answers"].value == "1"
    assert fields["qa"].label == CAPITAL.text
    uri = form.find(".//{urn:xmpp:media-element}uri")
    assert uri is not None and uri.get("type") == "image/png" and uri.text == f"cid:{challenge.cid}"
    data = challenge.data()
    assert data.get("cid") == challenge.cid and b64decode(data.text or "") == challenge.image
