"""Prices beside what was paid before: the ratios are exact, and of what was really paid."""

from proxy.ledger import Database, Ledger, SettledReceipt
from tests.ledger.conftest import Make
from tests.ledger.gate import pay

RECEIPT = SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=1)
LAST, MEDIAN = {"ratio_last": "1.5"}, {"ratio_median": "2"}


async def buy(ledger: Ledger, database: Database, make: Make, price: int, **more: object) -> None:
    reservation = make(price=price, **more)
    assert (await pay(database, reservation, {})).code == "ok"
    assert await ledger.settle(reservation.payment_id, RECEIPT)


async def test_the_last_price_bounds_the_next(
    ledger: Ledger, database: Database, make: Make
) -> None:
    assert (await pay(database, make(price=49_999), LAST)).code == "ok"  # nothing was paid before
    await buy(ledger, database, make, 10_001)
    assert (await pay(database, make(price=15_001), LAST)).code == "ok"  # 15001.5 is the most
    said = await pay(database, make(price=15_002), LAST)
    assert (said.code, said.limit) == ("price_drift", 15_001)
    assert said.detail == {
        "rule": "max_price_ratio_last", "last_micros": 10_001, "median_micros": "10001",
        "payments": 1, "ratio_last": "1.50005", "ratio_median": "1.50005", "max_ratio_last": "1.5",
    }  # fmt: skip
    # nobody asked: any price
    assert (await pay(database, make(price=49_000), {})).code == "ok"


async def test_only_what_was_paid_counts(ledger: Ledger, database: Database, make: Make) -> None:
    await buy(ledger, database, make, 1_000)
    held, gone = make(price=40_000), make(price=40_000)
    for one in (held, gone):
        assert (await pay(database, one, {})).code == "ok"
    assert await ledger.release(gone.payment_id, "never_sent")
    assert (await pay(database, make(price=1_501), LAST)).code == "price_drift"
    assert await ledger.settle(held.payment_id, RECEIPT)
    assert (await pay(database, make(price=1_501), LAST)).code == "ok"


async def test_of_the_same_method_endpoint_and_provider(
    ledger: Ledger, database: Database, make: Make
) -> None:
    await buy(ledger, database, make, 1_000)
    for other in (
        {"method": "POST"},
        {"endpoint": "https://api.example.com/v1/other"},
        {"provider": "https://api.example.com:8443"},
    ):
        assert (await pay(database, make(price=1_501, **other), LAST)).code == "ok"
    assert (await pay(database, make(price=1_501), LAST)).code == "price_drift"


async def test_the_median_of_the_last_21(ledger: Ledger, database: Database, make: Make) -> None:
    for price in (1_000, 2_001):  # an even number: between the two in the middle
        await buy(ledger, database, make, price)
    said = await pay(database, make(price=3_002), MEDIAN)
    assert (said.code, said.limit) == ("price_drift", 3_001)
    assert said.detail["median_micros"] == "1500.5"
    assert said.detail["rule"] == "max_price_ratio_median"
    assert (await pay(database, make(price=3_001), MEDIAN)).code == "ok"
    # one dear payment moves the last price, and hardly the median
    for price in (1_000, 1_000, 9_000):
        await buy(ledger, database, make, price)
    assert (await pay(database, make(price=9_000), LAST)).code == "ok"
    said = await pay(database, make(price=9_000), LAST | MEDIAN)
    assert (said.code, said.limit) == ("price_drift", 2_000)
    # 21 newer ones, and those from before are forgotten
    for _ in range(21):
        await buy(ledger, database, make, 9_000)
    said = await pay(database, make(price=18_001), MEDIAN)
    assert (said.limit, said.detail["payments"]) == (18_000, 21)


async def test_the_largest_ratios_and_prices_are_exact(
    ledger: Ledger, database: Database, make: Make
) -> None:
    await buy(ledger, database, make, 1)
    said = await pay(database, make(price=50_000), {"ratio_last": "49999.999999"})
    assert (said.code, said.limit) == ("price_drift", 49_999)
    assert (await pay(database, make(price=3), {"ratio_last": "2.999999"})).code == "price_drift"


async def test_it_is_found_by_an_index(ledger: Ledger, database: Database, make: Make) -> None:
    """Whatever the length of its URL."""
    long = "https://api.example.com/" + "x" * 2_000
    await buy(ledger, database, make, 1_000, endpoint=long)
    assert (await pay(database, make(price=1_501, endpoint=long), LAST)).code == "price_drift"
    plan = await database.fetch(
        "EXPLAIN SELECT p.price_micros FROM payments p WHERE "
        "hashtextextended(p.provider || ' ' || p.method || ' ' || p.endpoint, 402) = "
        "hashtextextended('a', 402) AND p.status IN ('CONFIRMED', 'VERIFIED') "
        "ORDER BY p.created_at DESC, p.id DESC LIMIT 21"
    )
    assert any("idx_payments_price" in row[0] for row in plan)
    assert not any("Sort" in row[0] for row in plan)
