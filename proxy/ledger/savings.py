"""What cached answers have saved, by agent, provider and UTC day. Money in micro-USD."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar
from uuid import UUID

from proxy.ledger.database import Database

# An agent that was erased meanwhile has no savings any more; its row is held still for the while.
_ADD = """
INSERT INTO cache_savings AS s (day, agent_id, provider, answers, saved_micros)
SELECT d.day, d.agent_id, d.provider, d.answers, d.saved_micros
FROM unnest($1::date[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
     AS d (day, agent_id, provider, answers, saved_micros)
JOIN agents a ON a.id = d.agent_id AND a.erased_at IS NULL
ORDER BY 2, 1, 3
ON CONFLICT (agent_id, day, provider) DO UPDATE SET
    answers = s.answers + excluded.answers,
    saved_micros = s.saved_micros + excluded.saved_micros,
    updated_at = now()
"""


@dataclass(frozen=True, slots=True)
class Saving:
    """`answers` that were served without being paid for, and what those would have cost."""

    MONEY: ClassVar = ("saved",)
    day: date
    agent_id: UUID
    provider: str
    answers: int
    saved: int


async def add_savings(database: Database, savings: Sequence[Saving]) -> None:
    """Adds, in one statement. Not repeatable. Raises LedgerError."""
    if savings:
        await database.execute(
            _ADD,
            [one.day for one in savings],
            [one.agent_id for one in savings],
            [one.provider for one in savings],
            [one.answers for one in savings],
            [one.saved for one in savings],
        )
