"""What the file and the environment say, merged, with the origin of every value kept."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from proxy.settings.errors import SettingsError

Key = tuple[str, ...]  # ("listen", "proxy")
PREFIX = "AUTOPAY_"


@dataclass(frozen=True, slots=True)
class Sources:
    """`values` as nested tables; `variables` names the environment variable behind a key."""

    values: Mapping[str, Any]
    variables: Mapping[Key, str]
    file: Path | None

    def origin(self, key: Key) -> str:
        """Where the value of `key`, or of the table around it, was written."""
        for length in range(len(key), 0, -1):
            if variable := self.variables.get(key[:length]):
                return variable
        # A table that only variables made: name them rather than a file that does not hold it.
        below = [name for at, name in self.variables.items() if at[: len(key)] == key]
        return below[0] if below else str(self.file)


def read_sources(file: Path | None, environ: Mapping[str, str]) -> Sources:
    """Merge `file` with `environ`. Raises SettingsError if the file cannot be read as TOML.

    A variable that is empty counts as not set. DATABASE_URL, which other programs read too, gives
    way to AUTOPAY_DATABASE_URL.
    """
    values = _read(file) if file else {}
    variables: dict[Key, str] = {}
    named: list[tuple[str, Key]] = [("DATABASE_URL", ("database_url",))]
    named += [
        (name, tuple(name.removeprefix(PREFIX).lower().split("__")))
        for name in environ
        if name.startswith(PREFIX)
    ]
    for name, key in named:
        if value := environ.get(name):
            _put(values, key, value)
            variables[key] = name
    return Sources(values, variables, file)


def _read(file: Path) -> dict[str, Any]:
    try:
        # Amounts of money are exact all the way: a TOML float never becomes a binary one.
        return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {os.strerror(error.errno or 0)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: is not valid TOML: {error}") from None


def _put(values: dict[str, Any], key: Key, value: str) -> None:
    table = values
    for part in key[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            inner = table[part] = {}
        table = inner
    table[key[-1]] = value
