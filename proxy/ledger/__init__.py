"""The only place that talks to PostgreSQL about money.

`ledger.py` reserve, settle, release, doubt · `agents.py` who may spend · `directory.py` the same,
in memory · `history.py` what was · `provider_stats.py` how providers behave · `database.py` the
connections · `migrate.py` the schema.
"""

from proxy.ledger.agents import Agent
from proxy.ledger.database import Database, LedgerError, LedgerFault, LedgerUnavailable
from proxy.ledger.directory import Directory
from proxy.ledger.ids import new_id
from proxy.ledger.ledger import Ledger
from proxy.ledger.migrate import MigrationError, migrate
from proxy.ledger.records import (
    DecisionRow,
    Delivery,
    Refused,
    Reservation,
    Reserved,
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
    "MigrationError",
    "Refused",
    "Reservation",
    "Reserved",
    "SettledReceipt",
    "migrate",
    "new_id",
]
