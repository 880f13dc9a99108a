"""The hashes of XEP-0115 and XEP-0390, with the examples of both, and answers that try to be something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.modules.caps.hashes import (
    Announcement,
    CapsMismatch,
    announcement,
    digest,
    input_of_0115,
    input_of_0390,
    own_caps,
    verify,
)
from beamish.xmpp.xml import Element, from_bytes, make

INFO = "http://jabber.org/protocol/disco#info"
EXODUS = """<identity category='client' name='Exodus 0.9.1' type='pc'/>
  <feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/>
  <feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>"""
PSI = """<identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/>
  <identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/>
  <feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/>
  <feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>
  <x xmlns='jabber:x:data' type='result'>
    <field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field>
    <field var='ip_version' type='text-multi'><value>ipv4</value><value>ipv6</value></field>
    <field var='os'><value>Mac</value></field>
    <field var='os_version'><value>10.5.1</value></field>
    <field var='software'><value>Psi</value></field>
    <field var='software_version'><value>0.11</value></field>
  </x>"""
BOMBUS = """<identity category="client" name="BombusMod" type="mobile"/>
  <feature var="http://jabber.org/protocol/si"/><feature var="http://jabber.org/protocol/bytestreams"/>
  <feature var="http://jabber.org/protocol/chatstates"/><feature var="http://jabber.org/protocol/disco#info"/>
  <feature var="http://jabber.org/protocol/disco#items"/><feature var="urn:xmpp:ping"/><feature var="jabber:iq:time"/>
  <feature var="jabber:iq:privacy"/><feature var="jabber:iq:version"/><feature var="http://jabber.org/protocol/rosterx"/>
  <feature var="urn:xmpp:time"/><feature var="jabber:x:oob"/><feature var="http://jabber.org/protocol/ibb"/>
  <feature var="http://jabber.org/protocol/si/profile/file-transfer"/><feature var="urn:xmpp:receipts"/>
  <feature var="jabber:iq:roster"/><feature var="jabber:iq:last"/>"""


def query(inner: str) -> Element:
    """An answer to disco#info."""
    return from_bytes(f"<query xmlns='{INFO}'>{inner}</query>".encode())


def presence(inner: str) -> Announcement | None:
    """What a presence announces."""
    return announcement(from_bytes(f"<presence>{inner}</presence>".encode()))


def first(ver: str, algorithm: str = "sha-1") -> Announcement:
    """An announcement by XEP-0115."""
    return Announcement(f"1:{algorithm}:{ver}", f"urn:x#{ver}", algorithm, ver, second=False)


def test_example_of_0115_section_5_2() -> None:
    assert digest(input_of_0115(query(EXODUS))[0], "sha-1") == "QgayPKawpkPSDYmwT/WM94uAlu0="


def test_example_of_0115_section_5_3() -> None:
    data, forms = input_of_0115(query(PSI))
    assert digest(data, "sha-1") == "q07IKJEyjvHSyhy//CH0CxmKi8w="
    assert forms


def test_example_of_0390_section_4_5_1() -> None:
    data = input_of_0390(query(BOMBUS))
    assert digest(data, "sha-256") == "kzBZbkqJ3ADrj7v08reD1qcWUwNGHaidNUgD7nHpiw8="
    assert digest(data, "sha3-256") == "79mdYAfU9rEdTOcWDO7UEAt6E56SUzk/g6TnqUeuD9Q="


def test_a_fitting_answer_gives_the_features() -> None:
    found = verify(query(EXODUS), first("QgayPKawpkPSDYmwT/WM94uAlu0="))
    assert "http://jabber.org/protocol/muc" in found.features and len(found.features) == 4
    assert found.shared


def test_an_answer_with_a_form_is_good_for_its_own_entity_only() -> None:
    # features at the end of the string can be passed off as a form, and would then be missing for everybody
    assert not verify(query(PSI), first("q07IKJEyjvHSyhy//CH0CxmKi8w=")).shared


@pytest.mark.parametrize(
    "inner",
    [
        EXODUS + "<feature var='urn:xmpp:evil'/>",
        EXODUS + "<feature var='http://jabber.org/protocol/muc'/>",
        EXODUS + "<identity category='client' name='Exodus 0.9.1' type='pc'/>",
        # two features as one
        EXODUS.replace(
            "<feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>",
            "<feature var='http://jabber.org/protocol/disco#items&lt;http://jabber.org/protocol/muc'/>",
        ),
        # a feature as an identity: "http://jabber.org/protocol/caps" is category, no type, language and name
        EXODUS.replace(
            "<feature var='http://jabber.org/protocol/caps'/>",
            "<identity category='http:' type='' xml:lang='jabber.org' name='protocol/caps'/>",
        ),
    ],
)
def test_poisoned_and_ill_formed_answers_are_refused(inner: str) -> None:
    with pytest.raises(CapsMismatch):
        verify(query(inner), first("QgayPKawpkPSDYmwT/WM94uAlu0="))


def test_forms_of_the_same_type_are_refused() -> None:
    form = PSI[PSI.index("<x") :]
    with pytest.raises(CapsMismatch, match="same type"):
        input_of_0115(query(PSI + form))


def test_forms_without_a_hidden_type_do_not_count() -> None:
    form = "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE'><value>a</value></field></x>"
    assert input_of_0115(query(EXODUS + form)) == input_of_0115(query(EXODUS))


def test_a_form_type_with_two_values_is_refused() -> None:
    form = (
        "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>"
        "<value>a</value><value>b</value></field></x>"
    )
    with pytest.raises(CapsMismatch):
        input_of_0115(query(form))


@pytest.mark.parametrize(
    "inner",
    [
        "<item xmlns='http://jabber.org/protocol/disco#items' jid='a.example'/>",
        "<x xmlns='jabber:x:data' type='result'><reported/></x>",
        "<x xmlns='jabber:x:data' type='result'><field var='a'><value>b</value></field></x>",
    ],
)
def test_0390_refuses_what_it_cannot_hash(inner: str) -> None:
    with pytest.raises(CapsMismatch):
        input_of_0390(query(BOMBUS + inner))


def test_0390_takes_the_language_into_account_or_not() -> None:
    for lang in ("", "en"):
        hash_ = digest(input_of_0390(query(BOMBUS), lang), "sha-256")
        about = Announcement(f"2:sha-256:{hash_}", "n", "sha-256", hash_, second=True)
        assert verify(query(BOMBUS), about, "en").shared


def test_legacy_and_unknown_hashes_are_ignored() -> None:
    c = "<c xmlns='http://jabber.org/protocol/caps' node='http://exodus' ver='{}'{}/>"
    assert presence(c.format("0.9.1", "")) is None
    assert presence(c.format("QgayPKawpkPSDYmwT/WM94uAlu0=", "")) is None
    assert presence(c.format("QgayPKawpkPSDYmwT/WM94uAlu0=", " hash='md5'")) is None
    assert presence(c.format("0.9.1", " hash='sha-1'")) is None
    found = presence(c.format("QgayPKawpkPSDYmwT/WM94uAlu0=", " hash='sha-1'"))
    assert found is not None and found.node == "http://exodus#QgayPKawpkPSDYmwT/WM94uAlu0="


def test_the_second_version_is_preferred() -> None:
    good = "kzBZbkqJ3ADrj7v08reD1qcWUwNGHaidNUgD7nHpiw8="
    found = presence(
        "<c xmlns='http://jabber.org/protocol/caps' node='n' ver='QgayPKawpkPSDYmwT/WM94uAlu0=' hash='sha-1'/>"
        f"<c xmlns='urn:xmpp:caps'><hash xmlns='urn:xmpp:hashes:2' algo='x.y'>AA==</hash>"
        f"<hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>{good}</hash></c>"
    )
    assert found is not None and found.node == f"urn:xmpp:caps#sha-256.{good}"


def test_our_own_annotations_fit_our_own_answer() -> None:
    info = query(EXODUS)
    own = own_caps(info, "urn:x")
    about = announcement(from_bytes(b"<f>" + own.xml + b"</f>"))
    assert about is not None and about.second and about.node in own.nodes
    assert verify(info, about).shared
    assert "urn:x#QgayPKawpkPSDYmwT/WM94uAlu0=" in own.nodes


def test_what_others_could_not_verify_is_not_announced() -> None:
    name = "<identity category='server' type='im' name='&lt;Verona&gt;'/>"
    assert b"urn:xmpp:caps" in own_caps(query(name), "urn:x").xml
    assert b"sha-1" not in own_caps(query(name), "urn:x").xml
    untyped = "<x xmlns='jabber:x:data' type='result'><field var='a'><value>b</value></field></x>"
    own = own_caps(query(name + untyped), "urn:x")
    assert own.xml == b"" and not own.nodes


@given(st.lists(st.text("ab/:<é", min_size=1, max_size=4), unique=True, max_size=6), st.randoms())
def test_the_order_of_an_answer_does_not_matter(features: list[str], random: object) -> None:
    def answer(order: list[str]) -> Element:
        children = [make(f"{{{INFO}}}feature", {"var": var}) for var in order]
        return make(f"{{{INFO}}}query", None, make(f"{{{INFO}}}identity", {"category": "a", "type": "b"}), *children)

    shuffled = list(features)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert input_of_0390(answer(features)) == input_of_0390(answer(shuffled))
    if not any("<" in f for f in features):
        assert input_of_0115(answer(features)) == input_of_0115(answer(shuffled))
