"""Requests to the server and requests of the server."""

from __future__ import annotations

import asyncio

import pytest

from beamish.core.events import Context
from beamish.core.iq import IqTimeout
from beamish.core.module import Scope
from beamish.testing import World
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

TAG = "{urn:test}q"
Q = "<q xmlns='urn:test'/>"


def answer(ctx: Context) -> Stanza:
    return ctx.stanza.reply(b"<a xmlns='urn:test'/>")


async def later(ctx: Context) -> Stanza:
    await asyncio.sleep(0)
    return answer(ctx)


def refuse(ctx: Context) -> Stanza:
    raise StanzaError(Condition.NOT_ALLOWED)


async def refuse_later(ctx: Context) -> Stanza:
    await asyncio.sleep(0)
    raise StanzaError(Condition.NOT_ALLOWED)


def crash(ctx: Context) -> Stanza:
    raise RuntimeError("bug")


async def crash_later(ctx: Context) -> Stanza:
    raise RuntimeError("bug")


@pytest.mark.parametrize(
    ("scope", "to", "condition"),
    [
        (Scope.SERVER, "example.org", ""),
        (Scope.SERVER, "example.net", ""),
        (Scope.SERVER, "romeo@example.org", "service-unavailable"),
        (Scope.SERVER, "", "service-unavailable"),
        (Scope.ACCOUNT, "", ""),
        (Scope.ACCOUNT, "juliet@example.org", ""),
        (Scope.ACCOUNT, "stranger@example.org", "service-unavailable"),
        (Scope.ACCOUNT, "example.org", "service-unavailable"),
        (Scope.ANY, "example.org", ""),
        (Scope.ANY, "romeo@example.org", ""),
        (Scope.OWN, "", ""),
        (Scope.OWN, "romeo@example.org", ""),
        (Scope.OWN, "juliet@example.org", "forbidden"),
        (Scope.OWN, "stranger@example.org", "forbidden"),
        (Scope.OWN, "example.org", "service-unavailable"),
        (Scope.NO_ACCOUNT | Scope.ACCOUNT, "stranger@example.org", ""),
    ],
)
async def test_scopes(scope: Scope, to: str, condition: str, world: World) -> None:
    world.kernel.iq.add("get", TAG, scope, "test", answer)
    romeo = await world.login("romeo@example.org/orchard")
    address = f" to='{to}'" if to else ""
    got = await romeo.iq(f"<iq type='get' id='1'{address}>{Q}</iq>", "error" if condition else "result")
    assert got.get("from") == (to or None)
    if condition:
        assert got.find(f".//{{*}}{condition}") is not None
    else:
        assert got[0].tag == "{urn:test}a"
    await romeo.iq(f"<iq type='set' id='2'{address}>{Q}</iq>", "error")


@pytest.mark.parametrize(
    ("handler", "condition"),
    [(answer, ""), (later, ""), (refuse, "not-allowed"), (refuse_later, "not-allowed"),
     (crash, "internal-server-error"), (crash_later, "internal-server-error")],
)  # fmt: skip
async def test_however_a_handler_ends_there_is_one_answer(
    handler, condition: str, world: World, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("iq_handler_failed")
    world.kernel.iq.add("get", TAG, Scope.ANY, "test", handler)
    romeo = await world.login("romeo@example.org/orchard")
    got = await romeo.iq(f"<iq type='get' id='1'>{Q}</iq>", "error" if condition else "result")
    assert not condition or got.find(f".//{{*}}{condition}") is not None
    await romeo.expect_nothing()


@pytest.mark.parametrize("error", [StanzaError(Condition.NOT_ALLOWED), RuntimeError("bug")])
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_fails_after_the_answer_is_not_answered_again(
    world: World, error: Exception, at_once: bool, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("iq_handler_failed")

    def now(ctx: Context) -> None:
        world.kernel.iq.answer_early(ctx, answer(ctx))
        raise error

    async def soon(ctx: Context) -> None:
        world.kernel.iq.answer_early(ctx, answer(ctx))
        await asyncio.sleep(0)
        raise error

    world.kernel.iq.add("get", TAG, Scope.SERVER, "test", now if at_once else soon)
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send(f"<iq type='get' id='1' to='example.org'>{Q}</iq>")
    await romeo.expect("<iq type='result' id='1'/>")
    await romeo.expect_nothing()


async def test_two_handlers_of_one_request_are_a_mistake(world: World) -> None:
    world.kernel.iq.add("get", TAG, Scope.SERVER, "one", answer)
    world.kernel.iq.add("get", TAG, Scope.ACCOUNT, "one", answer)
    with pytest.raises(ValueError, match="both answer"):
        world.kernel.iq.add("get", TAG, Scope.ANY, "two", answer)
    world.kernel.iq.remove("one")
    world.kernel.iq.add("get", TAG, Scope.ANY, "two", answer)


async def test_a_request_of_the_server(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    other = await world.login("romeo@example.org/other")
    asked = asyncio.ensure_future(world.kernel.iq.request("get", romeo.jid, b"<q xmlns='urn:test'/>"))
    got = await romeo.expect(f"<iq type='get' from='example.org' to='{romeo.jid}'>{Q}</iq>")
    other.send(f"<iq type='result' id='{got.get('id')}' to='example.org'/>")
    await world.settle()
    assert not asked.done(), "somebody else's answer is none"
    romeo.send(f"<iq type='result' id='{got.get('id')}' to='example.org'><a xmlns='urn:test'/></iq>")
    answered = await asked
    assert answered.type == "result"
    assert answered.sender == romeo.jid
    assert not world.kernel.iq._waiting


async def test_an_error_is_an_answer_and_silence_is_none(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    nobody = JID.parse("romeo@example.org/nobody")
    assert (await world.kernel.iq.request("get", nobody, b"<q xmlns='urn:test'/>")).type == "error"
    asked = asyncio.ensure_future(world.kernel.iq.request("get", romeo.jid, b"<q xmlns='urn:test'/>", timeout=5))
    await romeo.expect("<iq type='get'/>")
    await world.pass_time(6)
    with pytest.raises(IqTimeout):
        await asked
    cancelled = asyncio.ensure_future(world.kernel.iq.request("get", romeo.jid, b"<q xmlns='urn:test'/>"))
    await romeo.expect("<iq type='get'/>")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not world.kernel.iq._waiting
