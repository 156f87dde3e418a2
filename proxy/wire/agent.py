"""Who asks. Identity comes from a credential alone, never from a header any code can set."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Agent(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who speaks on a connection, and in which session, as far as its credential tells."""

    agent: Agent
    session: str | None
    still: Callable[[], Agent | None] = field(repr=False, compare=False)
    """Asks again who holds the credential: a connection may outlive it."""
