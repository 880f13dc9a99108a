"""RFC 6121 §3 and §4: subscriptions and presence."""

from beamish.modules.presence.module import PresenceModule

__all__ = ["PresenceModule"]
