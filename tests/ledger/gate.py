"""Payments that the gate is asked about, as the exchange would bring them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxy.ledger import Database, Ledger, Refused, Reservation


@dataclass(frozen=True)
class Said:
    code: str
    limit: int | None = None
    detail: Any = None


async def pay(database: Database, reservation: Reservation, rules: Mapping[str, Any]) -> Said:
    """What the ledger says of it, by a lane of its own: as a process of its own would ask."""
    ledger = Ledger(database)
    try:
        answer = await ledger.reserve(replace(reservation, rules=rules))
    finally:
        await ledger.close()
    if isinstance(answer, Refused):
        return Said(answer.code, answer.limit, answer.detail)
    return Said("ok")
