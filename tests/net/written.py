"""What clients write, for tests that look at every byte."""

from __future__ import annotations

import base64

STREAM = "http://etherx.jabber.org/streams"
HEADER = f"<stream:stream to='example.org' version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


def plain(user: str, password: str) -> str:
    """The element that logs in with SASL PLAIN."""
    message = "\0".join(("", user, password)).encode()
    return f"<auth xmlns='{SASL}' mechanism='PLAIN'>{base64.b64encode(message).decode()}</auth>"
