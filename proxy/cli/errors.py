"""What may go wrong without being a bug, as lines for people: what happened, and what to do."""

import os
import socket

from policies import PolicyError
from policies.files import FilesError
from proxy.authority import AuthorityError
from proxy.chains import Unpayable
from proxy.chains.solana.wallet import WalletError
from proxy.ledger import LedgerError, LedgerUnavailable, MigrationError
from proxy.paths import PathError
from proxy.postgres import PostgresError
from proxy.receipts.keys import ReceiptKeyError
from proxy.settings import SettingsError
from proxy.upkeep import UpkeepError
from proxy.vault import VaultError


class CommandError(Exception):
    """A command cannot do what it was asked for. One clear line that says what to do."""


_ONE_LINE = (
    AuthorityError,
    CommandError,
    LedgerError,
    OSError,
    PathError,
    PolicyError,
    PostgresError,
    ReceiptKeyError,
    Unpayable,
    UpkeepError,
    VaultError,
    WalletError,
)


def refusal(error: OSError) -> str:
    """What the system says, in its own few words: asyncio and socket put whole addresses in."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def lines_for(error: Exception) -> list[str]:
    """The lines for an expected error; none for a bug."""
    if isinstance(error, SettingsError):
        return list(error.problems)
    if isinstance(error, FilesError):
        return [str(problem) for problem in error.problems]
    if not isinstance(error, _ONE_LINE):
        return []
    line = " ".join((error.detail if isinstance(error, Unpayable) else str(error)).split())
    if isinstance(error, LedgerUnavailable) or (
        isinstance(error, MigrationError) and isinstance(error.__cause__, OSError)
    ):
        line += "; is PostgreSQL running where database_url (or DATABASE_URL) says?"
    return [line]
