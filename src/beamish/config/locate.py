"""Where each key of a TOML document stands, so that a complaint can name its line.

The standard library's parser gives values without positions. This is not a second parser: it walks a text that
`tomllib` has already accepted, so it only needs to tell keys, strings and brackets apart, never to judge them.
"""

import tomllib
from dataclasses import dataclass
from typing import Final

Path = tuple[str | int, ...]

_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_SPACE: Final = frozenset(" \t")
_BLANK: Final = frozenset(" \t\r\n")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text: line and column, both counted from 1 (columns in characters)."""

    line: int
    column: int


def locate(text: str) -> dict[Path, Position]:
    """Map every key and array element of a valid TOML document to the place where it is first written.

    Paths hold keys as text and array indices as numbers: `("server", "domains", 1)`. Tables are at their header,
    or at the dotted key that made them. A text that `tomllib` refuses gives an incomplete map or `ValueError`.
    """
    return _Walk(text).document()


class _Walk:
    """One pass over a document; `at` is the offset of the next character to look at."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, Position] = {}
        self.table_counts: dict[Path, int] = {}
        self._line = 1
        self._line_start = 0
        self._counted = 0

    def document(self) -> dict[Path, Position]:
        table: Path = ()
        while self._skip_blank():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.found

    # -- places ---------------------------------------------------------------------------------------------------

    def _note(self, path: Path, offset: int) -> None:
        if path in self.found:
            return
        # Offsets only grow from call to call, so the newlines of the whole text are counted once.
        newline = self.text.find("\n", self._counted, offset)
        while newline != -1:
            self._line += 1
            self._line_start = newline + 1
            newline = self.text.find("\n", newline + 1, offset)
        self._counted = max(self._counted, offset)
        self.found[path] = Position(self._line, offset - self._line_start + 1)

    # -- blanks ---------------------------------------------------------------------------------------------------

    def _skip(self, what: frozenset[str]) -> None:
        while self.at < len(self.text) and self.text[self.at] in what:
            self.at += 1

    def _skip_blank(self) -> bool:
        """Pass over white space, line ends and comments; False at the end of the text."""
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return False
            if self.text[self.at] != "#":
                return True
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end == -1 else end

    def _expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self.at):
            raise ValueError(f"expected {mark!r} at offset {self.at}")
        self.at += len(mark)

    # -- keys -----------------------------------------------------------------------------------------------------

    def _header(self) -> Path:
        is_array = self.text.startswith("[[", self.at)
        start = self.at
        self.at += 2 if is_array else 1
        keys = [key for key, _ in self._dotted_key()]
        self._expect("]]" if is_array else "]")
        path = self._enter(keys[:-1], start)
        path = (*path, keys[-1])
        self._note(path, start)
        if is_array:
            index = self.table_counts.get(path, 0)
            self.table_counts[path] = index + 1
            path = (*path, index)
            self._note(path, start)
        elif path in self.table_counts:
            path = (*path, self.table_counts[path] - 1)
        return path

    def _enter(self, keys: list[str], offset: int) -> Path:
        """The path of a header's leading keys; a key that names an array of tables means its last table."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            self._note(path, offset)
            if path in self.table_counts:
                path = (*path, self.table_counts[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for key, offset in self._dotted_key():
            path = (*path, key)
            self._note(path, offset)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path)

    def _dotted_key(self) -> list[tuple[str, int]]:
        keys = []
        while True:
            self._skip(_SPACE)
            start = self.at
            if self.text[self.at : self.at + 1] in ('"', "'"):
                self._string()
                # A quoted key may hold escapes; the one who knows them all reads it.
                keys.append((tomllib.loads(f"key = {self.text[start : self.at]}")["key"], start))
            else:
                self._skip(_BARE)
                if self.at == start:
                    raise ValueError(f"expected a key at offset {start}")
                keys.append((self.text[start : self.at], start))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    # -- values ---------------------------------------------------------------------------------------------------

    def _value(self, path: Path) -> None:
        first = self.text[self.at : self.at + 1]
        if first in ('"', "'"):
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\r\n":
                self.at += 1

    def _string(self) -> None:
        quote = self.text[self.at]
        long = quote * 3
        mark = long if self.text.startswith(long, self.at) else quote
        self.at += len(mark)
        while not self.text.startswith(mark, self.at):
            if self.at >= len(self.text):
                raise ValueError("a string does not end")
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(mark)
        if mark == long:  # up to two quotes may stand right before the closing three
            while self.text.startswith(quote, self.at):
                self.at += 1

    def _array(self, path: Path) -> None:
        self._expect("[")
        index = 0
        while self._skip_blank() and self.text[self.at] != "]":
            self._note((*path, index), self.at)
            self._value((*path, index))
            index += 1
            self._skip_blank()
            if self.text.startswith(",", self.at):
                self.at += 1
        self._expect("]")

    def _inline_table(self, path: Path) -> None:
        self._expect("{")
        # Blank lines and comments inside are TOML 1.1; passing over them here costs nothing.
        while self._skip_blank() and self.text[self.at] != "}":
            self._pair(path)
            self._skip_blank()
            if self.text.startswith(",", self.at):
                self.at += 1
        self._expect("}")
