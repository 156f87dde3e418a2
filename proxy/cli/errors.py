"""What may go wrong without being a bug, as lines for people: what happened, and what to do."""

import difflib
import os
import socket
from collections.abc import Iterable

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


def unknown_agent(name: str, known: Iterable[str]) -> CommandError:
    """Nobody of those that are known is called so; who is nearly?"""
    near = [repr(each) for each in difflib.get_close_matches(name, list(known), n=3)]
    meant = f"; did you mean {' or '.join(near)}?" if near else ";"
    return CommandError(f"there is no agent {name[:100]!r}{meant} see: autopay agent list")


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
    line = " ".join(_words(error).split())
    if "rejected SSL upgrade" in line:
        line += "; give it TLS, or set [database] allow_plaintext = true if nobody listens between"
    elif isinstance(error, LedgerUnavailable) or (
        isinstance(error, MigrationError) and isinstance(error.__cause__, OSError)
    ):
        line += "; is PostgreSQL running where database_url (or DATABASE_URL) says?"
    return [line]


def _words(error: Exception) -> str:
    if isinstance(error, Unpayable):
        return error.detail
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
