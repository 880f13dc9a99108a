"""Profiles: vCards, photos, avatars (XEP-0054, XEP-0153, XEP-0292, XEP-0398)."""

from beamish.modules.vcard.module import VcardModule

__all__ = ["VcardModule"]
