"""Patterns mean the same on every Python."""

from __future__ import annotations

import re

import pytest

from beamish.modules.mam import packing
from beamish.stream import quick
from beamish.xmpp import patterns, stanza

ALL = {
    "PLAIN": quick.PLAIN,
    "EMPTY": quick._EMPTY,
    "WRITTEN": stanza._WRITTEN,
    "START": packing._START,
    "SAID": packing._SAID,
    "FIRST_BODY": packing._FIRST_BODY,
}
PIECES = (
    b"<message><a></message>",
    b"<message id='/>",
    b"<message id='/>'/>",
    b"<message id='a' to='b@c'><body>x &amp; y</body><a b='c'/><d><e/>f</d></message>",
    b"<message from='a@b/c' to='d@e'><body>x &amp; y</body></message>",
    b"<message from='a@b/c' to='d@e'><body>x &#38; y</body></message>",
    b"<message><a b='1' c='2' d></message>",
    b"<message><body>" + b"x" * 16_000 + b"<",
    b"<message>" + b"<a b='c'>d</a>" * 1_000 + b"<a",
    b"<message>" + b"<a><b/></a>" * 1_000 + b"</message",
    b"<message" + b" a='b'" * 16 + b"/>",
    b"<message" + b" a='b'" * 17 + b"/>",
    b"<a xmlns='urn:xmpp:sm:3' h='1'/> \n",
    b"<a xmlns='urn:xmpp:sm:3' h='1/>",
    b"><body>" + b"&amp;" * 3_000 + b"<",
)


def test_an_iteration_that_fails_halfway_is_given_back() -> None:
    assert patterns.compiled(rb"(?:ab?c)*+")
    found = patterns.compiled(rb"(?:ab?c)++").match(b"aca")
    assert found is not None
    assert found.end() == 2


@pytest.mark.parametrize("name", ALL)
def test_without_possession_a_pattern_accepts_the_same(name: str) -> None:
    """On a Python with a sound engine the two forms are compared; on others there is only one, which is judged elsewhere."""
    pattern = ALL[name]
    greedy = re.compile(patterns.without_possession(pattern.pattern))
    assert b"++" not in greedy.pattern and b"*+" not in greedy.pattern and b"}+" not in greedy.pattern
    for piece in PIECES:
        for at in range(min(len(piece), 40)):
            one, other = pattern.match(piece, at), greedy.match(piece, at)
            assert (one and (one.span(), one.groups())) == (other and (other.span(), other.groups())), (piece[:80], at)


def test_what_is_not_well_formed_is_declined() -> None:
    assert quick.PLAIN.match(b"<message><a></message>") is None
    assert quick.PLAIN.match(b"<message id='/>") is None
