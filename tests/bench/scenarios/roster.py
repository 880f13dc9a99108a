"""Subscriptions made through the protocol itself (RFC 6121 §3.1), so that set-up works with every server."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.wire import BenchError, Client, sender_of, stanza_type

AT_ONCE = 20


async def subscribe_all(contacts: Sequence[Client], user: Client) -> None:
    """Subscribe every contact to the user's presence, and return when each has been approved and seen it.

    Raises BenchError when the server refuses. `subscribe_back` makes the subscriptions mutual.
    """
    bare = user.jid.partition("/")[0]
    for first in range(0, len(contacts), AT_ONCE):
        group = contacts[first : first + AT_ONCE]
        asking = {contact.jid.partition("/")[0] for contact in group}
        for contact in group:
            contact.send(f"<presence type='subscribe' to='{bare}'/>".encode())
        while asking:
            request = await user.read()
            if not request.startswith(b"<presence") or stanza_type(request) != "subscribe":
                continue  # roster pushes
            sender = sender_of(request)
            asking.discard(sender)
            user.send(f"<presence type='subscribed' to='{sender}'/>".encode())
        for contact in group:
            await contact.read_until(lambda s: s.startswith(b"<presence") and stanza_type(s) == "subscribed")
    for contact in contacts:
        # The user's current presence follows the approval (RFC 6121 §3.1.5), and must not be taken for a load's.
        await contact.quiet()
    for stanza in await user.quiet():
        if stanza_type(stanza) == "error":
            raise BenchError(f"a subscription failed: {stanza.decode()}")


async def subscribe_back(user: Client, contacts: Sequence[Client]) -> None:
    """Subscribe the user to the presence of every contact."""
    for contact in contacts:
        user.send(f"<presence type='subscribe' to='{contact.jid.partition('/')[0]}'/>".encode())
    bare = user.jid.partition("/")[0]
    for contact in contacts:
        await contact.read_until(lambda s: s.startswith(b"<presence") and stanza_type(s) == "subscribe")
        contact.send(f"<presence type='subscribed' to='{bare}'/>".encode())
    waiting = len(contacts)
    while waiting:
        answer = await user.read()
        waiting -= answer.startswith(b"<presence") and stanza_type(answer) == "subscribed"
    for client in (user, *contacts):
        await client.quiet()
