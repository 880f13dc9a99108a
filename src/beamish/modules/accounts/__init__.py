"""Local accounts and their SCRAM keys."""

from beamish.modules.accounts.module import AccountsModule

__all__ = ["AccountsModule"]
