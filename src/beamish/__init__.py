"""Beamish: an XMPP server daemon."""

__version__ = "0.1.0"
