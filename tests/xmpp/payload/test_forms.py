from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.payload.forms import Field, Form, Option, Submission, boolean, choice
from beamish.xmpp.xml import from_bytes, to_bytes

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
FIELDS = st.builds(
    Field,
    var=TEXT.filter(bool),
    type=st.sampled_from(("text-single", "text-multi", "list-single", "boolean", "hidden")),
    values=st.lists(TEXT, max_size=3).map(tuple),
    label=TEXT,
    options=st.lists(st.builds(Option, TEXT, TEXT.filter(bool)), max_size=3).map(tuple),
    required=st.booleans(),
    desc=TEXT,
)


def submit(xml: str) -> Submission:
    return Submission.from_xml(from_bytes(f"<x xmlns='jabber:x:data' type='submit'>{xml}</x>".encode()), "urn:test")


@given(st.builds(Form, st.sampled_from(("form", "result")), st.lists(FIELDS, max_size=4).map(tuple), TEXT, TEXT))
def test_form_survives_the_wire(form: Form) -> None:
    assert Form.from_xml(from_bytes(to_bytes(form.to_xml()))) == form


def test_table_of_results_survives_the_wire() -> None:
    form = Form(
        "result",
        reported=(Field("a", "text-single", label="A"),),
        items=((Field("a", values=("1",)),), (Field("a", values=("2",)),)),
    )
    assert Form.from_xml(from_bytes(to_bytes(form.to_xml()))) == form


def test_form_type_comes_first() -> None:
    form = Form.of("form", "urn:test", [boolean("a", True), choice("b", "x", ("x", Option("y", "Why")))])
    assert form.fields[0].var == "FORM_TYPE"
    assert form.form_type == "urn:test"
    b = form.get("b")
    assert b is not None
    assert b.value == "x"
    assert b'label="Why"' in to_bytes(form.to_xml())


def test_submission_accessors() -> None:
    s = submit(
        "<field var='FORM_TYPE'><value>urn:test</value></field>"
        "<field var='b'><value>true</value></field><field var='n'><value>12</value></field>"
        "<field var='l'><value>one</value><value>two</value></field>"
        "<field var='j'><value>Romeo@Example.org</value><value>romeo@example.org</value></field><field var='e'/>"
    )
    assert s.boolean("b") is True
    assert s.integer("n", 1, 12) == 12
    assert s.text("l") == "one\ntwo"
    assert s.jids("j") == ("romeo@example.org",)
    assert s.text("e") == ""
    assert s.texts("none") is None and s.integer("none") is None and s.choice("none", ()) is None
    assert "FORM_TYPE" not in s


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("yes", lambda s: s.boolean("f")),
        ("13", lambda s: s.integer("f", 1, 12)),
        ("-1", lambda s: s.integer("f")),
        ("1e3", lambda s: s.integer("f")),
        ("٣", lambda s: s.integer("f")),
        ("9" * 30, lambda s: s.integer("f")),
        ("z", lambda s: s.choice("f", ("x", "y"))),
        ("a@b@c", lambda s: s.jids("f")),
    ],
)
def test_unacceptable_value_is_named(value: str, read: object) -> None:
    with pytest.raises(StanzaError) as caught:
        read(submit(f"<field var='f'><value>{value}</value></field>"))  # type: ignore[operator]
    assert caught.value.condition is Condition.NOT_ACCEPTABLE
    assert "field f" in caught.value.text


@pytest.mark.parametrize(
    "xml",
    [
        "<x xmlns='jabber:x:data' type='form'/>",
        "<x xmlns='jabber:x:data'/>",
        "<x xmlns='urn:other' type='submit'/>",
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:other</value></field></x>",
        "<x xmlns='jabber:x:data' type='submit'><field><value>1</value></field></x>",
        "<x xmlns='jabber:x:data' type='submit'>" + "<field var='a'/>" * 201 + "</x>",
        "<x xmlns='jabber:x:data' type='submit'><field var='a'>" + "<value/>" * 1001 + "</field></x>",
    ],
)
def test_what_is_no_submission_is_refused(xml: str) -> None:
    with pytest.raises(StanzaError) as caught:
        Submission.from_xml(from_bytes(xml.encode()), "urn:test")
    assert caught.value.condition is Condition.BAD_REQUEST


def test_cancelled() -> None:
    assert Submission.from_xml(from_bytes(b"<x xmlns='jabber:x:data' type='cancel'/>")).cancelled
