"""Receivers that are pinned by their first use, and what becomes of another one."""

import asyncio
import json

import asyncpg
import pytest

from proxy.ledger import Database, Ledger, pins
from proxy.ledger.pins import Pin, PinError
from tests.ledger.conftest import Make
from tests.ledger.gate import pay

RULES = {"pinning": "first_use"}
SHOP = "https://api.example.com:443"
NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
FIRST, OTHER = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4", "9" * 44


async def alarms(database: Database) -> list[dict[str, object]]:
    rows = await database.fetch(
        "SELECT details FROM audit_events WHERE details ->> 'code' = 'pay_to_changed'"
        " AND event_type = 'ALARM' AND severity = 'WARNING'"
    )
    return [json.loads(row["details"]) for row in rows]


async def test_the_first_receiver_is_pinned_and_another_is_refused(
    ledger: Ledger, database: Database, make: Make
) -> None:
    assert (await pay(database, make(), RULES)).code == "ok"
    assert (await pay(database, make(), RULES)).code == "ok"
    for _ in range(3):
        said = await pay(database, make(pay_to=OTHER), RULES)
        assert said.code == "pay_to_changed"
        assert said.detail == {"pay_to": OTHER, "pinned": [FIRST], "network": NETWORK}
    first, other = await pins.list_(database)
    assert (first.pay_to, first.accepted, first.agent, first.refusals) == (FIRST, True, "bot", 0)
    assert (other.pay_to, other.accepted, other.agent, other.refusals) == (OTHER, False, "bot", 3)
    assert await pins.list_(database, waiting=True) == [other]
    (alarm,) = await alarms(database)
    assert (alarm["pay_to"], alarm["pinned"], alarm["provider"]) == (OTHER, [FIRST], SHOP)
    # where nobody asked for pins, nobody is asked about them
    assert (await pay(database, make(pay_to=OTHER), {})).code == "ok"


async def test_pins_are_of_a_provider_and_a_network(database: Database, make: Make) -> None:
    assert (await pay(database, make(), RULES)).code == "ok"
    for where in (
        {"provider": "https://api.example.com:8443"},
        {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"},
    ):
        assert (await pay(database, make(pay_to=OTHER, **where), RULES)).code == "ok"
    # the same host, spelled with the dot of the root
    dotted = make(pay_to=OTHER, provider="https://api.example.com.:443")
    assert (await pay(database, dotted, RULES)).code == "pay_to_changed"


async def test_of_racing_first_uses_one_wins(database: Database, make: Make) -> None:
    receivers = [FIRST, OTHER] * 6
    await pay(database, make(provider="https://elsewhere:443"), {})
    said = await asyncio.gather(*(pay(database, make(pay_to=one), RULES) for one in receivers))
    paid = {one for one, answer in zip(receivers, said, strict=True) if answer.code == "ok"}
    assert len(paid) == 1
    assert [answer.code for answer in said].count("pay_to_changed") == 6
    assert [pin.pay_to for pin in await pins.list_(database) if pin.accepted] == list(paid)
    assert len(await alarms(database)) == 1


async def test_first_uses_of_two_days_wait_for_each_other(dsn: str, make: Make) -> None:
    """They share no counter, so nothing else keeps them apart."""
    request = "jsonb_populate_record(NULL::reservation_request, $1)"
    sql = f"SELECT g.code FROM policy_gate({request}, $2) g"
    taken = f"SELECT policy_gate_taken({request}, $2)"
    one, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    asks = [
        json.dumps({"provider": SHOP, "network": NETWORK, "pay_to": to}) for to in (FIRST, OTHER)
    ]
    rules = json.dumps(RULES)
    try:
        begun = one.transaction()
        await begun.start()
        assert await one.fetchval(sql, asks[0], rules) is None
        waits = asyncio.create_task(other.fetchval(sql, asks[1], rules))
        await asyncio.sleep(0.1)
        assert not waits.done()
        await one.execute(taken, asks[0], rules)
        await begun.commit()
        async with asyncio.timeout(20):
            assert await waits == "pay_to_changed"
    finally:
        await one.close()
        await other.close()


async def test_an_operator_accepts_or_forgets(database: Database, make: Make) -> None:
    await pay(database, make(), RULES)
    await pay(database, make(pay_to=OTHER), RULES)
    assert await pins.accept(database, SHOP, OTHER, by="ann") is True
    assert await pins.accept(database, SHOP, OTHER, by="ann") is False
    for one in (FIRST, OTHER):
        assert (await pay(database, make(pay_to=one), RULES)).code == "ok"
    assert await pins.forget(database, SHOP, FIRST, by="ann") == 1
    assert (await pay(database, make(), RULES)).code == "pay_to_changed"
    assert await pins.forget(database, SHOP, by="ann") == 2
    assert (await pay(database, make(), RULES)).code == "ok"  # a first use again
    assert [pin.pay_to for pin in await pins.list_(database, provider=SHOP)] == [FIRST]
    told = await database.fetch(
        "SELECT details ->> 'code' AS code, details ->> 'by' AS by FROM audit_events"
        " WHERE event_type = 'POLICY_CHANGE' AND details ->> 'code' LIKE 'pay_to_%'"
        " ORDER BY created_at"
    )
    assert [tuple(row) for row in told] == [
        ("pay_to_accepted", "ann"), *[("pay_to_forgotten", "ann")] * 3,
    ]  # fmt: skip


async def test_one_that_was_never_met_needs_its_network(database: Database, make: Make) -> None:
    with pytest.raises(PinError, match="name the network"):
        await pins.accept(database, SHOP, OTHER, by="ann")
    assert await pins.accept(database, SHOP, OTHER, by="ann", network="solana-devnet")
    (pin,) = await pins.list_(database)
    assert isinstance(pin, Pin)
    assert (pin.network, pin.agent, pin.updated_by, pin.accepted) == (NETWORK, None, "ann", True)
    assert (await pay(database, make(), RULES)).code == "pay_to_changed"


async def test_a_new_receiver_with_every_answer_does_not_fill_the_books(
    database: Database, make: Make
) -> None:
    await pay(database, make(), RULES)
    for n in range(25):
        assert (await pay(database, make(pay_to=f"x{n}"), RULES)).code == "pay_to_changed"
    assert len(await pins.list_(database, waiting=True)) == 20
    assert len(await alarms(database)) == 20
