"""A WHERE clause made of what is asked for and nothing else.

`$1 IS NULL OR …` would have one plan for all agents and for one; so a filter that nobody asked for
does not stand in the statement.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

Since = datetime | timedelta
"""A moment, or how long ago by the database's clock."""

OF_AGENT = "agent_id = (SELECT id FROM agents WHERE name = {})"
"""An agent by its name. Found first and once, so that what an index is asked for is a value."""


class Where:
    """Conditions, and the arguments of the statement. Column names are ours, values never are."""

    def __init__(self, *args: object) -> None:
        """`args`: $1 and so on of the rest of the statement."""
        self.args = list(args)
        self._conditions: list[str] = []

    def add(self, condition: str, *values: object) -> None:
        """`condition` has a `{}` for each of `values`; None stands for what isn't asked for."""
        if None in values:
            return
        names = [f"${len(self.args) + at}" for at in range(1, len(values) + 1)]
        self._conditions.append(condition.format(*names))
        self.args += values

    def one_of(self, column: str, asked: Sequence[str], known: Sequence[str]) -> None:
        """`column` is one of `asked`, if any is. They stand in the statement as they are, since it
        depends on them which index is best: some are everywhere, some are rare. Raises ValueError
        for one that isn't `known`."""
        if strange := sorted(set(asked) - set(known)):
            raise ValueError(f"{strange[0]!r} is none of {', '.join(known)}")
        if asked:
            listed = ", ".join(f"'{one}'" for one in sorted(set(asked)))
            self._conditions.append(f"{column} IN ({listed})")

    def since(self, column: str, since: Since | None) -> None:
        form = "now() - {}::interval" if isinstance(since, timedelta) else "{}::timestamptz"
        self.add(f"{column} >= {form}", since)

    def behind(self, table: str, before: tuple[datetime, UUID] | None) -> None:
        """Only rows that come after `before` in a list whose newest is first."""
        if before is not None:
            # The first says nothing new, but to the planner: rows leave out no partition.
            self.add(f"{table}.created_at <= {{}}", before[0])
            self.add(f"({table}.created_at, {table}.id) < ({{}}, {{}})", *before)

    def __str__(self) -> str:
        return " AND ".join(self._conditions) or "true"
