"""Scores on a real database: shared, remembered, bounded, and told as they are reckoned."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.ledger import Database, LedgerError, LedgerUnavailable
from proxy.ledger import score_sums as saved
from proxy.providers.fading import Fading
from proxy.providers.names import named
from proxy.providers.outcome import Outcome
from proxy.providers.score_book import ScoreBook
from proxy.providers.scores import Scores, Terms
from proxy.providers.stats import Stats

KEY = "https://api.example:443"
QUOTE = "GET https://api.example/v1/quote"
PRICE = 10_000
SHORT = Terms(fading=Fading(half_life_seconds=5000.0, half_life_calls=5.0))


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(dsn, size=2, timeout=5.0)
    yield opened
    await opened.close()


def buy(scores: Scores, key: str = KEY, endpoint: str = QUOTE, latency_ms: float = 100.0) -> None:
    scores.quoted(key, endpoint, PRICE)
    scores.succeeded(key, endpoint, latency_ms, 200, micros=PRICE)


def lose(scores: Scores, key: str = KEY, endpoint: str = QUOTE) -> None:
    scores.quoted(key, endpoint, PRICE)
    scores.failed(key, endpoint, "took a payment and answered 500", 500, paid=True, micros=PRICE)


async def book(database: Database, terms: Terms | None = None) -> ScoreBook:
    made = ScoreBook(database, terms)
    await made.read()
    return made


async def test_a_restart_and_another_replica_score_the_same(database: Database) -> None:
    one, two = await book(database), await book(database)
    for _ in range(5):
        buy(one.scores)
        buy(two.scores, latency_ms=900.0)
    lose(two.scores)
    one.scores.failed(KEY, "GET https://api.example/down", "refused", None)
    assert one.scores.judge(KEY).score != two.scores.judge(KEY).score
    await one.flush()
    await two.flush()
    await one.read()
    for endpoint in ("", QUOTE, "GET https://api.example/down", "GET https://api.example/new"):
        told = [
            reader.scores.why(KEY, endpoint)
            for reader in (one, two, await book(database), await book(database))
        ]
        assert {round(why.score, 6) for why in told} == {round(told[0].score, 6)}
        assert {(why.calls, why.paid, why.lost, why.last_error) for why in told} == {
            (told[0].calls, told[0].paid, told[0].lost, told[0].last_error)
        }
        assert sum(share.points for share in told[0].shares) == pytest.approx(told[0].score)
    whole = one.scores.why(KEY)
    assert (whole.calls, whole.failures, whole.paid_failures) == (12, 2, 1)
    assert (whole.paid, whole.delivered, whole.lost) == (11 * PRICE, 10 * PRICE, PRICE)
    assert one.scores.why(KEY, QUOTE).calls == 11


def test_a_success_that_was_none_is_taken_back() -> None:
    """As if it had failed in the first place."""
    taken_back, failed = Scores(), Scores()
    for scores, goes_well in ((taken_back, True), (failed, False)):
        outcome = Outcome(KEY, Stats(), scores)
        outcome.endpoint = QUOTE
        scores.quoted(KEY, QUOTE, PRICE)
        outcome.micros = PRICE
        if goes_well:
            outcome.success(100.0, 200, schema=True)
        outcome.failure("it is not what was paid for", 200, paid=not goes_well)
    for endpoint in ("", QUOTE):
        one, other = taken_back.why(KEY, endpoint), failed.why(KEY, endpoint)
        assert (one.calls, one.failures, one.paid_failures) == (1, 1, 1)
        assert (one.paid, one.delivered, one.lost) == (PRICE, 0, PRICE)
        assert one.score == pytest.approx(other.score, abs=0.005)


def test_an_endpoint_begins_as_its_provider_is() -> None:
    scores = Scores()
    for _ in range(5):
        lose(scores)
    new = "GET https://api.example/new"
    assert scores.judge(KEY, new).score == pytest.approx(scores.judge(KEY).score, abs=1e-9)
    assert scores.judge(KEY, new).score < 0.4
    scores.succeeded(KEY, new, 100.0, 200)
    assert scores.judge(KEY, new).score > scores.judge(KEY).score


async def test_what_is_not_written_counts_too_and_once(database: Database) -> None:
    """Before the flush, in the middle of it, and after: the score is the same."""
    one = await book(database)
    buy(one.scores)
    before = one.scores.judge(KEY, QUOTE).score
    deltas = one.scores.unsaved()
    assert one.scores.judge(KEY, QUOTE).score == pytest.approx(before, abs=1e-6)
    buy(one.scores)
    more = one.scores.judge(KEY, QUOTE).score
    assert more > before
    one.scores.not_saved()
    assert one.scores.judge(KEY, QUOTE).score == pytest.approx(more, abs=1e-6)
    assert [delta.endpoint for delta in deltas] == ["", QUOTE]
    await one.flush()
    assert one.scores.unsaved() == []
    assert one.scores.why(KEY, QUOTE).calls == 2
    assert one.scores.judge(KEY, QUOTE).score == pytest.approx(more, abs=1e-6)


async def test_a_ledger_that_is_away_loses_nothing(database: Database) -> None:
    one = await book(database)
    await database.execute("ALTER TABLE provider_scores RENAME TO away")
    buy(one.scores)
    with pytest.raises(LedgerError):
        await one.flush()
    with pytest.raises(LedgerError):
        await one.flush()
    await database.execute("ALTER TABLE away RENAME TO provider_scores")
    await one.flush()
    assert (await book(database)).scores.why(KEY).calls == 1
    assert one.scores.why(KEY).calls == 1


async def test_what_may_have_been_written_is_not_written_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, arrives = saved.add, True

    async def unanswered(*args: Any) -> None:
        if arrives:
            await add(*args)
        raise LedgerUnavailable("no answer in time", may_have_happened=arrives)

    one = await book(database)
    buy(one.scores)
    monkeypatch.setattr(saved, "add", unanswered)
    with pytest.raises(LedgerUnavailable):
        await one.flush()
    assert one.scores.unsaved() == []
    assert one.scores.why(KEY).calls == 1
    arrives = False
    buy(one.scores)
    with pytest.raises(LedgerUnavailable):
        await one.flush()
    monkeypatch.setattr(saved, "add", add)
    await one.flush()
    assert (await book(database)).scores.why(KEY).calls == 2


async def test_it_begins_without_scores_that_cannot_be_read(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    one = await book(database)
    buy(one.scores)
    await one.flush()
    await database.execute("ALTER TABLE provider_scores RENAME TO away")
    other = await book(database)
    assert "scores can't be read" in caplog.text
    assert other.scores.providers() == []
    await database.execute("ALTER TABLE away RENAME TO provider_scores")
    await other.flush()
    assert other.scores.why(KEY).calls == 1


async def test_of_scores_without_end_the_last_used_are_read_in_time(database: Database) -> None:
    """`thumbs` is asked for those that are read and were rated, not for every row there is."""
    await database.execute(
        "INSERT INTO provider_scores (provider, last_seen_at, rated_at) "
        "SELECT 'https://p' || n, now() - n * interval '1 second', "
        "       CASE WHEN n % 100 = 0 THEN now() END FROM generate_series(1, 60000) n"
    )
    await database.execute(
        "INSERT INTO provider_scores (provider, rated_at) VALUES ('https://rated', now())"
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    rows, now = await saved.changed(database, 5000.0)
    assert loop.time() - began < 2.5
    assert [row.provider for row in rows] == [f"https://p{n}" for n in range(1, saved.MOST + 1)]
    plan = await database.fetch(f"EXPLAIN {saved._ALL}", 5000.0, saved.MOST)
    assert "idx_provider_scores_seen" in "\n".join(row[0] for row in plan)
    plan = await database.fetch(f"EXPLAIN {saved._CHANGED}", 5000.0, saved.MOST, now, 5.0)
    assert "idx_provider_scores_updated" in "\n".join(row[0] for row in plan)


async def test_an_endpoint_that_was_rated_before_it_has_a_record_is_looked_up(
    database: Database,
) -> None:
    await database.execute(
        "INSERT INTO provider_scores (provider, rated_at) VALUES ($1, now())", KEY
    )
    one = await book(database)
    buy(one.scores)
    buy(one.scores, "https://unrated.example:443", "GET https://unrated.example/")
    await one.flush()
    rows = await database.fetch(
        "SELECT provider, endpoint FROM provider_scores WHERE rated_at > '-infinity'"
    )
    assert {tuple(row) for row in rows} == {(KEY, ""), (KEY, QUOTE)}


KINDS = st.lists(st.sampled_from(["buy", "lose", "fail", "free", "formless", "back"]), max_size=12)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=KINDS, second=KINDS)
async def test_the_database_adds_as_the_process_does(
    database: Database, first: list[str], second: list[str]
) -> None:
    await database.execute("DELETE FROM provider_scores")
    scores = Scores(SHORT)
    for kinds in (first, second):
        for kind in kinds:
            match kind:
                case "buy":
                    buy(scores)
                case "lose":
                    lose(scores)
                case "fail":
                    scores.failed(KEY, QUOTE, "refused", None)
                case "free":
                    scores.succeeded(KEY, QUOTE, 50.0, 200)
                case "formless":
                    scores.succeeded(KEY, QUOTE, 50.0, 200, schema=False)
                case _:
                    buy(scores)
                    scores.take_back(KEY, QUOTE, 100.0, micros=PRICE)
                    scores.failed(KEY, QUOTE, "broke off", 200, paid=True, micros=PRICE)
        await saved.add(database, scores.unsaved(), SHORT.fading.half_lives)
        scores.saved()
    rows, _ = await saved.changed(database, 5000.0)
    read = Scores(SHORT)
    read.restore(rows)
    for endpoint in ("", QUOTE):
        assert read.judge(KEY, endpoint).score == pytest.approx(
            scores.judge(KEY, endpoint).score, abs=0.005
        )
        ours, theirs = scores.why(KEY, endpoint), read.why(KEY, endpoint)
        assert (ours.calls, ours.paid, ours.delivered) == (
            theirs.calls, theirs.paid, theirs.delivered
        )  # fmt: skip
        assert (ours.asked or 0) == pytest.approx(theirs.asked or 0, abs=50)


async def test_the_database_forgets_with_time_and_never_breaks_by_it(database: Database) -> None:
    one = await book(database)
    for _ in range(10):
        buy(one.scores)
    lose(one.scores)
    await one.flush()
    good = one.scores.known(KEY)
    await database.execute(
        "UPDATE provider_scores SET weighed_at = now() - interval '7 days', updated_at = now()"
    )
    await one.read()
    assert one.scores.known(KEY) == pytest.approx(good / 2, rel=0.01)
    buy(one.scores)
    await one.flush()
    row = await database.fetchrow("SELECT * FROM provider_scores WHERE endpoint = ''")
    assert row is not None
    assert row["recent_successes"] + row["recent_failures"] == pytest.approx(good / 2 + 1, rel=0.05)
    # A hundred years, and a hundred thousand good calls on one that was bad: no underflow.
    await database.execute("UPDATE provider_scores SET weighed_at = now() - interval '36500 days'")
    for _ in range(2):
        delta = saved.ScoreDelta(KEY, "", {"successes": 100_000}, {"successes": 70.0})
        await saved.add(database, [delta], (1.0, 1.0, 3.0))
    assert (await book(database)).scores.why(KEY).calls == 200_012


async def test_endpoints_of_a_provider_are_bounded_here_and_there(database: Database) -> None:
    terms = replace(Terms(), endpoints=3)
    one = await book(database, terms)
    buy(one.scores)
    for n in range(10):
        one.scores.succeeded(KEY, f"GET https://api.example/users/{n}", 5.0, 200)
    assert len(one.scores.endpoints(KEY)) == 3
    assert QUOTE in one.scores.endpoints(KEY), "what asks for money stays"
    await one.flush()
    other = await book(database, terms)
    for n in range(10, 20):
        other.scores.succeeded(KEY, f"GET https://api.example/users/{n}", 5.0, 200)
    await other.flush()
    rows = await database.fetch("SELECT endpoint FROM provider_scores WHERE endpoint <> ''")
    assert len(rows) == 3
    assert QUOTE in {row["endpoint"] for row in rows}
    assert other.scores.why(KEY).calls == 21, "the provider counts them all"
    one.scores.succeeded(KEY, "GET https://api.example/" + "x" * 3000, 5.0, 200)
    assert len(one.scores.endpoints(KEY)) == 3


async def test_after_a_restart_too_the_last_used_are_kept(database: Database) -> None:
    one = await book(database)
    for n in range(3):
        buy(one.scores, f"https://p{n}.example:443", f"GET https://p{n}.example/")
        await one.flush()
    again = await book(database)
    assert again.scores.providers() == [f"https://p{n}.example:443" for n in (2, 1, 0)]


async def test_providers_without_end_do_not_fill_the_memory() -> None:
    scores = Scores(limit=10)
    for n in range(40):
        buy(scores, f"https://p{n}.example:443", f"GET https://p{n}.example/")
        scores.unsaved()
        scores.saved()
    assert scores.providers()[0] == "https://p39.example:443"
    assert len(scores.providers()) <= 5


def test_the_price_is_held_against_what_others_ask() -> None:
    scores = Scores()
    rivals = [(f"https://p{n}.example:443", f"GET https://p{n}.example/") for n in range(4)]
    for n, (key, endpoint) in enumerate(rivals):
        scores.quoted(key, endpoint, 10_000 * (n + 1))
    price = {
        place: next(s.value for s in scores.judge(*place, among=rivals).shares if s.name == "price")
        for place in rivals
    }
    assert list(price.values()) == sorted(price.values(), reverse=True)
    assert price[rivals[0]] == pytest.approx(30_000 / 40_000), "the others' median is 0.03"
    # Without candidates: what the fleet's other providers ask, if there are three of them.
    assert scores.why(*rivals[0]).others == 30_000
    assert scores.why("https://p3.example:443").others == 20_000
    few = Scores()
    few.quoted(*rivals[0], 10_000)
    few.quoted(*rivals[1], 20_000)
    assert few.why(*rivals[0]).others is None
    share = next(s for s in few.judge(*rivals[0]).shares if s.name == "price")
    assert share.value == pytest.approx(0.99), "the seed's: $0.01 of $1"


@given(st.lists(st.sampled_from([1_000, 2_000, 3_000, 50_000]), min_size=4, max_size=9))
def test_the_fleets_price_is_the_median_of_the_others(prices: list[int]) -> None:
    scores = Scores()
    for n, price in enumerate(prices):
        scores.quoted(f"https://p{n}.example:443", "", price)
    for n in range(len(prices)):
        others = prices[:n] + prices[n + 1 :]
        assert scores.why(f"https://p{n}.example:443").others == round(median(others))
    assert scores.why("https://new.example:443").others == round(median(prices))


def test_money_for_nothing_makes_what_is_delivered_dearer() -> None:
    scores = Scores()
    for _ in range(3):
        buy(scores)
    before = next(s for s in scores.judge(KEY, QUOTE).shares if s.name == "price")
    for _ in range(3):
        lose(scores)
    after = next(s for s in scores.judge(KEY, QUOTE).shares if s.name == "price")
    assert after.value < before.value
    assert "delivered for" in after.why


def test_a_score_fades_by_the_clock_alone() -> None:
    moment = [datetime(2026, 1, 1, tzinfo=UTC)]
    scores = Scores(clock=lambda: moment[0])
    for _ in range(20):
        lose(scores)
    low = scores.judge(KEY).score
    moment[0] += timedelta(days=70)
    assert low < 0.3 < scores.judge(KEY).score


def test_a_provider_is_named_as_people_do() -> None:
    known = ["http://api.example:8080", "https://api.example:443", "http://127.0.0.1:80"]
    for text in (
        "https://api.example:443",
        "https://api.example",
        "HTTPS://API.example/v1/quote",
        "api.example:443",
        "api.example",
    ):
        assert named(text, known) == known[1], text
    assert named("http://api.example", known) == known[0]
    assert named("127.0.0.1", known) == known[2]
    assert named("https://127.0.0.1", known) is None
    assert named("example", known) is None


async def test_it_costs_microseconds() -> None:
    scores, loop = Scores(), asyncio.get_running_loop()
    began = loop.time()
    for _ in range(5_000):
        scores.succeeded(KEY, QUOTE, 1.0, 200)
    assert (loop.time() - began) / 5_000 < 200e-6
