"""Policies that change a thousand times while two proxies pay: no request sees half of a change."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from proxy.ledger import policies
from proxy.localnet import Localnet
from tests.e2e.house import House, until
from tests.e2e.seller import Seller, challenge, offer, pays_once, settled
from tests.e2e.test_idempotency import another

PATIENCE = 30.0
HOST = "127.0.0.1"
CHANGES = 1000
PAUSE = 0.004  # between two changes: a payment under way can be decided again in between
ASKING = 2  # programs at each proxy
MOVES = 6  # changes whose way to the other proxy is timed

# Two rules in two layers, right only together: at any version one of /one and /two is paid for, and
# the other is denied, by one layer or by the other. Half of one version and half of the next would
# allow both, or neither.
STATES = (
    {None: ["*://127.0.0.1:{port}/one"], "shopper": ["*://127.0.0.1:{port}/never"]},
    {None: ["*://127.0.0.1:{port}/never"], "shopper": ["*://127.0.0.1:{port}/two"]},
)
DENIED = ("/one", "/two")
_CHANGE = "SELECT version FROM change_book($1, NULL, 'storm', '', '')"
_DECISIONS = """
SELECT right(endpoint, 4) AS path, decision, reason, policy_version, payment_id
FROM policy_decision_logs
"""


@pytest.mark.timeout(300)
async def test_no_request_sees_a_mixture(
    home: House, net: Localnet, seller: Seller, tmp_path: Path
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), 1)
    seller.answer = pays_once(challenge(entry), lambda _: settled())
    port = seller.url.rpartition(":")[2]
    books = [
        json.dumps(
            [
                {
                    "agent": agent,
                    "provider": HOST,
                    "rules": {"denied_endpoints": [one.replace("{port}", port) for one in denied]},
                }
                for agent, denied in state.items()
            ]
        )
        for state in STATES
    ]
    states: dict[int, int] = {}
    answers: Counter[str] = Counter()
    changer = await asyncpg.connect(home.service.store.owner_dsn)

    async def change(number: int) -> int:
        version: int = await changer.fetchval(_CHANGE, books[number % 2])
        states[version] = number % 2
        return version

    async def program(proxy: str, who: int) -> None:
        number = who * 1_000_000
        while len(states) < CHANGES:
            path = DENIED[number % 2]
            number += 1
            url = f"{seller.url}{path}?{proxy[-5:]}-{number}"  # no request is another's
            answer = await home.ask(url, proxy=proxy)
            answers["ok" if answer.status == 200 else answer.json["code"]] += 1

    async with another(home, tmp_path) as (_, url):
        first = await change(0)
        await until(lambda: home.service.directory.version >= first, PATIENCE)
        while (await home.ask(f"{seller.url}/one", proxy=url)).status == 200:
            await asyncio.sleep(0.05)
        seen = (await home.row("SELECT count(*) AS rows FROM policy_decision_logs"))["rows"]

        async def storm() -> None:
            for number in range(1, CHANGES):
                await change(number)
                await asyncio.sleep(PAUSE)

        began = time.monotonic()
        await asyncio.gather(
            storm(),
            *(program(proxy, n) for proxy in (home.proxy, url) for n in range(ASKING)),
        )
        took = time.monotonic() - began
        delays = [
            await _arrival(home, url, seller, frozen) for frozen in [True, False] * (MOVES // 2)
        ]
    await changer.close()

    rows = (await home.rows(f"{_DECISIONS} ORDER BY created_at"))[seen:]
    decided = [row for row in rows if row["policy_version"] in states and row["path"] in DENIED]
    for row in decided:
        denied = DENIED[states[row["policy_version"]]] == row["path"]
        expected = ("deny", "endpoint_denied") if denied else ("allow", "ok")
        assert (row["decision"], row["reason"]) == expected, row
    counted = Counter((row["path"], row["decision"]) for row in decided)
    print(
        f"{CHANGES} changes in {took:.1f} s; answers {dict(answers)}; decisions {dict(counted)};"
        f" a change is at the other proxy after {sorted(delays)[len(delays) // 2] * 1000:.0f} ms"
        f" (slowest {max(delays) * 1000:.0f} ms)"
    )
    # It was a storm: both were allowed and denied, again and again, under many versions.
    assert all(counted[path, what] >= 5 for path in DENIED for what in ("allow", "deny")), counted
    assert len({row["policy_version"] for row in decided}) >= 20
    assert set(answers) <= {"ok", "endpoint_denied", "policy_changed"}
    # Every payment was allowed, once, under a version that allows it.
    paid = await home.rows("SELECT id FROM payments")
    allowed = [
        row["payment_id"] for row in await home.rows(_DECISIONS) if row["decision"] == "allow"
    ]
    assert sorted(row["id"] for row in paid) == sorted(allowed)
    assert max(delays) < PATIENCE


async def _arrival(home: House, url: str, seller: Seller, frozen: bool) -> float:
    """How long a change takes to the other proxy, in seconds."""
    await policies.freeze(home.operator, None, HOST, frozen)
    began = time.monotonic()
    wanted = {True: ("provider_frozen",), False: ("endpoint_denied", "ok")}[frozen]
    while True:
        answer = await home.ask(f"{seller.url}/one", proxy=url)
        code = "ok" if answer.status == 200 else answer.json["code"]
        if code in wanted:
            return time.monotonic() - began
        assert time.monotonic() - began < PATIENCE, code
