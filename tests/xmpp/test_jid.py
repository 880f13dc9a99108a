from __future__ import annotations

import copy
import gc
import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beamish.xmpp import jid as module
from beamish.xmpp.jid import (
    CACHED_TEXT_LENGTH,
    JID,
    MAX_TEXT_BYTES,
    JidMalformed,
    prepare_domain,
    prepare_local,
    prepare_resource,
)

# RFC 7622 §3.5, table 1: number, text, the three parts after preparation.
LEGAL = [
    (1, "juliet@example.com", "juliet", "example.com", ""),
    (2, "juliet@example.com/foo", "juliet", "example.com", "foo"),
    (3, "juliet@example.com/foo bar", "juliet", "example.com", "foo bar"),
    (4, "juliet@example.com/foo@bar", "juliet", "example.com", "foo@bar"),
    (5, "foo\\20bar@example.com", "foo\\20bar", "example.com", ""),
    (6, "fussball@example.com", "fussball", "example.com", ""),
    (7, "fu\xdfball@example.com", "fu\xdfball", "example.com", ""),
    (8, "\u03c0@example.com", "\u03c0", "example.com", ""),
    (9, "\u03a3@example.com/foo", "\u03c3", "example.com", "foo"),
    (10, "\u03c3@example.com/foo", "\u03c3", "example.com", "foo"),
    (11, "\u03c2@example.com/foo", "\u03c2", "example.com", "foo"),
    (12, "king@example.com/\u265a", "king", "example.com", "\u265a"),
    (13, "example.com", "", "example.com", ""),
    (14, "example.com/foobar", "", "example.com", "foobar"),
    (15, "a.example.com/b@example.net", "", "a.example.com", "b@example.net"),
]

# RFC 7622 §3.5, table 2.
ILLEGAL = [
    (16, '"juliet"@example.com', "localpart"),
    (17, "foo bar@example.com", "localpart"),
    (18, "juliet@example.com/ foo", "resourcepart"),
    (19, "@example.com/", "localpart"),
    (20, "henry\u2163@example.com", "localpart"),
    (21, "\u265a@example.com", "localpart"),
    (22, "juliet@", "domainpart"),
    (23, "/foobar", "domainpart"),
]

anything = st.text(max_size=40)
letters = st.text(
    st.one_of(
        st.characters(max_codepoint=0x7F), st.characters(), st.sampled_from("\xdf\u03c2\u03a3\uff0f\uff20\u05d01ẞİﾊ")
    ),
    max_size=12,
)
labels = st.text(st.one_of(st.sampled_from("abz09-A.xn\u3002\uff0e"), st.characters(min_codepoint=0xC0)), max_size=12)
texts = st.one_of(
    anything,
    st.builds("{}@{}/{}".format, letters, labels, letters),
    st.builds("{}@{}".format, letters, labels),
    st.builds("{}/{}".format, labels, letters),
)


@pytest.mark.parametrize(("number", "text", "local", "domain", "resource"), LEGAL)
def test_legal_examples_of_the_rfc(number: int, text: str, local: str, domain: str, resource: str) -> None:
    jid = JID.parse(text)
    assert (jid.local, jid.domain, jid.resource) == (local, domain, resource)


@pytest.mark.parametrize(("number", "text", "part"), ILLEGAL)
def test_illegal_examples_of_the_rfc(number: int, text: str, part: str) -> None:
    with pytest.raises(JidMalformed) as caught:
        JID.parse(text)
    assert caught.value.part == part


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("Juliet@Example.COM/Balcony", "juliet@example.com/Balcony"),
        ("localhost", "localhost"),
        ("example.com.", "example.com"),
        ("a@example.com./r", "a@example.com/r"),
        ("a@b.example/r/s", "a@b.example/r/s"),
        ("a@b.example//", "a@b.example//"),
        ("a@b.example/r ", "a@b.example/r "),
        ("192.0.2.7", "192.0.2.7"),
        ("romeo@[2001:DB8:0:0::1]/x", "romeo@[2001:db8::1]/x"),
        ("[::1]", "[::1]"),
        ("xn--bcher-kva.example", "b\xfccher.example"),
        ("XN--BCHER-KVA.example", "b\xfccher.example"),
        ("BU\u0308CHER.example", "b\xfccher.example"),
        ("b\uff21\u3002example\u3002", "ba.example"),
        ("fa\xdf.example", "fa\xdf.example"),
        ("\uff2a\uff35@example.com", "ju@example.com"),
        ("A\u0301@example.com", "\xe1@example.com"),
        ("a@example.com/e\u0301\u3000x", "a@example.com/\xe9 x"),
        ("a@example.com/\uff21", "a@example.com/\uff21"),
    ],
)
def test_preparation(text: str, prepared: str) -> None:
    assert JID.parse(text) == prepared


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "domainpart"),
        (".", "domainpart"),
        ("a..b", "domainpart"),
        ("example.com..", "domainpart"),
        ("a.b\u3002.", "domainpart"),
        (".example.com", "domainpart"),
        ("under_score.example", "domainpart"),
        ("-a.example", "domainpart"),
        ("a-.example", "domainpart"),
        ("ab--cd.example", "domainpart"),
        ("xn--a.example", "domainpart"),
        ("exa mple.com", "domainpart"),
        ("a\uff0fb.example", "domainpart"),
        ("\u2603.example", "domainpart"),
        ("[::1", "domainpart"),
        ("[fe80::1%eth0]", "domainpart"),
        ("[192.0.2.7]", "domainpart"),
        ("[v1.x]", "domainpart"),
        ("[]", "domainpart"),
        ("a@b@example.com", "domainpart"),
        ("x" * 64 + ".example", "domainpart"),
        (".".join(["x" * 62] * 5), "domainpart"),
        ("\u05d0" * 60 + ".example", "domainpart"),
        ("a@example.com/", "resourcepart"),
        ("a@example.com/\x07", "resourcepart"),
        ("a@example.com/\x7f", "resourcepart"),
        ("a@example.com/\ufffe", "resourcepart"),
        ("a@example.com/\u3000x", "resourcepart"),
        ("a@example.com/\u200b", "resourcepart"),
        ("a\uff20b@example.com", "localpart"),
        ("a\uff0fb@example.com", "localpart"),
        ("1\u05d0@example.com", "localpart"),
        ("a\x00@example.com", "localpart"),
        ("\ud800@example.com", "address"),
        ("a@example.com/\udfff", "address"),
    ],
)
def test_refused(text: str, part: str) -> None:
    with pytest.raises(JidMalformed) as caught:
        JID.parse(text)
    assert caught.value.part == part


@pytest.mark.parametrize("character", list("\"&'/:<>@ "))
def test_characters_that_no_localpart_holds(character: str) -> None:
    with pytest.raises(JidMalformed):
        prepare_local(f"a{character}b")


def test_parts_may_be_1023_bytes_and_no_longer() -> None:
    assert len(prepare_local("l" * 1023)) == 1023
    assert len(prepare_resource("r" * 1023)) == 1023
    assert len(prepare_resource("\xe9" * 511).encode()) == 1022
    # Mapping comes first: these are 2046 and 3069 bytes before it and 1023 after.
    assert len(prepare_resource("e\u0301" * 511)) == 511
    assert len(prepare_local("\uff4c" * 1023)) == 1023
    for prepare, text in [
        (prepare_local, "l" * 1024),
        (prepare_resource, "r" * 1024),
        (prepare_resource, "\xe9" * 512),
    ]:
        with pytest.raises(JidMalformed, match="too long"):
            prepare(text)
    with pytest.raises(JidMalformed, match="too long"):
        prepare_domain("d" * (MAX_TEXT_BYTES + 1))


def test_texts_beyond_three_parts_are_refused_unread() -> None:
    for text in ("x" * (MAX_TEXT_BYTES + 1), "\xe9" * (MAX_TEXT_BYTES // 2 + 1)):
        with pytest.raises(JidMalformed) as caught:
            JID.parse(text)
        assert caught.value.part == "address"


def test_symbols_of_a_later_unicode_may_stand_in_resources() -> None:
    """What is kept for pictographs is taken as one: rooms of other servers have occupants called so."""
    new, other = "\U0001faff", "\U0001fffd"
    stand_ins = "".join(map(chr, range(0x1F600, 0x1F640)))
    for text, prepared in (
        (new, new),
        (f"{other}e\u0301 {new}\u00a0{new}", f"{other}\u00e9 {new} {new}"),
        (stand_ins + new + other, stand_ins + new + other),
    ):
        jid = JID.parse(f"room@a.example/{text}")
        assert jid.resource == prepared
        assert JID.parse(str(jid)) == jid
    for refused in (
        f"a{new}@a.example",
        f"a.example/{new}\u0378",
        "a.example/" + "".join(map(chr, range(0x1FC00, 0x1FC80))),
    ):
        with pytest.raises(JidMalformed):
            JID.parse(refused)


def test_it_is_a_string_and_a_key() -> None:
    jid = JID.parse("Romeo@Example.org/x")
    assert isinstance(jid, str)
    assert jid == "romeo@example.org/x"
    assert hash(jid) == hash("romeo@example.org/x")
    assert {"romeo@example.org/x": 1}[jid] == 1
    assert f"{jid}" == str(jid) == "romeo@example.org/x"
    assert type(str(jid)) is str
    assert repr(jid) == "JID('romeo@example.org/x')"
    assert eval(repr(jid)) == jid


def test_bare_and_resource() -> None:
    full = JID.parse("romeo@example.org/x")
    bare = full.bare
    assert (bare, bare.resource, full.resource) == ("romeo@example.org", "", "x")
    assert bare.bare is bare
    assert full.bare is bare
    assert JID.parse("romeo@example.org/y").bare is bare
    assert bare.with_resource("z/@") == "romeo@example.org/z/@"
    assert full.with_resource("y") == JID.parse("romeo@example.org/y")
    assert full.with_resource("") is bare
    assert JID.of("", "example.org", "r") == "example.org/r"


@pytest.mark.parametrize("name", ["local", "domain", "resource", "bare", "wire", "_wire", "new"])
def test_it_cannot_be_changed(name: str) -> None:
    jid = JID.parse("romeo@example.org/x")
    with pytest.raises(AttributeError):
        setattr(jid, name, "juliet")
    with pytest.raises(AttributeError):
        delattr(jid, name)
    assert jid == "romeo@example.org/x"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_and_copy(protocol: int) -> None:
    jid = JID.parse("romeo@example.org/x")
    back = pickle.loads(pickle.dumps(jid, protocol))
    assert type(back) is JID
    assert (back, back.local, back.domain, back.resource) == (jid, "romeo", "example.org", "x")
    assert copy.copy(jid) is jid
    assert copy.deepcopy([jid])[0] is jid


def test_the_error_survives_pickling() -> None:
    with pytest.raises(JidMalformed) as caught:
        JID.parse("a b@example.org")
    back = pickle.loads(pickle.dumps(caught.value))
    assert (back.part, str(back)) == ("localpart", str(caught.value))
    assert isinstance(back, ValueError)


def test_no_error_repeats_the_text() -> None:
    for text in ("s3cret \u2603@x", "s3cret\u2603.example", "a@example.org/s3cret\x00\u2603"):
        with pytest.raises(JidMalformed) as caught:
            JID.parse(text)
        assert "s3cret" not in str(caught.value)


def test_wire_is_escaped_for_an_attribute() -> None:
    jid = JID.parse("romeo@example.org/a<b>&'\xe9\"")
    assert jid.wire == "romeo@example.org/a&lt;b&gt;&amp;&apos;\xe9&quot;".encode()
    assert jid.wire is jid.wire
    assert JID.parse("b\xfccher.example").wire == "b\xfccher.example".encode()


def test_cache_keeps_what_parsed_and_nothing_else() -> None:
    text = "cached@example.org/one"
    assert JID.parse(text) is JID.parse(text)
    jid = JID.parse(text)
    assert JID.parse(jid) is jid
    before = module._parse_cached.cache_info().currsize
    for bad in ("bad bad@example.org", "bad@example.org/" + "r" * CACHED_TEXT_LENGTH):
        try:
            assert JID.parse(bad) is not JID.parse(bad)
        except JidMalformed:
            assert " " in bad
    assert module._parse_cached.cache_info().currsize == before


def test_cache_is_bounded() -> None:
    limit = module.CACHED_JIDS
    for number in range(limit + 100):
        JID.parse(f"user{number}@example.org")
    info = module._parse_cached.cache_info()
    assert info.currsize == info.maxsize == limit


def test_no_reference_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(100):
            full = JID.of("romeo", "example.org", f"r{number}")
            assert full.bare.bare is full.bare
            assert full.wire
            del full
        assert gc.collect() == 0
    finally:
        gc.enable()


@given(texts)
def test_parse_gives_a_stable_address_or_refuses(text: str) -> None:
    try:
        jid = JID.parse(text)
    except JidMalformed:
        return
    again = module._parse(str(jid))
    assert again == jid
    assert (again.local, again.domain, again.resource) == (jid.local, jid.domain, jid.resource)
    assert JID.of(jid.local, jid.domain, jid.resource) == jid
    assert all(len(part.encode()) <= 1023 for part in (jid.local, jid.domain, jid.resource))
    assert b"'" not in jid.wire
    assert b"<" not in jid.wire


@given(st.text(st.characters(max_codepoint=0x7F), max_size=20))
def test_short_cut_of_localparts(text: str) -> None:
    assert _outcome(prepare_local, text) == _outcome(module._prepare_local_unicode, text)


@given(st.text(st.characters(max_codepoint=0x7F), max_size=20))
def test_short_cut_of_resources(text: str) -> None:
    assume(not text.startswith(" "))
    assert _outcome(prepare_resource, text) == _outcome(module._prepare_resource_unicode, text)


@given(st.text(st.one_of(st.sampled_from("abzAZ059-.-.x"), st.characters(max_codepoint=0x7F)), max_size=70))
def test_short_cut_of_domains(text: str) -> None:
    assert _outcome(prepare_domain, text) == _outcome(module._prepare_domain_unicode, text)


@given(st.text(st.sampled_from("aZ0-."), min_size=1, max_size=300))
def test_short_cut_of_long_domains(text: str) -> None:
    assert _outcome(prepare_domain, text) == _outcome(module._prepare_domain_unicode, text)


@given(st.text(st.characters(max_codepoint=0x7F), max_size=12))
def test_case_never_tells_two_accounts_apart(text: str) -> None:
    assert _outcome(prepare_local, text.upper()) == _outcome(prepare_local, text.lower())


def _outcome(prepare: object, text: str) -> str | None:
    try:
        return prepare(text)  # type: ignore[operator, no-any-return]
    except JidMalformed:
        return None
