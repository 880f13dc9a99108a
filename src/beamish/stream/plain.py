"""Words of plain XML, for those who recognise what is common from its bytes: `stream.quick` and `stream.known`.

Each expression accepts less than XML 1.0 does, and nothing that is not well-formed where it stands: no references but the five
that are predefined, no prefixes but `xml:`, no control characters. There are two strengths. For stanzas, every repetition is
possessive, so that nothing ever backtracks, and there is one space before an attribute and none around its `=`, as nearly
everybody writes. For what comes before, white space may stand where XML allows it, and all is printable ASCII.
"""

from __future__ import annotations

from typing import Final

SPACE: Final = rb"[ \t\r\n]"
"""White space (XML 1.0 §2.3)."""

# ---- in stanzas --------------------------------------------------------------------------------------------------------

NAME: Final = rb"[A-Za-z_][\w.-]*+"
"""A name without a prefix (XML 1.0 §2.3), in ASCII."""
VALUE: Final = rb"(?:'[^'<&>\x00-\x1f]*+'|\"[^\"<&>\x00-\x1f]*+\")"
"""The value of an attribute with its quotes, without references, and nothing in it that a parser would normalise."""
ATTRIBUTE: Final = rb" (?:xml:lang|%b)=%b" % (NAME, VALUE)
"""One attribute, with the space before it."""
PAIR: Final = rb" ([\w.:-]+)=(?:'([^']*)'|\"([^\"]*)\")"
"""Key and value (the second or the third group) of what `ATTRIBUTE` has accepted."""
_CHARACTERS: Final = rb"[^<&>\x00-\x08\x0b-\x1f]*+"
TEXT: Final = rb"(?![ \t\n]{16})%b(?:&(?:amp|lt|gt|quot|apos);%b)*+" % (_CHARACTERS, _CHARACTERS)
"""Text between tags. Blank ones of 16 characters and more are a matter of the name ledger (`stream.names`)."""

# ---- before there are any ----------------------------------------------------------------------------------------------

ASCII_TEXT: Final = rb"[ !\"#-%'-;=?-~]*"
"""Printable ASCII but `&`, `<` and `>`."""
_ASCII: Final = rb"[ !#-%(-;=?-~]*"
ASCII_ATTRIBUTE: Final = rb"%b+(?:xml(?:ns)?:)?[a-z]+%b*=%b*(?:'%b'|\"%b\")" % (SPACE, SPACE, SPACE, _ASCII, _ASCII)
"""One attribute, with the white space before it: a key of small letters, a value without references and quotes."""
ASCII_PAIR: Final = rb"([a-z:]+)%b*=%b*(?:'(%b)'|\"(%b)\")" % (SPACE, SPACE, _ASCII, _ASCII)
"""Key and value (the second or the third group) of what `ASCII_ATTRIBUTE` has accepted."""
