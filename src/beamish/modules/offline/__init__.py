"""Messages for accounts that nobody is logged in to (XEP-0160)."""

from beamish.modules.offline.module import OfflineModule

__all__ = ["OfflineModule"]
