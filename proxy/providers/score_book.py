"""Scores and the ledger: taken up at the start, written and read again every second."""

from datetime import datetime

from proxy.ledger import Database, LedgerError
from proxy.ledger import score_sums as saved
from proxy.providers.scores import Scores, Terms


class ScoreBook:
    """`scores`, shared with every other process on the same database."""

    def __init__(self, database: Database, terms: Terms | None = None) -> None:
        self.scores = Scores(terms)
        self._database = database
        self._read_at: datetime | None = None

    async def read(self) -> None:
        """What others did, and what users think. Raises LedgerError."""
        half_life = self.scores.terms.fading.half_life_seconds
        rows, self._read_at = await saved.changed(self._database, half_life, self._read_at)
        self.scores.restore(rows)

    async def flush(self) -> None:
        """Write what is not written yet, then read. Raises LedgerError; nothing is lost by it."""
        deltas = self.scores.unsaved()
        try:
            await saved.add(self._database, deltas, self.scores.terms.fading.half_lives)
        except LedgerError:
            self.scores.not_saved()
            raise
        crowded = self.scores.saved()
        await saved.forget(self._database, crowded, self.scores.terms.endpoints)
        await self.read()
