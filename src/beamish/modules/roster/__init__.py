"""RFC 6121 §2: rosters."""

from beamish.modules.roster.module import RosterModule

__all__ = ["RosterModule"]
