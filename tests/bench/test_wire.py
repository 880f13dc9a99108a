"""The generator's own parts: a bench that miscounts, or accepts a wrong signature, proves nothing."""

from __future__ import annotations

import hashlib
import itertools
import os
from base64 import b64decode, b64encode
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.load import in_turns
from tests.bench.measure import cpu_seconds
from tests.bench.sasl import SaslError, Scram
from tests.bench.scenarios import chat, ping
from tests.bench.wire import BenchError, Client, Splitter, Tally, stanza_id, stanza_type

HEADER = b"<?xml version='1.0'?><stream:stream from='h' version='1.0' xmlns='jabber:client'>"
ELEMENTS = [
    b"<stream:features><a/><b x='1'></b></stream:features>",
    b"<iq type='result' id='a'/>",
    b"<message to=\"it's > 3\"><body>&gt; 2 'quoted</body></message>",
    b"<presence><message><presence/></message></presence>",
]


def crumbs(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at the given places."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_chunking_does_not_change_the_elements(cuts: list[int]) -> None:
    splitter = Splitter()
    stream = HEADER + b" \n".join(ELEMENTS)
    assert [element for part in crumbs(stream, cuts) for element in splitter.feed(part)] == ELEMENTS
    assert not splitter.closed


def test_the_end_of_the_stream_is_seen() -> None:
    splitter = Splitter()
    assert splitter.feed(HEADER + b"<a/></stream:stream>") == [b"<a/>"]
    assert splitter.closed


def message(flow: int, number: int) -> bytes:
    return b"<message from='a@h/x' to='b@h'><body>%d.%d hello</body></message>" % (flow, number)


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_chunking_does_not_change_the_count(cuts: list[int]) -> None:
    tally = Tally(chat.MARK, chat.END)
    stream = b"".join(message(flow, number) for number in range(5) for flow in (3, 7))
    assert sum(tally.feed(part) for part in crumbs(stream, cuts)) == 10
    assert tally.count == 10
    assert tally.partial == b""


@pytest.mark.parametrize("numbers", [[1], [0, 0], [0, 2], [0, 1, 0]], ids=["lost first", "doubled", "gap", "reordered"])
def test_what_is_lost_doubled_or_reordered_fails(numbers: list[int]) -> None:
    tally = Tally(chat.MARK, chat.END)
    with pytest.raises(BenchError, match="flow 4"):
        tally.feed(b"".join(message(4, number) for number in numbers))


@pytest.mark.parametrize("head", [b"<iq type='result' id='p1.0'", b'<iq from="h" id="p1.0" to="a@h/b" type="result"'])
def test_a_ping_result_counts_whatever_the_order_of_its_attributes(head: bytes) -> None:
    assert Tally(ping.MARK, b">").feed(head + b"/>") == 1


def test_a_ping_error_does_not_count() -> None:
    assert Tally(ping.MARK, b">").feed(b"<iq type='error' id='p1.0'><error/></iq>") == 0


def test_attributes_of_the_stanza_not_of_its_children() -> None:
    stanza = b"<message id='outer'><x id='inner' type='submit'/></message>"
    assert stanza_id(stanza) == "outer"
    assert stanza_type(stanza) == ""


class Recorder(Client):
    """A client whose bytes go nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)


async def test_a_ping_of_the_server_is_answered_and_not_read() -> None:
    client = Recorder()
    question = b"<iq type='get' id='7' from='h'><ping xmlns='urn:xmpp:ping'/></iq>"
    client.data_received(HEADER + b"<message/>" + question + b"<presence/>")
    assert client.sent == [b"<iq type='result' id='7' to='h'/>"]
    assert [await client.read(), await client.read()] == [b"<message/>", b"<presence/>"]


async def test_a_stream_error_ends_whoever_reads() -> None:
    client = Client()
    client.data_received(HEADER + b"<stream:error><policy-violation/></stream:error>")
    with pytest.raises(BenchError, match="policy-violation"):
        await client.read()


async def test_in_turns_keeps_the_order_and_raises_the_first_error() -> None:
    async def double(number: int) -> int:
        if number == 99:
            raise BenchError("ninety-nine")
        return 2 * number

    assert await in_turns(range(10), double, 3) == list(range(0, 20, 2))
    with pytest.raises(BenchError, match="ninety-nine"):
        await in_turns([1, 99, 3], double, 2)


def test_cpu_time_counts_threads_that_have_ended() -> None:
    before = cpu_seconds([os.getpid()])
    worker = Thread(target=lambda: hashlib.pbkdf2_hmac("sha1", b"x", b"y", 20_000))
    worker.start()
    worker.join()
    assert cpu_seconds([os.getpid()]) > before + 0.001


def scram(mechanism: str, nonce: str) -> Scram:
    return Scram(mechanism, "user", "pencil", nonce=nonce)


def test_scram_sha_1_by_rfc_5802_section_5() -> None:
    exchange = scram("SCRAM-SHA-1", "fyko+d2lbbFgONRv9qkxdawL")
    assert b64decode(exchange.first()) == b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    challenge = b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
    proof = b",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    assert b64decode(exchange.final(b64encode(challenge))).endswith(proof)
    exchange.check(b64encode(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="))


def test_scram_sha_256_by_rfc_7677_section_3() -> None:
    exchange = scram("SCRAM-SHA-256", "rOprNGfwEbeRWgbNEkqO")
    challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    proof = b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    assert b64decode(exchange.final(b64encode(challenge))).endswith(proof)
    exchange.check(b64encode(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))


def test_a_server_that_does_not_know_the_keys_is_refused() -> None:
    exchange = scram("SCRAM-SHA-1", "abc")
    with pytest.raises(SaslError):
        exchange.check(b"")
    exchange.final(b64encode(b"r=abcdef,s=QSXCR+Q6sek8bf92,i=4096"))
    with pytest.raises(SaslError):
        exchange.check(b64encode(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="))


@pytest.mark.parametrize("challenge", [b"r=other,s=QSXC,i=1", b"r=abcdef,i=1", b"s=QSXC,i=1"])
def test_a_bad_server_first_message_is_refused(challenge: bytes) -> None:
    with pytest.raises(SaslError):
        scram("SCRAM-SHA-1", "abc").final(b64encode(challenge))
