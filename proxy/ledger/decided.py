"""The log of decisions, in the order in which they were made: what `policies.simulate` replays."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import asyncpg

from policies import Ask, PolicyError
from policies.cases import ask_for
from policies.decision import RULES
from policies.explanation import LEDGER_RULES
from policies.simulation import Logged
from proxy.ledger.database import Database

# What a policy has decided. Not what stands above it (the switch, the ceilings), nor what is about
# one request alone: that it was paid for before, that a chain could not be reached.
JUDGED = (
    "ok",
    *(code for rule in RULES for code in rule.codes),
    *(code for rule, codes in LEDGER_RULES if rule not in ("halted", "ceilings") for code in codes),
)
_PAGE = 5_000
_LOG = """
SELECT d.id, d.created_at, a.name AS agent, d.method, d.endpoint, d.reason, d.session_id,
       d.trace_id, d.quoted_price_micros AS price, p.id IS NOT NULL AS offer_known,
       coalesce(p.pay_to, '') AS pay_to, coalesce(p.asset, '') AS asset,
       coalesce(p.symbol, '') AS symbol, coalesce(p.network, '') AS network,
       p.status IS DISTINCT FROM 'FAILED' AS final,
       EXISTS (SELECT 1 FROM losses l WHERE l.payment_id = p.id) AS lost,
       EXISTS (SELECT 1 FROM approvals x WHERE x.payment_id = p.id) AS approved
FROM policy_decision_logs d
JOIN agents a ON a.id = d.agent_id
LEFT JOIN payments p ON p.id = d.payment_id
WHERE (d.created_at, d.id) > ($1, $2) AND d.reason = ANY ($3) AND ($4::text IS NULL OR a.name = $4)
ORDER BY d.created_at, d.id LIMIT $5
"""


async def decisions(
    database: Database, since: datetime, agent: str | None = None
) -> AsyncIterator[Logged]:
    """What policies have decided since then, of one agent or of all."""
    at, last = since, UUID(int=0)
    while True:
        rows = await database.fetch(_LOG, at, last, list(JUDGED), agent, _PAGE)
        for row in rows:
            ask = _ask(row)
            if ask is not None:
                yield _logged(row, ask)
        if len(rows) < _PAGE:
            return
        at, last = rows[-1]["created_at"], rows[-1]["id"]


def _ask(row: asyncpg.Record) -> Ask | None:
    """None where the endpoint is cut short or was forgotten: nothing can be asked of it."""
    try:
        place = ask_for(row["endpoint"], row["price"], method=row["method"])
    except PolicyError:
        return None
    return Ask(
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


def _logged(row: asyncpg.Record, ask: Ask) -> Logged:
    return Logged(
        at=row["created_at"],
        agent=row["agent"],
        provider=f"{ask.scheme}://{ask.host}:{ask.port}",
        ask=ask,
        code=row["reason"],
        session=row["session_id"],
        trace=row["trace_id"],
        offer_known=row["offer_known"],
        final=row["final"],
        lost=row["lost"],
        approved=row["approved"],
    )
