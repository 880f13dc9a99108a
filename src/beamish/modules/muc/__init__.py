"""XEP-0045: rooms for many, and what belongs to them: archive, moderation, hats, pictures, search.

`room` and `administration` are the rules, pure and without a loop; `talk`, `requests` and their neighbours turn stanzas
into calls of them; `fanout` carries out what they decide; `store` and `archive` keep what must outlive the process.
"""

from beamish.modules.muc.service import MucModule

__all__ = ["MucModule"]
