"""Who is told is remembered from one publication to the next; whatever changes it must be seen by the next one."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamish.core.events import Context, remote
from beamish.core.hooks import STOP, Row, Verdict
from beamish.core.sessions import CHANGED
from beamish.modules.pubsub import PubsubModule
from beamish.modules.pubsub.outbox import Outbox
from beamish.modules.pubsub.plans import PLANS
from beamish.testing.client import Client
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza

from .kit import OWNER, Stage
from .personal import TUNE, cast, publish, titles, tune


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes whose recipients were looked up, in order."""
    made: list[str] = []
    plan = Outbox.plan

    def counted(self: Outbox, host: Any, node: Any, *rest: Any, **more: Any) -> Any:
        made.append(node.name)
        return plan(self, host, node, *rest, **more)

    monkeypatch.setattr(Outbox, "plan", counted)
    return made


def outbox_of(stage: Stage) -> Outbox:
    module = stage.kernel.registry.module(PubsubModule)
    return module._outbox


async def remembered(stage: Stage, *clients: Client, plans: list[str], **options: str) -> None:
    """Juliet has published a few times, and the recipients were looked up once too often to be looked up again."""
    juliet = clients[0]
    await stage.set(juliet, publish("One", **options), to="")
    await stage.set(juliet, publish("Two"), to="")
    plans.clear()
    await stage.set(juliet, publish("Three"), to="")
    assert plans == []
    for client in clients:
        await titles(stage, client)


async def configure(stage: Stage, juliet: Client, field: str, value: str) -> None:
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>"
        "<value>http://jabber.org/protocol/pubsub#node_config</value></field>"
        f"<field var='pubsub#{field}'><value>{value}</value></field></x>"
    )
    await stage.set(juliet, f"<configure node='{TUNE}'>{form}</configure>", to="", ns=OWNER)


async def cancel(stage: Stage, juliet: Client, romeo: Client) -> None:
    juliet.send("<presence to='romeo@example.org' type='unsubscribed'/>")
    await stage.quiet(juliet)


async def leave_roster(stage: Stage, juliet: Client, romeo: Client) -> None:
    query = "<query xmlns='jabber:iq:roster'><item jid='romeo@example.org' subscription='remove'/></query>"
    await juliet.iq(f"<iq type='set' id='r'>{query}</iq>")


async def block(stage: Stage, juliet: Client, romeo: Client) -> None:
    await juliet.iq(
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>"
    )


async def lose_interest(stage: Stage, juliet: Client, romeo: Client) -> None:
    stage.caps.of(romeo.jid, "urn:other")


async def be_outcast(stage: Stage, juliet: Client, romeo: Client) -> None:
    outcast = "<affiliation jid='romeo@example.org' affiliation='outcast'/>"
    await stage.set(juliet, f"<affiliations node='{TUNE}'>{outcast}</affiliations>", to="", ns=OWNER)


async def close_node(stage: Stage, juliet: Client, romeo: Client) -> None:
    await configure(stage, juliet, "access_model", "whitelist")


async def go_offline(stage: Stage, juliet: Client, romeo: Client) -> None:
    romeo.send("<presence type='unavailable'/>")
    await stage.quiet(romeo)


@pytest.mark.parametrize(
    "change", [cancel, leave_roster, block, lose_interest, be_outcast, close_node, go_offline], ids=lambda f: f.__name__
)
async def test_who_may_no_longer_is_not_told(
    stage: Stage, plans: list[str], change: Callable[[Stage, Client, Client], Awaitable[None]]
) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    await change(stage, juliet, romeo)
    await titles(stage, romeo)
    await titles(stage, juliet)
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, romeo) == []
    assert await titles(stage, juliet) == ["Four"]


async def befriended(stage: Stage, juliet: Client, mercutio: Client) -> None:
    await stage.befriend(juliet, mercutio)


async def interested(stage: Stage, juliet: Client, mercutio: Client) -> None:
    await stage.befriend(juliet, mercutio)
    stage.caps.of(mercutio.jid, "urn:other")
    await stage.set(juliet, publish("unheard"), to="")
    await stage.set(juliet, publish("unheard"), to="")
    assert await titles(stage, mercutio) == []
    stage.caps.of(mercutio.jid, TUNE)


async def open_node(stage: Stage, juliet: Client, mercutio: Client) -> None:
    """Strangers who direct presence to an account get what is open to all."""
    mercutio.send("<presence to='juliet@example.org'/>")
    await stage.set(juliet, publish("unheard"), to="")
    await configure(stage, juliet, "access_model", "open")


async def directed(stage: Stage, juliet: Client, mercutio: Client) -> None:
    await configure(stage, juliet, "access_model", "open")
    for _ in range(2):
        await stage.set(juliet, publish("unheard"), to="")
    assert await titles(stage, mercutio) == []
    mercutio.send("<presence to='juliet@example.org'/>")


async def subscribed(stage: Stage, juliet: Client, mercutio: Client) -> None:
    stage.caps.of(mercutio.jid)
    await configure(stage, juliet, "access_model", "open")
    await stage.set(juliet, publish("unheard"), to="")
    await stage.subscribe(mercutio, TUNE, to="juliet@example.org")


async def member(stage: Stage, juliet: Client, mercutio: Client) -> None:
    """A member without contact who directs presence to the account."""
    mercutio.send("<presence to='juliet@example.org'/>")
    await stage.set(juliet, publish("unheard"), to="")
    assert await titles(stage, mercutio) == []
    what = "<affiliation jid='mercutio@example.org' affiliation='member'/>"
    await stage.set(juliet, f"<affiliations node='{TUNE}'>{what}</affiliations>", to="", ns=OWNER)


@pytest.mark.parametrize(
    "change", [befriended, interested, open_node, directed, subscribed, member], ids=lambda f: f.__name__
)
async def test_who_may_now_is_told(
    stage: Stage, plans: list[str], change: Callable[[Stage, Client, Client], Awaitable[None]]
) -> None:
    juliet, _, mercutio = await cast(stage)
    await remembered(stage, juliet, mercutio, plans=plans)
    await change(stage, juliet, mercutio)
    await titles(stage, mercutio)
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, mercutio) == ["Four"]


async def test_another_device_is_told_and_one_that_left_is_not(stage: Stage, plans: list[str]) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    stage.caps.of("romeo@example.org/tablet", TUNE)
    await stage.set(juliet, publish("Three"), to="")
    await titles(stage, romeo)
    tablet = await stage.login("romeo@example.org/tablet")
    assert await titles(stage, tablet, 1) == ["Three"]
    await stage.set(juliet, publish("Four"), to="")
    await stage.set(juliet, publish("Five"), to="")
    assert await titles(stage, tablet) == await titles(stage, romeo) == ["Four", "Five"]
    await tablet.close()
    await stage.quiet(romeo)
    outbox = outbox_of(stage)
    assert len(outbox.plans) == 0  # nothing holds on to the session
    await stage.set(juliet, publish("Six"), to="")
    assert await titles(stage, romeo) == ["Six"]


async def test_a_stranger_who_takes_presence_back_hears_no_more(stage: Stage, plans: list[str]) -> None:
    juliet, _, mercutio = await cast(stage)
    mercutio.send("<presence to='juliet@example.org'/>")
    await remembered(stage, juliet, mercutio, plans=plans, access_model="open")
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, mercutio) == ["Four"]
    mercutio.send("<presence to='juliet@example.org' type='unavailable'/>")
    await stage.quiet(mercutio)
    await stage.set(juliet, publish("Five"), to="")
    assert await titles(stage, mercutio) == []


async def test_nodes_are_remembered_each_by_itself_and_not_all(stage: Stage, plans: list[str]) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    for number in range(PLANS):
        await stage.set(juliet, tune("x", f"urn:node:{number}"), to="")
        await stage.set(juliet, tune("y", f"urn:node:{number}"), to="")
    outbox = outbox_of(stage)
    assert 0 < len(outbox.plans) <= PLANS
    assert await titles(stage, romeo) == []  # of those he wants none
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, romeo) == ["Four"]


# ---- what concerns others ------------------------------------------------------------------------------------------


async def nurse_comes_and_goes(stage: Stage, mercutio: Client) -> None:
    nurse = await stage.login("nurse@example.org/x")
    stage.caps.of(nurse.jid, TUNE)
    nurse.send("<presence type='unavailable'/>")
    nurse.send("<presence/>")
    await nurse.close()


async def mercutio_changes_interests(stage: Stage, mercutio: Client) -> None:
    stage.caps.of(mercutio.jid, "urn:other")
    stage.caps.of(mercutio.jid, TUNE)


async def mercutio_makes_a_friend(stage: Stage, mercutio: Client) -> None:
    nurse = await stage.login("nurse@example.org/x")
    await stage.befriend(mercutio, nurse)


async def mercutio_hears_from_elsewhere(stage: Stage, mercutio: Client) -> None:
    """Somebody of another server directs presence to him, and takes it back."""
    for what in ("", " type='unavailable'"):
        await elsewhere(stage, f"<presence from='a@example.com/x' to='{mercutio.jid.bare}'{what}/>")


async def elsewhere(stage: Stage, xml: str) -> None:
    rest = stage.kernel.router.route(Context(Stanza.parse(xml.encode())))
    if rest is not None:
        await rest
    await stage.quiet()


@pytest.mark.parametrize(
    "change",
    [nurse_comes_and_goes, mercutio_changes_interests, mercutio_makes_a_friend, mercutio_hears_from_elsewhere],
    ids=lambda f: f.__name__,
)
async def test_what_concerns_others_is_no_reason_to_look_again(
    stage: Stage, plans: list[str], change: Callable[[Stage, Client], Awaitable[None]]
) -> None:
    juliet, romeo, mercutio = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    await change(stage, mercutio)
    await stage.quiet(juliet, romeo)
    plans.clear()
    await stage.set(juliet, publish("Four"), to="")
    assert plans == []
    assert await titles(stage, romeo) == ["Four"]


async def test_somebody_elsewhere_is_told_as_long_as_there(stage: Stage, plans: list[str]) -> None:
    """Also with other interests than before."""
    out: list[Stanza] = []

    def carry(ctx: Context) -> Verdict:
        out.append(ctx.stanza)
        return STOP

    stage.kernel.hooks[remote].add(Row(1, "test", carry))
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans, access_model="open")
    far, to = "a@example.com/x", "to='juliet@example.org'"

    async def told(title: str) -> bool:
        out.clear()
        await stage.set(juliet, publish(title), to="")
        return [str(s.to) for s in out if s.name == MESSAGE and title.encode() in s.body] == [far]

    stage.caps.of(far, TUNE)
    assert not await told("Four")
    await elsewhere(stage, f"<presence from='{far}' {to}/>")
    assert await told("Five") and await told("Six")
    stage.caps.of(far, "urn:other")
    assert not await told("Seven")
    stage.caps.of(far, TUNE)
    assert await told("Eight")
    await elsewhere(stage, f"<presence from='{far}' {to} type='unavailable'/>")
    assert not await told("Nine")


async def test_more_changes_than_are_remembered_forget_everything(stage: Stage, plans: list[str]) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    sessions = stage.kernel.sessions
    session = sessions.get(romeo.jid)
    assert session is not None
    priority, presence = session.priority, session.presence
    sessions.presence_changed(session, None, None)  # said by nobody
    other = sessions.get(juliet.jid)
    assert other is not None
    for _ in range(CHANGED):
        sessions.changes += 1
        sessions.changed.append(JID("nobody@example.org/x"))
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, romeo) == []
    sessions.presence_changed(session, priority, presence)
    await stage.set(juliet, publish("Five"), to="")
    assert await titles(stage, romeo) == ["Five"]


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_remembered_is_what_would_be_found(stage: Stage, plans: list[str], seed: int) -> None:
    """After anything that may happen, in any order, to four accounts and somebody elsewhere."""
    rng = random.Random(seed)
    names = ("juliet", "romeo", "mercutio", "nurse")
    clients = {name: await stage.login(f"{name}@example.org/one") for name in names}
    second: dict[str, Client] = {}
    far = "far@example.com/x"
    stage.kernel.hooks[remote].add(Row(1, "test", lambda ctx: STOP))
    (module,) = [module for module in stage.kernel.registry.modules if isinstance(module, PubsubModule)]
    engine = module._engine
    for name in names:
        stage.caps.of(f"{name}@example.org/one", TUNE)
        await stage.set(clients[name], publish("x"), to="")
    blocked: set[tuple[str, str]] = set()
    asked = reused = 0
    for _ in range(120):
        one, two = rng.sample(names, 2)
        me, you, bare = clients[one], clients[two], f"{two}@example.org"
        what = rng.randrange(12)
        if what == 0:
            me.send(f"<presence{rng.choice(('', ' type=' + repr('unavailable')))}/>")
        elif what == 1:
            stage.caps.of(
                rng.choice((me.jid, JID(f"{one}@example.org/two"), JID(far))), *rng.choice(((TUNE,), ("urn:o",)))
            )
        elif what in (2, 3):
            me.send(f"<presence to='{bare}' type='subscribe'/>")
            await stage.quiet(me)
            you.send(f"<presence to='{me.jid.bare}' type='subscribed'/>")
        elif what == 4:
            me.send(f"<presence to='{bare}' type='{rng.choice(('unsubscribe', 'unsubscribed'))}'/>")
        elif what == 5:
            query = f"<query xmlns='jabber:iq:roster'><item jid='{bare}' subscription='remove'/></query>"
            me.send(f"<iq type='set' id='r'>{query}</iq>")
        elif what == 6:
            me.send(f"<presence to='{bare}'{rng.choice(('', ' type=' + repr('unavailable')))}/>")
        elif what == 7:
            if one in second:
                device = second.pop(one)
                if rng.random() < 0.5:
                    device.drop()
                else:
                    await device.close()
            else:
                second[one] = await stage.login(f"{one}@example.org/two", presence=rng.random() < 0.8)
        elif what == 8:
            does = "unblock" if (one, two) in blocked else "block"
            blocked ^= {(one, two)}
            me.send(f"<iq type='set' id='b'><{does} xmlns='urn:xmpp:blocking'><item jid='{bare}'/></{does}></iq>")
        elif what == 9:
            await configure(stage, me, "access_model", rng.choice(("open", "presence", "presence", "whitelist")))
        elif what == 10:
            kind = rng.choice(("", "", " type='unavailable'", " type='subscribe'"))
            await elsewhere(
                stage, f"<presence from='{far if 'sub' not in kind else JID(far).bare}' to='{me.jid.bare}'{kind}/>"
            )
        else:
            me.send(f"<presence to='{JID(far).bare}' type='{rng.choice(('subscribed', 'unsubscribed'))}'/>")
        await stage.quiet()
        for name in names:
            host = await engine.host(JID(f"{name}@example.org"), account=True)
            await engine.roster(host.jid)
            node = host.nodes[TUNE]
            plans.clear()
            planned = engine.plan_now(host, node)
            if planned is None:
                continue
            asked, reused = asked + 1, reused + (not plans)
            fresh, _ = await engine.plan(host, node)
            for field in ("sessions", "others"):
                got, wanted = getattr(planned[0], field), getattr(fresh, field)
                assert len(got) == len(wanted) and set(got) == set(wanted), (name, field)
            assert planned[0].strangers == fresh.strangers
    assert asked == 480 and reused > 30, "what is blocked or closed is looked up each time"
    for client in (*clients.values(), *second.values()):
        client.inbox.clear()
