"""The log of decisions, in the order in which they were made: what `policies.simulate` replays."""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from policies import Ask, PolicyError
from policies.cases import ask_for
from policies.decision import RULES
from policies.explanation import LEDGER_RULES
from policies.simulation import Logged
from proxy.ledger.database import Database

# What a policy or a ceiling has decided. Not the switch that halts all, nor what is about one
# request alone: that it was paid for before, that a chain could not be reached.
JUDGED = (
    "ok",
    *(code for rule in RULES for code in rule.codes),
    *(code for rule, codes in LEDGER_RULES if rule != "halted" for code in codes),
)
_PAGE = 5_000
# A denial has no payment to find its 402 by: both were written down in one transaction, and so at
# one moment. Of several that differ, nobody knows which it was.
_LOG = """
SELECT d.id, d.created_at, a.name AS agent, d.method, d.endpoint, d.reason, d.session_id,
       d.trace_id, d.quoted_price_micros AS price, p.id IS NOT NULL AS offer_known,
       coalesce(p.pay_to, '') AS pay_to, coalesce(p.asset, '') AS asset,
       coalesce(p.symbol, '') AS symbol, coalesce(p.network, '') AS network,
       coalesce(p.provider, '') AS provider, coalesce(p.payer, '') AS payer,
       coalesce(r.x402_instructions, m.instructions)::text AS instructions,
       p.status IS DISTINCT FROM 'FAILED' AS final,
       EXISTS (SELECT 1 FROM losses l WHERE l.payment_id = p.id) AS lost,
       EXISTS (SELECT 1 FROM approvals x WHERE x.payment_id = p.id) AS approved
FROM policy_decision_logs d
JOIN agents a ON a.id = d.agent_id
LEFT JOIN payments p ON p.id = d.payment_id
LEFT JOIN api_requests r ON r.id = p.api_request_id
LEFT JOIN LATERAL (
    SELECT (array_agg(x.x402_instructions))[1] AS instructions FROM api_requests x
    WHERE p.id IS NULL AND x.created_at = d.created_at AND x.agent_id = d.agent_id
      AND x.method = d.method AND x.endpoint = d.endpoint
    HAVING count(DISTINCT x.x402_instructions) = 1) m ON true
WHERE (d.created_at, d.id) > ($1, $2) AND d.reason = ANY ($3)
ORDER BY d.created_at, d.id LIMIT $4
"""


@dataclass(frozen=True, slots=True)
class Log:
    """`unreadable`: those of the time that was asked for of which not even the endpoint is known
    any more, as of an agent that was erased."""

    decisions: list[Logged]
    unreadable: int


async def decisions(database: Database, since: datetime, before: timedelta) -> Log:
    """What was decided since then, and so long `before` that."""
    decisions: list[Logged] = []
    unreadable = 0
    at, last = since - before, UUID(int=0)
    while True:
        rows = await database.fetch(_LOG, at, last, list(JUDGED), _PAGE)
        for row in rows:
            logged = _logged(row)
            if logged is not None:
                decisions.append(logged)
            elif row["created_at"] >= since:
                unreadable += 1
        if len(rows) < _PAGE:
            return Log(decisions, unreadable)
        at, last = rows[-1]["created_at"], rows[-1]["id"]


def _logged(row: asyncpg.Record) -> Logged | None:
    """None where the endpoint is cut short or was forgotten: nothing can be asked of it."""
    try:
        place = ask_for(row["endpoint"], row["price"], method=row["method"])
    except PolicyError:
        return None
    ask = Ask(
        method=row["method"],
        scheme=place.scheme,
        host=place.host,
        port=place.port,
        path=place.path,
        pay_to=row["pay_to"],
        asset=row["asset"],
        symbol=row["symbol"],
        network=row["network"],
        price=row["price"],
        at=row["created_at"],
    )
    offer = _offer(row["instructions"], row["price"])
    if offer is not None:
        ask = replace(
            ask,
            scheme_x402=offer["scheme"],
            flow=offer["flow"],
            max_timeout_seconds=offer.get("timeout_asked", offer["max_timeout_seconds"]),
        )
        if not row["offer_known"]:
            ask = replace(
                ask,
                pay_to=offer["pay_to"],
                asset=offer["asset"],
                symbol=offer["currency"],
                network=offer["network"],
            )
    return Logged(
        at=row["created_at"],
        agent=row["agent"],
        provider=row["provider"] or f"{ask.scheme}://{ask.host}:{ask.port}",
        ask=ask,
        code=row["reason"],
        session=row["session_id"],
        trace=row["trace_id"],
        offer_known=row["offer_known"] or offer is not None,
        terms_known=offer is not None,
        # Older rows have how long it was given: what it asked for, or 60 s, an hour at most.
        timeout_known=offer is not None and "timeout_asked" in offer,
        payer=row["payer"],
        final=row["final"],
        lost=row["lost"],
        approved=row["approved"],
    )


def _offer(instructions: str | None, price: int) -> dict[str, Any] | None:
    """The offer that was decided upon (`entries.py` writes them); None if the log does not say."""
    match json.loads(instructions or "null"):
        case {"chosen": int(chosen), "offers": [*offers]} if chosen < len(offers):
            offer: dict[str, Any] = offers[chosen]
            return offer if offer["amount_usd_micros"] == price else None
    return None
