from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.payload.rsm import Page, Request, page
from beamish.xmpp.xml import from_bytes, to_bytes

IDS = [f"i{n}" for n in range(10)]


def read(inner: str) -> Request | None:
    return Request.from_xml(from_bytes(f"<q><set xmlns='http://jabber.org/protocol/rsm'>{inner}</set></q>".encode()))


def test_requests() -> None:
    assert read("<max>10</max>") == Request(10)
    assert read("<max>10</max><after>x</after>") == Request(10, after="x")
    assert read("<before/>") == Request(before="")
    assert read("<index>3</index>") == Request(index=3)
    assert Request.from_xml(from_bytes(b"<q/>")) is None


@pytest.mark.parametrize("inner", ["<max>x</max>", "<max>-1</max>", "<max/>", "<after>a</after><before>b</before>"])
def test_nonsense_is_a_bad_request(inner: str) -> None:
    with pytest.raises(StanzaError) as caught:
        read(inner)
    assert caught.value.condition is Condition.BAD_REQUEST


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (None, IDS[:5]),
        (Request(3), IDS[:3]),
        (Request(3, after="i2"), IDS[3:6]),
        (Request(3, before="i5"), IDS[2:5]),
        (Request(3, before=""), IDS[7:]),
        (Request(3, before="i1"), IDS[:1]),
        (Request(0), []),
        (Request(100, after="i9"), []),
        (Request(3, index=8), IDS[8:]),
        (Request(3, index=80), []),
    ],
)
def test_pages(request_: Request | None, expected: list[str]) -> None:
    where, told = page(IDS, request_, 5)
    assert [IDS[n] for n in where] == expected
    assert told.count == 10
    if expected:
        assert (told.first, told.last, told.index) == (expected[0], expected[-1], IDS.index(expected[0]))
    else:
        assert told.first is None


def test_page_from_nothing_is_item_not_found() -> None:
    with pytest.raises(StanzaError) as caught:
        page(IDS, Request(3, after="gone"), 5)
    assert caught.value.condition is Condition.ITEM_NOT_FOUND


@given(st.integers(0, 30), st.integers(1, 7), st.booleans())
def test_paging_meets_every_item_once(total: int, size: int, backwards: bool) -> None:
    ids = [str(n) for n in range(total)]
    seen: list[str] = []
    request = Request(size, before="") if backwards else Request(size)
    while True:
        where, told = page(ids, request, 100)
        got = [ids[n] for n in where]
        seen = got + seen if backwards else seen + got
        if not got:
            break
        request = Request(size, before=told.first) if backwards else Request(size, after=told.last)
    assert seen == ids


def test_result_on_the_wire() -> None:
    assert to_bytes(Page("a", "b", 3, 0).to_xml()) == (
        b'<set xmlns="http://jabber.org/protocol/rsm"><first index="0">a</first><last>b</last><count>3</count></set>'
    )
    assert to_bytes(Page(count=0).to_xml()) == b'<set xmlns="http://jabber.org/protocol/rsm"><count>0</count></set>'
