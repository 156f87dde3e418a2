"""Whatever sellers do: a run costs no more than its total, and says what it cost."""

import asyncio
import random
from decimal import Decimal
from pathlib import Path

from proxy.localnet import Localnet
from tests.admin.desk import Desk
from tests.e2e.seller import Seen
from tests.procurement.market import asks, market
from tests.providers.faulty import (
    Act,
    good,
    hangs_up,
    resets,
    settles,
    status,
    wrong,
)

RUNS = 36


def whims(net: Localnet, chance: random.Random) -> Act:
    """Another price and another fault for each request."""
    faults = (settles(), settles(500), settles(whole=False), hangs_up(), status(500), settles(404))
    free = (good(), status(503), hangs_up(), resets(), wrong())

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if chance.random() < 0.1 and seen.payment is None:
            await chance.choice(free)(seen, writer)
        else:
            await asks(net, chance.choice(faults), chance.randrange(1, 5) * 500)(seen, writer)

    return act


async def test_no_run_costs_more_than_its_total(net: Localnet, dsn: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    acts = {name: whims(net, chance) for name in "abcde"}
    async with market(net, dsn, tmp_path, acts, breaker={"enabled": False}) as quotes:
        home, desk = quotes.home, Desk(quotes.home)
        await home.set_policy(
            daily_limit=10**9, trace_limit=10**9, session_limit=10**9, per_call_limit=10**9
        )
        listed = [{"id": n, "url": f"{s.url}/q"} for n, s in quotes.sellers.items()]
        ends = []

        async def wish(number: int) -> None:
            total = chance.randrange(1, 9) * 500
            answer = await desk.ask(
                "/v1/procure/execute",
                home.token,
                "POST",
                json={
                    "intent": "any",
                    "candidates": chance.sample(listed, 5),
                    "max_attempts": 5,
                    "total_usd": str(Decimal(total) / 1_000_000),
                    "path": f"/{number}",
                    "trace": f"run-{number}",
                    **({"idempotency_key": f"k-{number}"} if number % 3 == 0 else {}),
                },
            )
            attempts = answer.json["attempts"]
            ends.append((number, total, answer.status, attempts))

        waiting = iter(range(RUNS))

        async def program() -> None:
            for number in waiting:
                await wish(number)

        await asyncio.gather(*(program() for _ in range(4)))
        failed = 0
        for number, total, code, attempts in ends:
            paid = await home.rows(
                "SELECT id::text AS id, price_micros AS price FROM payments"
                " WHERE trace_id = $1 AND status <> 'FAILED'",
                f"run-{number}",
            )
            assert sum(row["price"] for row in paid) <= total, (number, paid)
            told = {one["payment"]: one["cost_usd"] for one in attempts if one["payment"]}
            assert told.keys() == {row["id"] for row in paid}, (number, attempts)
            assert sum(Decimal(cost) for cost in told.values()) * 1_000_000 == sum(
                row["price"] for row in paid
            )
            assert [one["served"] for one in attempts[:-1]] == [False] * (len(attempts) - 1)
            served = bool(attempts) and attempts[-1]["served"]
            assert served is (code == 200), (number, code, attempts)
            failed += not served
        assert len(ends) == RUNS and 0 < failed < RUNS
        spent, held = await home.counters()
        rows = await home.rows("SELECT sum(price_micros)::bigint AS all FROM payments")
        assert spent + held <= rows[0]["all"]
