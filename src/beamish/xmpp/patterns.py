"""Regular expressions that never backtrack, on every Python that has them.

Possessive repetitions came with Python 3.11. Until 3.11.4 the engine does not go back behind an iteration that fails halfway,
so `(?:ab?c)++` finds three bytes in `aca` where there are two: a pattern that accepts well-formed XML only would accept
`<message><a></message>`. Debian 12 has such a Python. There the same pattern is compiled without possession. What it accepts
is the same, as long as no repetition can give back what something behind it takes; then it only looks a little longer at
what it declines.
"""

from __future__ import annotations

import re
from typing import Final

_POSSESSIVE: Final = re.compile(rb"(?<=[*+?}])\+")


def is_sound() -> bool:
    """Whether this Python's engine handles possessive repetitions as it should (CPython issue 106052)."""
    found = re.match(rb"(?:ab?c)++", b"aca")
    return found is not None and found.end() == 2


def without_possession(pattern: bytes) -> bytes:
    """The pattern with plain greedy repetitions. None of its sets of characters may hold a `+` behind one of `*+?}`."""
    return _POSSESSIVE.sub(b"", pattern)


def compiled(pattern: bytes) -> re.Pattern[bytes]:
    """Compile a pattern with possessive repetitions that does not depend on them for what it accepts."""
    return re.compile(pattern if _SOUND else without_possession(pattern))


_SOUND: Final = is_sound()
