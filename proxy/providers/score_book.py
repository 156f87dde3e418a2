"""Scores and the ledger: taken up at the start, written and read again every second."""

import logging
from datetime import datetime

from proxy.ledger import Database, LedgerError, LedgerUnavailable
from proxy.ledger import score_sums as saved
from proxy.providers.scores import Scores, Terms

log = logging.getLogger(__name__)


class ScoreBook:
    """`scores`, shared with every other process on the same database."""

    def __init__(self, database: Database, terms: Terms | None = None) -> None:
        self.scores = Scores(terms)
        self._database = database
        self._read_at: datetime | None = None
        self._crowded: set[str] = set()

    async def read(self) -> None:
        """What others did, and what users think. If that can't be read, the next `flush` does it:
        a proxy starts without scores too."""
        try:
            await self._read()
        except LedgerError as error:
            log.warning("scores can't be read, and are left as they are for now: %s", error)

    async def _read(self) -> None:
        half_life = self.scores.terms.fading.half_life_seconds
        rows, self._read_at = await saved.changed(self._database, half_life, self._read_at)
        self.scores.restore(rows)

    async def flush(self) -> None:
        """Write what is not written yet, then read. Raises LedgerError; nothing is lost by it, but
        what may have been written, as nothing is to count twice."""
        deltas = self.scores.unsaved()
        try:
            await saved.add(self._database, deltas, self.scores.terms.fading.half_lives)
        except LedgerError as error:
            if isinstance(error, LedgerUnavailable) and error.may_have_happened:
                self._crowded.update(self.scores.saved())
            else:
                self.scores.not_saved()
            raise
        self._crowded.update(self.scores.saved())
        await saved.forget(self._database, sorted(self._crowded), self.scores.terms.endpoints)
        self._crowded.clear()
        await self._read()
