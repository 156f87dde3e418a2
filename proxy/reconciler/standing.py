"""How far the proofs are: the operator's question. It asks the database only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from proxy.ledger import Database

_PAYMENTS = """
SELECT count(*) AS unproved, count(*) FILTER (WHERE status = 'SIGNED') AS held FROM payments
WHERE status IN ('SIGNED', 'CONFIRMED')
"""
_ROUNDS = """
SELECT max(finished_at) AS last_look, max(trouble) AS trouble
FROM chain_rounds r
WHERE EXISTS (SELECT 1 FROM payments p WHERE p.status IN ('SIGNED', 'CONFIRMED')
              AND p.network = r.network AND p.source_account = r.source_account)
"""
_DOUBTS = "SELECT why, count(*) AS payments FROM chain_doubts GROUP BY why ORDER BY why"
_GRAVE = ("rpcs_disagree", "not_conserved", "claimed_foreign")


@dataclass(frozen=True, slots=True)
class Standing:
    """Payments that the chain has not proved yet; of them those that hold money; when somebody
    looked for them last, and what went wrong then; why they are doubtful: payments by code."""

    unproved: int
    held: int
    last_look: datetime | None
    trouble: str | None
    doubts: Mapping[str, int]

    @property
    def well(self) -> bool:
        """Whether nothing has been found that somebody should look into."""
        return self.trouble is None and not any(why in self.doubts for why in _GRAVE)

    @property
    def words(self) -> str:
        """One line."""
        if not self.unproved:
            return "every payment is proved"
        parts = [f"{self.unproved} payments are not proved yet, {self.held} of them held"]
        if self.last_look is None:
            parts.append("nobody has looked for them")
        else:
            parts.append(f"last look {self.last_look:%Y-%m-%d %H:%M:%S} UTC")
        parts += [f"{count} {why}" for why, count in self.doubts.items()]
        if self.trouble:
            parts.append(self.trouble)
        return "; ".join(parts)


async def standing(database: Database) -> Standing:
    """Raises LedgerError."""
    payments = await database.fetchrow(_PAYMENTS)
    rounds = await database.fetchrow(_ROUNDS)
    assert payments is not None and rounds is not None, "aggregates have a row"
    doubts = {row["why"]: row["payments"] for row in await database.fetch(_DOUBTS)}
    return Standing(
        payments["unproved"], payments["held"], rounds["last_look"], rounds["trouble"], doubts
    )
