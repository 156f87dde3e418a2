"""One real database for all examples of a state machine, emptied before each."""

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hypothesis import HealthCheck, Phase, settings
from hypothesis.core import global_force_seed

from proxy.ledger import Database

T = TypeVar("T")

SOAK = "SOAK" in os.environ

_TABLES = """
x402_trace_steps x402_traces transaction_logs chain_doubts x402_payment_logs
x402_procurement_receipts retry_attempts kept_answers receipt_links receipt_signatures payments
api_requests policy_decision_logs budget_counters abandoned_reservations spend_limits audit_events
agent_keys receipt_chains agent_policies policy_rules policy_limits policy_changes pay_to_pins
losses loss_counters approvals
"""
_CLEAR = f"""
SET session_replication_role = replica;
{"".join(f"DELETE FROM {table};" for table in _TABLES.split())}
DELETE FROM agents WHERE id <> '00000000-0000-0000-0000-000000000000';
SET session_replication_role = origin;
UPDATE spending SET halted = false;
"""


@dataclass
class World:
    """A database for all examples, one after the other, and the loop they run in."""

    runner: asyncio.Runner
    real: Database
    owner: Any
    """A connection of the superuser: only he can turn the triggers off."""
    examples: int = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def clear(self) -> None:
        """Everything of the example before, away."""
        await self.owner.execute(_CLEAR)


def superuser(dsn: str) -> str:
    """The same database, as he enters it."""
    return urlsplit(dsn)._replace(netloc="postgres@").geturl()


def profile(examples: int, steps: int) -> settings:
    """The same examples each time; others with `--hypothesis-seed=N`."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=global_force_seed is None,
        print_blob=True,
        phases=(Phase.generate,),  # shrinking takes minutes: PostgreSQL has to do it all again
        suppress_health_check=list(HealthCheck),
    )
