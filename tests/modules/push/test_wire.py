"""What is published, for whatever it holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from tests.modules.push.conftest import fields

from beamish.modules.push.wire import publication, read_enable
from beamish.testing.forms import form_problems, forms_in
from beamish.xmpp.xml import from_bytes

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"), max_size=40)


@given(TEXT, st.dictionaries(TEXT.filter(lambda t: t not in ("", "FORM_TYPE")), TEXT, max_size=5), TEXT)
def test_options_come_out_as_they_went_in_and_everything_is_a_form(node: str, given: dict[str, str], body: str) -> None:
    el = etree.Element("{urn:xmpp:push:0}enable", jid="push.example.com", node=node)
    x = etree.SubElement(el, "{jabber:x:data}x", type="submit")
    for var, value in given.items():
        etree.SubElement(etree.SubElement(x, "{jabber:x:data}field", var=var), "{jabber:x:data}value").text = value
    address, options = read_enable(el, 1_000_000)
    assert address.node == node
    pubsub = from_bytes(publication(address.node, options, {"message-count": "1", "last-message-body": body}))
    publish = pubsub[0]
    assert publish.get("node", "") == node
    forms = list(forms_in(pubsub))
    assert len(forms) == 1 + bool(given)
    for form in forms:
        assert form.get("type") == "submit"
        assert form_problems(form) == []
    assert fields(forms[0])["last-message-body"] == body
    if given:
        kept = fields(forms[1])
        assert kept.pop("FORM_TYPE") == "http://jabber.org/protocol/pubsub#publish-options"
        assert kept == given
