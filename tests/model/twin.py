"""PostgreSQL and the books in memory, side by side: one statement for both, and one answer."""

import json
import re
from collections import Counter as Multiset
from datetime import date
from typing import Any

import asyncpg

from proxy.ledger import Database, LedgerFault, lane
from tests.model.memory import Memory
from tests.peers.asked import Asked

_STATE = """
SELECT (now() AT TIME ZONE 'UTC')::date AS today,
    (SELECT jsonb_object_agg(c.scope, jsonb_build_array(
            c.spent_micros, c.held_micros, c.paid_calls, c.top_limit_micros))
       FROM budget_counters c WHERE c.top_limit_micros IS NOT NULL) AS counters,
    (SELECT jsonb_object_agg(p.id, jsonb_build_array(
            p.status, p.in_doubt_since IS NOT NULL, p.doubt_reason, p.release_reason,
            p.payment_hash, p.presented, p.presented_by, p.instance, p.scopes))
       FROM payments p) AS payments,
    (SELECT jsonb_object_agg(k.payment_id, jsonb_build_array(k.delivered, k.sealed IS NULL))
       FROM kept_answers k) AS kept,
    (SELECT jsonb_object_agg(l.id, jsonb_build_array(l.source, l.claimed, l.settle_tx_hash))
       FROM x402_payment_logs l) AS receipts,
    (SELECT jsonb_object_agg(d.payment_id, jsonb_build_array(d.why, d.absent_since, d.alarmed))
       FROM chain_doubts d) AS doubts,
    (SELECT jsonb_agg(jsonb_build_array(e.related_id, e.details ->> 'reason'))
       FROM audit_events e WHERE e.details ? 'to') AS moves
"""
_DAY = re.compile(r"\d{4}-\d\d-\d\d$")
_SAID = ("code", "limit_micros", "spent_micros", "held_micros", "joined")


class Twin(Asked):
    """A `Database` to whoever asks it. Raises AssertionError where the two differ."""

    def __init__(self, real: Database, memory: Memory) -> None:
        self.real = real
        self.memory = memory

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        rows: list[asyncpg.Record] | LedgerFault
        shadow: list[dict[str, Any]] | LedgerFault
        try:
            rows = await self.real.fetch(sql, *args)
        except LedgerFault as fault:
            rows = fault
        try:
            shadow = self.memory.run(sql, *args)
        except LedgerFault as fault:
            shadow = fault
        if isinstance(rows, LedgerFault):
            assert isinstance(shadow, LedgerFault), f"PostgreSQL refused: {rows}\nnot so: {shadow}"
            raise rows
        assert not isinstance(shadow, LedgerFault), f"only the model refused: {shadow}"
        if shadow or sql == lane._TICK:  # what returns nothing is compared in `compare`
            assert _comparable(sql, rows) == _comparable(sql, shadow), (sql, args)
        return rows

    async def compare(self) -> None:
        """Everything that both have on disk."""
        row = await self.real.fetchrow(_STATE)
        assert row is not None
        found = {name: json.loads(row[name] or "{}") for name in dict(row) if name != "today"}
        state, today = self.memory.state, row["today"]

        def scope(text: str) -> str:
            """A day by its number."""
            day = _DAY.search(text)
            if day is None:
                return text
            return text[:-10] + str(state.day - (today - date.fromisoformat(day[0])).days)

        assert {scope(name): each for name, each in found["counters"].items()} == {
            name: [c.spent, c.held, c.calls, c.top]
            for name, c in state.counters.items()
            if c.top is not None
        }
        for name, counter in state.counters.items():
            assert counter.stands <= (counter.top or 0), f"{name} stands at {counter}"
        payments = {
            key: [*fields, [scope(each) for each in scopes]]
            for key, (*fields, scopes) in found["payments"].items()
        }
        assert payments == {
            key: [
                *(p.status, p.in_doubt, p.doubt_reason, p.release_reason, p.hash),
                *(p.presented, p.presented_by, p.instance, p.scopes),
            ]
            for key, p in state.payments.items()
        }
        assert found["kept"] == {
            key: [kept.delivered, kept.sealed is None] for key, kept in state.kept.items()
        }
        assert found["receipts"] == {
            key: [r.source, r.claimed, r.named] for key, r in state.receipts.items()
        }
        assert found["doubts"] == {
            key: [d.why, d.absent_since, d.alarmed] for key, d in state.doubts.items()
        }
        assert Multiset(map(tuple, found["moves"])) == Multiset(
            (key, reason)
            for key, p in state.payments.items()
            for reason in ("reserved", *p.history)
        )

    async def audit(self) -> None:
        """PostgreSQL's own opinion of its books."""
        assert await self.real.fetch("SELECT * FROM audit_books()") == []


def _comparable(sql: str, rows: Any) -> Any:
    found = [dict(row) for row in rows]
    if sql == lane._TICK:
        return [_outcome(row) for row in found]
    # Columns have no order, and rows of one batch have none either. What a function returns is
    # called after it.
    found.sort(key=lambda row: str(row.get("id")))
    return [[row[name] for name in sorted(row)] for row in found]


def _outcome(row: dict[str, Any]) -> Any:
    """Of one move of a batch."""
    if row["failure"] is not None:
        return "refused"
    outcome = json.loads(row["outcome"])
    if not isinstance(outcome, dict):
        return outcome
    said = {name: outcome[name] for name in _SAID}
    return said | ({"left": outcome["remaining_micros"]} if outcome["code"] == "ok" else {})
