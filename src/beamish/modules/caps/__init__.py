"""Entity capabilities (XEP-0115, XEP-0390)."""

from beamish.modules.caps.module import CapsModule

__all__ = ["CapsModule"]
