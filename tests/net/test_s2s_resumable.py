"""Streams that may be taken up again: room for those of everybody, and nothing left of what was."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.net.test_s2s_incoming import message, peer
from tests.watched import until

from beamish.net.s2s_resumable import Resumable
from beamish.testing.client import Client
from beamish.testing.clock import FakeClock
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

Files = tuple[Path, Path]


class Left:
    """A stream that has no connection any more."""

    gone = True

    def __init__(self, *remotes: str) -> None:
        self.remotes = set(remotes)


def held(most: int, *remotes: str) -> tuple[Resumable, FakeClock]:
    clock = FakeClock()
    book = Resumable(most, clock)
    for n, remote in enumerate(remotes):
        book.wait(f"{remote} {n}", Left(remote), 60.0, lambda: None)  # type: ignore[arg-type]
    return book, clock


def invented(count: int) -> Iterator[str]:
    return (f"d{n}.evil.example" for n in range(count))


def test_one_family_of_domains_has_no_more_than_half() -> None:
    """And of the other half a tenth of all, as soon as anybody has the first."""
    book, _ = held(100, *invented(49))
    assert not book.full("d50.evil.example")
    book.wait("50", Left("d50.evil.example"), 60.0, lambda: None)  # type: ignore[arg-type]
    assert book.full("d51.evil.example")
    assert not book.full("a.other")
    for n in range(10):
        assert not book.full(f"n{n}.other.example")
        book.wait(f"o{n}", Left(f"n{n}.other.example"), 60.0, lambda: None)  # type: ignore[arg-type]
    assert book.full("n10.other.example")
    for n in range(100 - len(book)):
        assert not book.full(f"x{n}.net")
        book.wait(f"x{n}", Left(f"x{n}.net"), 60.0, lambda: None)  # type: ignore[arg-type]
    assert len(book) == 100
    assert book.full("y.net")
    book.forget("x0")
    assert not book.full("y.net")


def test_what_is_forgotten_leaves_room() -> None:
    book, _ = held(100, *invented(60))
    for n in range(51):
        book.forget(f"d{n}.evil.example {n}")
        book.forget(f"d{n}.evil.example {n}")
    assert len(book) == 9
    assert not book.full("d1.evil.example")


def test_the_time_of_what_was_taken_up_is_not_waited_for() -> None:
    book, clock = held(10)
    over: list[str] = []
    one, other = Left("a.example"), Left("a.example")
    book.wait("1", one, 60.0, lambda: over.append("1"))  # type: ignore[arg-type]
    book.wait("2", other, 60.0, lambda: over.append("2"))  # type: ignore[arg-type]
    assert set(map(id, book.broken())) == {id(one), id(other)}
    book.up("1", one)  # type: ignore[arg-type]
    assert book.get("1") is one
    clock.advance(61)
    assert over == ["2"]


@pytest.fixture
async def b(ca: Authority, names: Directory) -> Any:
    async with FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",)) as made:
        yield made


async def enabled(stream: Any) -> str:
    """The id that resumes the stream, "" if none does."""
    await stream.external()
    stream.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    heard = await stream.hear("<enabled")
    return heard.split("id='")[1].split("'")[0] if "id='" in heard else ""


async def test_who_connects_and_vanishes_leaves_room_for_others(ca: Authority, b: FederatedServer) -> None:
    """The streams of one domain that wait for it do not keep those of another from being resumable."""
    b.federation.resumable._most = 6
    files = ca.issue("evil.example"), ca.issue("a.example")
    ids = []
    for _ in range(5):
        async with peer(b, "evil.example", files[0]) as stream:
            ids.append(await enabled(stream))
            stream._writer.transport.abort()
    assert [bool(id_) for id_ in ids] == [True, True, True, False, False]
    async with peer(b, "a.example", files[1]) as stream:
        assert await enabled(stream)


async def test_nothing_is_left_of_what_was_taken_up(ca: Authority, b: FederatedServer) -> None:
    """However often: neither in memory nor in wait for the end of its time, which is of use to nobody."""
    files = ca.issue("a.example")
    juliet = await b.client("juliet@b.example/y", presence=True)
    gone: list[weakref.ref[Any]] = []
    id_ = ""
    for n in range(5):
        async with peer(b, "a.example", files) as stream:
            if n:
                await stream.external()
                stream.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{id_}' h='0'/>")
                assert f"<resumed xmlns='urn:xmpp:sm:3' previd='{id_}' h='{n}'/>" in await stream.hear("<resumed")
            else:
                id_ = await enabled(stream)
            await said(stream, juliet, n)
            [link] = b.federation.links
            gone.append(weakref.ref(link))
            del link
            stream._writer.transport.abort()
            await until(lambda: not b.federation.links)

    def left() -> list[Any]:
        gc.collect()
        return [link() for link in gone if link() is not None]

    await until(lambda: len(left()) == 1)  # whatever was under way for the others has ended
    [last] = left()
    assert last is b.federation.resumable.get(id_)
    assert last.chain == [] and last.tls is None and last.machine._parser._pull is None


async def said(stream: Any, juliet: Client, n: int) -> None:
    stream.send(message("x@a.example", str(n)))
    await juliet.expect(f"<message from='x@a.example' id='{n}'/>")


async def test_two_who_take_a_stream_up_at_the_same_time(ca: Authority, b: FederatedServer) -> None:
    """One has it in the end, with all counts, and nothing is handled twice; the other hears so, or loses its connection."""
    files = ca.issue("a.example")
    juliet = await b.client("juliet@b.example/y", presence=True)
    async with (
        peer(b, "a.example", files) as one,
        peer(b, "a.example", files) as two,
        peer(b, "a.example", files) as first,
    ):
        id_ = await enabled(first)
        await said(first, juliet, 1)
        await one.external()
        await two.external()
        for stream in (one, two):
            stream.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{id_}' h='0'/>")
        await until(lambda: any(link.acks is not None for link in b.federation.links if link.stanzas_in == 0))
        [link] = [link for link in b.federation.links if link.acks is not None]
        assert link.acks is not None and (link.acks.id, link.acks.handled) == (id_, 1)
        last, other = (one, two) if link.peer.endswith(f":{one._writer.get_extra_info('sockname')[1]}") else (two, one)
        await last.hear("h='1'/>")
        await said(last, juliet, 2)
        last.send("<r xmlns='urn:xmpp:sm:3'/>")
        await last.hear("<a xmlns='urn:xmpp:sm:3' h='2'/>")
        assert "<item-not-found" in await other.hear("</failed>")
        await juliet.expect_nothing()


async def test_a_stream_that_has_counters_gets_no_others(ca: Authority, b: FederatedServer) -> None:
    """Enabled twice, or resumed on what is enabled: neither, and what there is goes on (XEP-0198 §3)."""
    files = ca.issue("a.example")
    juliet = await b.client("juliet@b.example/y", presence=True)
    async with peer(b, "a.example", files) as left, peer(b, "a.example", files) as stream:
        other = await enabled(left)
        left._writer.transport.abort()
        id_ = await enabled(stream)
        await said(stream, juliet, 1)
        for again in (
            "<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
            f"<resume xmlns='urn:xmpp:sm:3' previd='{id_}' h='0'/>",
            f"<resume xmlns='urn:xmpp:sm:3' previd='{other}' h='0'/>",
        ):
            stream.send(again)
            assert "<unexpected-request" in await stream.hear("</failed>")
        await said(stream, juliet, 2)
        stream.send("<r xmlns='urn:xmpp:sm:3'/>")
        await stream.hear("<a xmlns='urn:xmpp:sm:3' h='2'/>")
