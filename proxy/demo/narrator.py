"""The voice of the demo: plain text, and a little emphasis where a person is watching."""

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

WIDTH = 88


class Narrator:
    """Tells on stdout. Nothing but text when that is not a terminal."""

    def __init__(self) -> None:
        self._styled = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._step = 0

    def step(self, title: str) -> None:
        self._step += 1
        self._write(f"\n{self._style('1', f'{self._step}. {title}')}\n")

    def tell(self, text: str) -> None:
        """Prose."""
        self._write(
            textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False) + "\n"
        )

    def command(self, line: str) -> None:
        """What one would type."""
        self._write(f"\n  {self._style('1', '$ ' + line)}\n")

    def quote(self, lines: Iterable[str]) -> None:
        """What a program said or is."""
        for line in lines:
            self._write(f"  {self._style('2', '|')} {line}".rstrip() + "\n")

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        listed = list(facts)
        width = max(len(name) for name, _ in listed)
        for name, value in listed:
            self._write(f"  {name.ljust(width)}  {value}\n")

    def block(self, text: str) -> None:
        self._write(textwrap.indent(text.rstrip("\n"), "  ") + "\n")

    def blank(self) -> None:
        self._write("\n")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Something that takes a moment, with the time it took."""
        self._write(f"  {what} … ")
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self._write("\n")
            raise
        self._write(f"{time.monotonic() - began:.1f} s\n")

    def _style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._styled else text

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
