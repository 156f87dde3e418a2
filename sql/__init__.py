"""The schema, as numbered plain SQL files. What must be atomic is written there, as functions."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without `.sql`, its text, and the SHA-256 (hex) of its bytes."""

    name: str
    text: str
    sha256: str


def migrations() -> list[Migration]:
    """Every migration that ships with this program, in the order in which they are applied."""
    found = sorted(
        (
            entry
            for entry in (files(__name__) / "migrations").iterdir()
            if entry.name.endswith(".sql")
        ),
        key=lambda entry: entry.name,
    )
    return [
        Migration(entry.name.removesuffix(".sql"), data.decode(), sha256(data).hexdigest())
        for entry in found
        for data in [entry.read_bytes()]
    ]


def manifest() -> str:
    """What all migrations together make of an empty database, as JSON."""
    return (files(__name__) / MANIFEST).read_text(encoding="utf-8")


def script(path: str) -> str:
    """Another SQL file that ships with this program: `profiles/….sql` or `seeds/….sql`."""
    return (files(__name__) / path).read_text(encoding="utf-8")
