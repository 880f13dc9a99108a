"""Accounts of other servers (XEP-0227)."""

from beamish.modules.portable.module import PortableModule

__all__ = ["PortableModule"]
