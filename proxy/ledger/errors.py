"""How the ledger fails: unreachable, or "no"."""

import asyncpg

TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection to PostgreSQL may end in, or not begin for; the last of them when a server dies
in mid-message."""


class LedgerError(Exception):
    """Something about the ledger failed. `str()` is one clear line."""


class LedgerUnavailable(LedgerError):
    """PostgreSQL cannot be reached, or did not answer in time."""

    def __init__(self, message: str, *, may_have_happened: bool) -> None:
        super().__init__(message)
        # False: the statement never left. True: it may be committed, its answer was lost.
        self.may_have_happened = may_have_happened


class LedgerFault(LedgerError):
    """PostgreSQL refused the statement, and nothing changed: a rule of the schema, or our bug."""
