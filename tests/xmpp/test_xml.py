import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from beamish.xmpp.xml import (
    add,
    escape_attr,
    escape_text,
    from_bytes,
    local_name,
    make,
    namespace_of,
    to_bytes,
    xml_safe,
)

characters = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")
texts = st.text(characters | st.sampled_from("\t\n\r<>&'\""))


@given(texts)
def test_escaped_text_comes_back(text: str) -> None:
    for quote in "'\"":
        el = etree.fromstring(f"<a b={quote}{escape_attr(text)}{quote}>{escape_text(text)}</a>")
        assert el.get("b") == text
        assert (el.text or "") == text


@given(st.text())
def test_anything_can_be_made_safe(text: str) -> None:
    assert etree.fromstring(f"<a>{escape_text(xml_safe(text))}</a>").tag == "a"


@given(texts, texts)
def test_what_is_made_comes_back(value: str, text: str) -> None:
    el = make("{urn:x}a", {"k": value, "none": None}, make("{urn:y}b"), text, None, make("{urn:x}c", None, text))
    again = from_bytes(to_bytes(el))
    assert again.get("k") == value
    assert "none" not in again.attrib
    assert [child.tag for child in again] == ["{urn:y}b", "{urn:x}c"]
    assert (again[0].tail or "") == text
    assert b"ns0" not in to_bytes(el)


def test_texts_go_where_they_stand() -> None:
    el = make("a", None, "1", "2")
    add(el, [make("b"), "3", "4"])
    assert to_bytes(el) == b"<a>12<b/>34</a>"


def test_names() -> None:
    assert (namespace_of(make("{urn:x}a")), local_name(make("{urn:x}a"))) == ("urn:x", "a")
    assert (namespace_of(make("a")), local_name(make("a"))) == ("", "a")


@pytest.mark.parametrize("data", [b"", b"<a>", b"<a/><b/>", b"<a>&x;</a>", b"\xff"])
def test_damaged_xml_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        from_bytes(data)
