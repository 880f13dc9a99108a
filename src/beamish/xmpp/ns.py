"""Namespace names of the core protocols, in one place; a feature's own namespaces live in its module."""

from typing import Final

STREAM: Final = "http://etherx.jabber.org/streams"
CLIENT: Final = "jabber:client"
SERVER: Final = "jabber:server"
COMPONENT: Final = "jabber:component:accept"
DIALBACK: Final = "jabber:server:dialback"
XML: Final = "http://www.w3.org/XML/1998/namespace"

TLS: Final = "urn:ietf:params:xml:ns:xmpp-tls"
SASL: Final = "urn:ietf:params:xml:ns:xmpp-sasl"
BIND: Final = "urn:ietf:params:xml:ns:xmpp-bind"
SESSION: Final = "urn:ietf:params:xml:ns:xmpp-session"
STREAMS: Final = "urn:ietf:params:xml:ns:xmpp-streams"
"""Stream error conditions (RFC 6120 §4.9.3)."""
STANZAS: Final = "urn:ietf:params:xml:ns:xmpp-stanzas"
"""Stanza error conditions (RFC 6120 §8.3.3)."""

SASL_CB: Final = "urn:xmpp:sasl-cb:0"
LIMITS: Final = "urn:xmpp:stream-limits:0"
ROSTER: Final = "jabber:iq:roster"
ROSTER_VER: Final = "urn:xmpp:features:rosterver"
PRE_APPROVAL: Final = "urn:xmpp:features:pre-approval"
DISCO_INFO: Final = "http://jabber.org/protocol/disco#info"
DISCO_ITEMS: Final = "http://jabber.org/protocol/disco#items"
DELAY: Final = "urn:xmpp:delay"
PING: Final = "urn:xmpp:ping"
DATA: Final = "jabber:x:data"
RSM: Final = "http://jabber.org/protocol/rsm"

XML_LANG: Final = f"{{{XML}}}lang"
