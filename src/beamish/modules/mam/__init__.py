"""XEP-0313 and what goes with it: the message archive of accounts."""

from beamish.modules.mam.module import MamModule

__all__ = ["MamModule"]
