"""Whom providers are paid to: the receivers that are pinned, and those that wait for an operator.

Under `pay_to_pinning = "first_use"` the first receiver of a provider on a network is pinned with
the payment that it is for, for all agents. Any other is refused and waits here
(`sql/migrations/0030_gate.sql`).
"""

from dataclasses import dataclass
from datetime import datetime

from policies.networks import canonical_network
from proxy.ledger.asking import Where
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError

_LIST = """
SELECT p.provider, p.network, p.pay_to, p.accepted, a.name AS agent, p.updated_by, p.refusals,
       p.created_at, p.updated_at
FROM pay_to_pins p LEFT JOIN agents a ON a.id = p.agent_id
"""
_NETWORKS = "SELECT network FROM pay_to_pins WHERE provider = plain_origin($1) AND pay_to = $2"
_ACCEPT = "SELECT accept_pin($1, $2, $3, $4)"
_FORGET = "SELECT forget_pins($1, $2, $3, $4)"


class PinError(LedgerError):
    """It is not clear what is meant. One clear line."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A receiver of a provider on a network. `accepted` is False for one that waits."""

    provider: str  # scheme://host:port
    network: str  # CAIP-2
    pay_to: str
    accepted: bool
    agent: str | None  # whose request met it first
    updated_by: str
    refusals: int  # payments that were refused because they would have gone there
    created_at: datetime
    updated_at: datetime


async def list_(
    database: Database, *, provider: str | None = None, waiting: bool = False
) -> list[Pin]:
    """By provider and network, what waits last. `waiting`: only that."""
    where = Where()
    where.add("p.provider = plain_origin({})", provider)
    where.add("p.accepted = {}", False if waiting else None)
    rows = await database.fetch(
        f"{_LIST} WHERE {where} ORDER BY p.provider, p.network, p.accepted DESC, p.created_at",
        *where.args,
    )
    return [Pin(**dict(row)) for row in rows]


async def accept(
    database: Database, provider: str, pay_to: str, *, by: str, network: str | None = None
) -> bool:
    """This receiver may be paid by all agents from now on; those before it too. Without `network`:
    where it is waiting. Whether it was otherwise. Raises PinError."""
    networks = [canonical_network(network)] if network else await _known(database, provider, pay_to)
    if not networks:
        raise PinError(
            f"{pay_to[:100]} is not known at {provider}; name the network of one that was never met"
        )
    changed = [await database.fetchval(_ACCEPT, provider, one, pay_to, by) for one in networks]
    return any(changed)


async def forget(
    database: Database,
    provider: str,
    pay_to: str | None = None,
    *,
    by: str,
    network: str | None = None,
) -> int:
    """Unpins, and takes off the list what waits: one receiver, or all of the provider; how many.
    Where none is left, the next one that is asked for is pinned."""
    known = canonical_network(network) if network else None
    return int(await database.fetchval(_FORGET, provider, known, pay_to, by))


async def _known(database: Database, provider: str, pay_to: str) -> list[str]:
    return [row["network"] for row in await database.fetch(_NETWORKS, provider, pay_to)]
