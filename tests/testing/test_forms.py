"""The validator of data forms sees each fault, and none in the forms of the specifications."""

from __future__ import annotations

import pytest
from lxml import etree

from beamish.testing.forms import form_problems, forms_in
from beamish.xmpp.xml import Element

TYPE = "<field var='FORM_TYPE' type='hidden'><value>urn:x</value></field>"
NAME = "<field var='name' type='text-single' label='Name'/>"
LIST = "<field var='l' type='list-single' label='L'>{}</field>"
OPTIONS = "<option label='A'><value>a</value></option><option label='B'><value>b</value></option>"
OPEN = "<validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'><open/></validate>"
HEAD = "<reported><field var='a' type='text-single' label='A'/><field var='j' type='jid-single' label='J'/></reported>"
ROW = "<item><field var='a'><value>1</value></field><field var='j'><value>a@b.example</value></field></item>"


def form(inner: str, type: str = "form") -> Element:
    return etree.fromstring(f"<x xmlns='jabber:x:data' type='{type}'>{inner}</x>")


@pytest.mark.parametrize(
    ("type", "inner"),
    [
        ("form", f"<title>T</title><instructions>I</instructions><instructions>J</instructions>{TYPE}{NAME}"),
        ("form", "<field type='fixed'><value>Section</value></field>" + NAME),
        ("form", LIST.format(f"<required/><value>b</value>{OPTIONS}")),
        ("form", LIST.format(OPEN) + LIST.replace("'l'", "'m'").format(OPEN + "<value>c</value>" + OPTIONS)),
        ("form", "<field var='b' type='boolean' label='B'><value>true</value></field>"),
        (
            "form",
            "<field var='j' type='jid-multi' label='J'><value>a@b.example</value><value>c.example</value></field>",
        ),
        ("result", f"{TYPE}<field var='many'><value>1</value><value>2</value></field>"),
        ("result", f"<title>T</title>{HEAD}{ROW}{ROW}"),
        ("result", HEAD),
        ("submit", "<field var='FORM_TYPE'><value>urn:x</value></field><field var='a'><value/></field>"),
        ("cancel", ""),
    ],
)
def test_what_is_right(type: str, inner: str) -> None:
    assert form_problems(form(inner, type)) == []


@pytest.mark.parametrize(
    ("type", "inner", "problem"),
    [
        ("question", NAME, "no form type"),
        ("form", "", "no fields"),
        ("cancel", NAME, "cancelled"),
        ("form", f"{NAME}<title>T</title>", "out of order"),
        ("form", f"<title>T</title><title>T</title>{NAME}", "more than one <title/>"),
        ("form", f"<title>T\nU</title>{NAME}", "line break in its title"),
        ("form", f"{NAME}<subject/>", "no <subject/>"),
        ("form", NAME + TYPE, "FORM_TYPE is not the first"),
        ("form", TYPE.replace("hidden", "text-single") + NAME, "FORM_TYPE is not hidden"),
        ("form", TYPE.replace("<value>urn:x</value>", "") + NAME, "FORM_TYPE has not one value"),
        ("form", NAME + NAME, "name more than once"),
        ("form", NAME.replace("var='name'", ""), "no name"),
        ("form", NAME.replace("type='text-single'", ""), "has no type"),
        ("form", NAME.replace("text-single", "text"), "which is none"),
        ("form", NAME.replace("/>", "><value>a</value><value>b</value></field>"), "has 2 values"),
        ("form", NAME.replace("/>", "><option><value>a</value></option></field>"), "has options"),
        ("form", NAME.replace("/>", "><required>yes</required></field>"), "is not empty"),
        ("form", NAME.replace("/>", "><desc>a\nb</desc></field>"), "line break in the description"),
        ("form", NAME.replace("/>", "><value>a\nb</value></field>"), "line break in a value"),
        ("form", NAME.replace("/>", "><media/></field>"), "holds <media/>"),
        ("result", NAME.replace("/>", "><required/></field>"), "nothing is asked for"),
        ("form", "<field var='b' type='boolean' label='B'><value>yes</value></field>", "is a boolean"),
        ("form", "<field var='j' type='jid-single' label='J'><value>@</value></field>", "no address"),
        (
            "form",
            "<field var='j' type='jid-multi' label='J'><value>b</value><value>b</value></field>",
            "address more than once",
        ),
        ("form", LIST.format(""), "without options"),
        ("form", LIST.format("<value>c</value>" + OPTIONS), "none of its options"),
        ("form", LIST.format(OPTIONS + OPTIONS), "are the same"),
        ("form", LIST.format("<option label='A'/>"), "has not one value"),
        ("form", HEAD, "has <reported/>"),
        ("result", TYPE + HEAD, "fields beside it"),
        ("result", HEAD + HEAD, "more than one <reported/>"),
        ("result", ROW + HEAD, "out of order"),
        ("result", ROW, "without <reported/>"),
        ("result", "<reported/>", "is empty"),
        ("result", HEAD.replace("label='A'", ""), "has not name, label and type"),
        ("result", HEAD.replace("label='A'/>", "label='A'><value/></field>"), "has a value"),
        ("result", HEAD + ROW.replace("var='a'", "var='b'"), "not those of <reported/>"),
        ("result", HEAD + ROW.replace("<value>1</value>", "<value>1</value><value>2</value>"), "has 2 values"),
        ("result", HEAD + ROW.replace("a@b.example", "@"), "what is no address"),
    ],
)
def test_what_is_wrong(type: str, inner: str, problem: str) -> None:
    problems = form_problems(form(inner, type))
    assert any(problem in each for each in problems), problems


def test_forms_are_found_wherever_they_are() -> None:
    inner = f"<query xmlns='a'><x xmlns='jabber:x:data' type='form'>{NAME}</x></query><x xmlns='jabber:x:data' type='cancel'/>"
    stanza = etree.fromstring(f"<iq xmlns='jabber:client'>{inner}</iq>")
    assert [x.get("type") for x in forms_in(stanza)] == ["form", "cancel"]
