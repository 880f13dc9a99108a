from typing import Any

import pytest

from beamish.core.hooks import STOP, SUBSCRIPTION, Hook, HookKind, HookPoint, Hooks, Outcome, Row
from beamish.core.later import is_later
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import Condition, StanzaError

GUARD = HookPoint[list[str]]("guarding", HookKind.GUARD, "A guard.")
OBSERVER = HookPoint[list[str]]("observing", HookKind.OBSERVER, "An observer.")


def note(name: str, outcome: Outcome = None, error: Exception | None = None):  # type: ignore[no-untyped-def]
    def handler(event: list[str]) -> Outcome:
        event.append(name)
        if error is not None:
            raise error
        return outcome

    return handler


def later(name: str, outcome: Outcome = None, error: Exception | None = None):  # type: ignore[no-untyped-def]
    async def handler(event: list[str]) -> Outcome:
        return note(name, outcome, error)(event)  # type: ignore[no-any-return]

    return handler


async def run(hook: Hook[list[str]]) -> tuple[list[str], Outcome]:
    seen: list[str] = []
    outcome = hook.run(seen)
    if is_later(outcome):
        outcome = await outcome  # type: ignore[misc]
    return seen, outcome  # type: ignore[return-value]


def hook_of(point: HookPoint[list[str]], *calls) -> Hook[list[str]]:  # type: ignore[no-untyped-def]
    hook = Hook(point)
    for call in calls:
        hook.add(Row(50, "me", call))
    return hook


async def test_handlers_run_in_order_and_ties_as_registered() -> None:
    hook = Hook(GUARD)
    for at, name in ((50, "c"), (10, "a"), (90, "e"), (50, "d"), (10, "b")):
        hook.add(Row(at, "me", note(name)))
    assert await run(hook) == (["a", "b", "c", "d", "e"], None)


@pytest.mark.parametrize("make", [note, later])
async def test_stop_ends_the_row(make) -> None:  # type: ignore[no-untyped-def]
    assert await run(hook_of(GUARD, note("a"), make("b", STOP), note("c"))) == (["a", "b"], STOP)


def test_plain_handlers_need_no_loop() -> None:
    assert hook_of(GUARD, note("a"), note("b")).run([]) is None


async def test_what_follows_a_coroutine_waits_for_it() -> None:
    assert await run(hook_of(GUARD, note("a"), later("b"), note("c"), later("d"), note("e"))) == (list("abcde"), None)


@pytest.mark.parametrize("make", [note, later])
async def test_a_crashing_guard_refuses(make, expected_errors: ExpectedErrors) -> None:  # type: ignore[no-untyped-def]
    expected_errors.add("hook_handler_failed")
    with pytest.raises(StanzaError) as caught:
        await run(hook_of(GUARD, make("a", error=ValueError("x")), note("b")))
    assert caught.value.condition is Condition.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize("error", [ValueError("x"), StanzaError(Condition.FORBIDDEN)])
@pytest.mark.parametrize("make", [note, later])
async def test_a_crashing_observer_stops_nobody(make, error: Exception, expected_errors: ExpectedErrors) -> None:  # type: ignore[no-untyped-def]
    expected_errors.add("hook_handler_failed")
    assert await run(hook_of(OBSERVER, make("a", error=error), note("b"), later("c"))) == (["a", "b", "c"], None)


@pytest.mark.parametrize("make", [note, later])
async def test_a_guard_says_why_it_refuses(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StanzaError) as caught:
        await run(hook_of(GUARD, later("a"), make("b", error=StanzaError(Condition.FORBIDDEN))))
    assert caught.value.condition is Condition.FORBIDDEN


async def test_an_owner_leaves_every_hook() -> None:
    hooks = Hooks()
    for point in (GUARD, OBSERVER):
        hooks[point].add(Row(1, "me", note("mine")))
        hooks[point].add(Row(2, "you", note("yours")))
    assert hooks[GUARD] is hooks[GUARD]
    hooks.remove("me")
    assert (await run(hooks[GUARD]))[0] == ["yours"]
    assert (await run(hooks[OBSERVER]))[0] == ["yours"]


def test_who_looks_at_what() -> None:
    hook = Hook(GUARD)
    hook.add(Row(1, "a", note("a"), only=frozenset(("message",))))
    hook.add(Row(1, "b", note("b"), only=frozenset(("presence",)), guarded=True))
    assert hook.everyone == {"message"}
    hook.remove("a")
    assert hook.everyone == frozenset()


def test_only_those_are_called_who_look_at_such_stanzas() -> None:
    hook = Hook(OBSERVER)
    messages, bodies = frozenset(("message",)), frozenset(("{a}body", "{a}text"))
    hook.add(Row(50, "all", note("all")))
    hook.add(Row(50, "messages", note("messages"), messages))
    hook.add(Row(50, "subscriptions", note("subscriptions"), frozenset((SUBSCRIPTION,))))
    hook.add(Row(50, "bodies", note("bodies"), messages, about=bodies))

    def whom(*args: Any) -> list[str]:
        called: list[str] = []
        hook.run(called, *args)
        return called

    assert whom() == ["all", "messages", "subscriptions", "bodies"]
    assert whom("message") == ["all", "messages", "bodies"]
    assert whom("presence") == ["all", "subscriptions"]
    assert whom("iq", ("{a}body",)) == ["all"]
    for _ in range(2):  # the second time from memory
        assert whom("message", ("{a}x", "{a}body")) == ["all", "messages", "bodies"]
        assert whom("message", ()) == ["all", "messages"]
    hook.remove("messages")
    assert whom("message", ()) == ["all"]
