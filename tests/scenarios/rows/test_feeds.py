"""Feeds in personal nodes, and what has been missed of them: XEP-0277, XEP-0472, XEP-0312."""

from __future__ import annotations

from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.xmpp.xml import Element

from .kit import capabilities, features, submission, tell
from .stage import Stage

PUBSUB = "http://jabber.org/protocol/pubsub"
ATOM = "http://www.w3.org/2005/Atom"
MICROBLOG = "urn:xmpp:microblog:0"
SOCIAL = "urn:xmpp:pubsub-social-feed:1"


def entry(id: str, title: str) -> str:
    link = f"<link rel='replies' href='xmpp:romeo@example.org?;node={MICROBLOG}:comments/{id}'/>"
    return (
        f"<entry xmlns='{ATOM}'><title type='text'>{title}</title><id>tag:example.org,2023:{id}</id>"
        f"<published>2023-11-14T22:13:20Z</published>{link}</entry>"
    )


async def publish(client: Client, node: str, id: str, payload: str, to: str = "", **options: str) -> None:
    at = f" to='{to}'" if to else ""
    inner = f"<publish node='{node}'><item id='{id}'>{payload}</item></publish>"
    if options:
        form = submission(f"{PUBSUB}#publish-options", {f"pubsub#{key}": value for key, value in options.items()})
        inner += f"<publish-options>{form}</publish-options>"
    await client.iq(f"<iq type='set' id='pub'{at}><pubsub xmlns='{PUBSUB}'>{inner}</pubsub></iq>")


def news(stanzas: list[Element], node: str) -> list[str | None]:
    """The ids of published items among what has arrived."""
    return [
        item.get("id")
        for el in stanzas
        for items in el.iter(f"{{{PUBSUB}#event}}items")
        if items.get("node") == node
        for item in items.findall(f"{{{PUBSUB}#event}}item")
    ]


async def test_a_microblog(stage: Stage) -> None:
    """0277: posts are kept and told, comments have a node of their own that others write to, posts can be taken back."""
    c, node, answer = capabilities(f"{MICROBLOG}+notify")
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.befriend(romeo, benvolio)
    benvolio.send(f"<presence>{c}</presence>")
    for _ in range(2):  # his server asks, and Romeo's
        await tell(stage, benvolio, node, answer)
    # without a pause: whoever becomes known while something is being published gets it, once, or what came after it
    for number in (1, 2, 3):
        await publish(romeo, MICROBLOG, f"post-{number}", entry(f"post-{number}", f"Post {number}"), max_items="20")
    got = news(await stage.take(benvolio), MICROBLOG)
    assert got, "at least the last"
    assert got == ["post-1", "post-2", "post-3"][-len(got) :], "none behind a later one"
    comments = f"{MICROBLOG}:comments/post-1"
    await publish(
        romeo, comments, "first", entry("first", "Mine"), access_model="presence", publish_model="open", max_items="50"
    )
    await publish(benvolio, comments, "second", entry("second", "Well said"), "romeo@example.org")
    await stage.restart()
    get = "<iq type='get' id='get' to='romeo@example.org'><pubsub xmlns='{0}'><items node='{1}'/></pubsub></iq>"
    posts = await benvolio.iq(get.format(PUBSUB, MICROBLOG))
    found = [item.get("id") for item in posts.iter(f"{{{PUBSUB}}}item")]
    assert sorted(map(str, found)) == ["post-1", "post-2", "post-3"]
    wanted = f"<iq><pubsub xmlns='{PUBSUB}'><items><item id='post-2'>{entry('post-2', 'Post 2')}</item></items></pubsub></iq>"
    assert mismatch(wanted, posts) == ""
    said = await benvolio.iq(get.format(PUBSUB, comments))
    assert {el.text for el in said.iter(f"{{{ATOM}}}title")} == {"Mine", "Well said"}
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    await stage.clear()
    back = f"<retract node='{MICROBLOG}' notify='true'><item id='post-2'/></retract>"
    await romeo.iq(f"<iq type='set' id='r'><pubsub xmlns='{PUBSUB}'>{back}</pubsub></iq>")
    retracted = f"<event xmlns='{PUBSUB}#event'><items node='{MICROBLOG}'><retract id='post-2'/></items></event>"
    await stage.seek(benvolio, f"<message from='romeo@example.org'>{retracted}</message>")


async def test_a_social_feed(stage: Stage) -> None:
    """0472: a feed is told by the type of its node, in the node's form and in what the service says about it."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    service = "pubsub.example.org"
    config = submission(f"{PUBSUB}#node_config", {"pubsub#type": SOCIAL, "pubsub#title": "Verona's news"})
    create = f"<create node='verona'/><configure>{config}</configure>"
    await romeo.iq(f"<iq type='set' id='c' to='{service}'><pubsub xmlns='{PUBSUB}'>{create}</pubsub></iq>")
    subscribe = "<subscribe node='verona' jid='benvolio@example.net'/>"
    await benvolio.iq(f"<iq type='set' id='s' to='{service}'><pubsub xmlns='{PUBSUB}'>{subscribe}</pubsub></iq>")
    await publish(romeo, "verona", "brawl", entry("brawl", "Brawl in the square"), service)
    assert news(await stage.take(benvolio), "verona") == ["brawl"]
    info = await benvolio.iq(
        f"<iq type='get' id='i' to='{service}'><query xmlns='http://jabber.org/protocol/disco#info' node='verona'/></iq>"
    )
    told = {f.get("var"): f.findtext("{jabber:x:data}value") for f in info.iter("{jabber:x:data}field")}
    assert told["pubsub#type"] == SOCIAL and told["pubsub#title"] == "Verona's news"


async def test_what_was_missed_since_the_last_time(stage: Stage) -> None:
    """0312: who says when they were last there gets everything since then, and not only the last item."""
    c, node, answer = capabilities(f"{MICROBLOG}+notify")
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", extra=c)
    await tell(stage, juliet, node, answer)
    await stage.befriend(romeo, juliet)
    assert f"{PUBSUB}#since" in await features(juliet, "pubsub.example.org")
    await publish(romeo, MICROBLOG, "before", entry("before", "Seen"), max_items="20")
    await stage.clear()
    await stage.leave(juliet)
    await stage.pass_time(3600)
    for number in (1, 2, 3):
        await publish(romeo, MICROBLOG, f"missed-{number}", entry(f"missed-{number}", f"Post {number}"))
        await stage.pass_time(60)
    juliet = await stage.login("juliet@example.org/garden", extra=f"{c}<ago xmlns='urn:xmpp:ago:0' secs='1800'/>")
    last = "missed-3"
    wanted = f"<event xmlns='{PUBSUB}#event'><items node='{MICROBLOG}'><item id='{last}'/></items></event>"
    await stage.seek(juliet, f"<message from='romeo@example.org'>{wanted}</message>")
    others = news(await stage.take(juliet), MICROBLOG)
    assert others == ["missed-1", "missed-2"]
    # who says nothing gets the last one alone
    tablet = await stage.login("juliet@example.org/tablet", extra=c)
    await stage.seek(tablet, f"<message from='romeo@example.org'>{wanted}</message>")
    assert news(await stage.take(tablet), MICROBLOG) == []
