"""The only place that talks to PostgreSQL about money.

`ledger.py` reserve, settle, release, doubt · `agents.py` who may spend · `directory.py` the same,
in memory · `history.py` what was · `provider_stats.py` how providers behave · `database.py` the
connections · `migrate.py` the schema.
"""

from proxy.ledger.agents import Agent
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.errors import LedgerError, LedgerFault, LedgerUnavailable
from proxy.ledger.ids import new_id
from proxy.ledger.ledger import Ledger
from proxy.ledger.migrate import MigrationError, migrate
from proxy.ledger.records import (
    DecisionRow,
    Delivery,
    Left,
    Met402,
    Presented,
    Prior,
    Refused,
    Reservation,
    Reserved,
    Retry,
    SettledReceipt,
)

__all__ = [
    "Agent",
    "Database",
    "DecisionRow",
    "Delivery",
    "Directory",
    "Ledger",
    "LedgerError",
    "LedgerFault",
    "LedgerUnavailable",
    "Left",
    "Met402",
    "MigrationError",
    "Presented",
    "Prior",
    "Refused",
    "Reservation",
    "Reserved",
    "Retry",
    "SettledReceipt",
    "migrate",
    "new_id",
]
