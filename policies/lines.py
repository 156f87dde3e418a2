"""On which line each key of a TOML file is: `tomllib` reads values and forgets where they stood."""

import re

Path = tuple[str | int, ...]

_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"{3}(?:[^\\]|\\[\s\S])*?"{3,5}'
    r"|'{3}[\s\S]*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_SCALAR = re.compile(r"[^\s,\]}#]+(?: [0-9]{2}:[^\s,\]}#]+)?")  # a moment may hold a blank
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def lines_of(text: str) -> dict[Path, int]:
    """The line, counted from 1, of every table, key and entry of a list, by the path to it; that of
    its first mention where there are several.

    `text` must be TOML that `tomllib` has read.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """Walks over a document that is known to be right, so it checks nothing."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._many: dict[Path, int] = {}  # tables that there are several of: the newest

    def document(self) -> None:
        table: Path = ()
        while self._skip() < len(self._text):
            line = self._line
            if not self._takes("["):
                self._pair(table)
                continue
            many = self._takes("[")
            table = ()
            for word in self._key():
                table = (*table, word)
                self.lines.setdefault(table, line)
                if table in self._many:
                    table = (*table, self._many[table])
            self._takes("]")
            if many:
                self._takes("]")
                # The last word named a list: this is one more entry of it.
                name = table[:-1] if isinstance(table[-1], int) else table
                self._many[name] = self._many.get(name, -1) + 1
                table = (*name, self._many[name])
                self.lines[table] = line

    def _pair(self, table: Path) -> None:
        line, path = self._line, table
        for word in self._key():
            path = (*path, word)
            self.lines.setdefault(path, line)
        self._takes("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip()
        if self._takes("["):
            self._list(path)
        elif self._takes("{"):
            while not self._takes("}"):
                self._pair(path)
                self._takes(",")
        else:
            self._word(_STRING) or self._word(_SCALAR)

    def _list(self, path: Path) -> None:
        count = 0
        while not self._takes("]"):
            self._skip()
            self.lines[*path, count] = self._line
            self._value((*path, count))
            self._takes(",")
            count += 1

    def _key(self) -> list[str]:
        words = [_unquoted(self._word(_KEY))]
        while self._takes("."):
            words.append(_unquoted(self._word(_KEY)))
        return words

    def _word(self, shape: re.Pattern[str]) -> str:
        self._skip()
        match = shape.match(self._text, self._at)
        if match is None:
            return ""
        self._move(match.end())
        return match[0]

    def _takes(self, mark: str) -> bool:
        self._skip()
        if not self._text.startswith(mark, self._at):
            return False
        self._move(self._at + len(mark))
        return True

    def _skip(self) -> int:
        match = _BLANK.match(self._text, self._at)
        if match is not None:
            self._move(match.end())
        return self._at

    def _move(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to


def _unquoted(word: str) -> str:
    if word.startswith("'"):
        return word[1:-1]
    if not word.startswith('"'):
        return word
    return _ESCAPE.sub(_unescaped, word[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    short, long, char = match.groups()
    return chr(int(short or long, 16)) if char is None else _ESCAPED.get(char, char)
