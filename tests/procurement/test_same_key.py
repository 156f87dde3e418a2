"""The same Idempotency-Key: one answer; nobody else is paid while somebody may have delivered."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger import LedgerUnavailable
from proxy.localnet import Localnet
from proxy.wire.aside import fetch
from proxy.wire.problem import Problem
from tests.e2e.house import Answer
from tests.procurement.market import Market, asks, market, settles_late
from tests.providers.faulty import GOODS, good, hangs_up, settles, status

KEY = {"Idempotency-Key": "order-7"}


async def payments(quotes: Market) -> list[dict[str, Any]]:
    return await quotes.home.rows(
        "SELECT provider, status::text AS status FROM payments ORDER BY 1"
    )


async def test_the_kept_answer_whoever_would_be_first_now(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    acts = {"down": hangs_up(), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        first = await quotes.want(headers=KEY)
        assert (first.status, first.headers["Autopay-Candidate"]) == (200, "paid")
        quotes.sellers["down"].act = asks(net, settles())  # and it would be asked first
        again = await quotes.want(headers=KEY)
        assert (again.status, again.body) == (200, GOODS)
        assert again.headers["Autopay-Replayed"] == "true"
        assert again.headers["Autopay-Candidate"] == "paid"
        assert again.headers["Autopay-Payment"] == first.headers["Autopay-Payment"]
        assert len(await payments(quotes)) == 1
        other = await quotes.want(headers={"Idempotency-Key": "order-8"})
        assert "Autopay-Replayed" not in other.headers
        assert len(await payments(quotes)) == 2


async def test_what_failed_and_was_paid_is_not_paid_again(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    """The run that is repeated begins where the first one ended, and under what it has left."""
    acts = {"liar": asks(net, settles(500)), "down": hangs_up()}
    async with market(net, dsn, tmp_path, acts, intent={"total": "0.0015"}) as quotes:
        assert (await quotes.want(headers=KEY)).status == 502
        quotes.sellers["down"].act = asks(net, settles())
        again = await quotes.want(headers=KEY)
        assert (again.status, again.json["lost_usd"]) == (502, "0.001")
        assert [one["code"] for one in again.json["attempts"]] == [None, "over_intent_cap"]
        assert again.json["attempts"][0]["earlier"] is True
        quotes.sellers["down"].act = asks(net, settles(), 500)
        served = await quotes.want(headers=KEY)
        assert (served.status, served.headers["Autopay-Lost"]) == (200, "0.001 USD")
        assert served.headers["Autopay-Attempts"] == "2"
        last = await quotes.want(headers=KEY)
        assert (last.status, last.headers["Autopay-Replayed"]) == (200, "true")
        assert last.headers["Autopay-Lost"] == "0.001 USD"
        assert len(await payments(quotes)) == 2
        assert (quotes.payments("liar"), quotes.payments("down")) == (1, 1)


async def test_in_doubt_nobody_else_is_paid(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"vague": asks(net, hangs_up()), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        first = await quotes.want(headers=KEY)
        assert (first.status, first.json["code"]) == (502, "payment_in_doubt")
        assert [one["money"] for one in first.json["attempts"]] == ["in_doubt"]
        again = await quotes.want(headers=KEY)
        assert again.json["code"] == "payment_in_doubt"
        assert again.json["attempts"][0]["payment"] == first.json["attempts"][0]["payment"]
        assert quotes.payments("paid") == 0
        # It serves after all what it was paid for, with the very same bytes.
        quotes.sellers["vague"].act = asks(net, settles())
        served = await quotes.want(headers=KEY)
        assert (served.status, served.body) == (200, GOODS)
        assert len(set(quotes.sellers["vague"].payments)) == 1
        assert len(await payments(quotes)) == 1
        # Without a key, it is a wish of its own.
        quotes.sellers["vague"].act = hangs_up()
        assert (await quotes.want()).headers["Autopay-Candidate"] == "paid"


async def test_nobody_else_is_paid_while_an_answer_is_late(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    """It is settled, so it is not in doubt; but nobody knows yet what was delivered for it."""
    more = asyncio.Event()
    acts = {"late": asks(net, settles_late(more)), "paid": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts, intent={"seconds": 1}) as quotes:
        first = await quotes.want(headers=KEY)
        assert (first.status, first.json["code"]) == (502, "intent_failed")
        (attempt,) = first.json["attempts"]
        assert (attempt["money"], attempt["cost_usd"]) == ("paid", "0.001")
        assert quotes.payments("paid") == 0
        more.set()
        again = await quotes.want(headers=KEY)
        assert (again.status, again.body) == (200, GOODS)
        assert again.headers["Autopay-Payment"] == attempt["payment"]
        assert len(await payments(quotes)) == 1
        # Without a key, it is a wish of its own.
        more.clear()
        assert (await quotes.want()).headers["Autopay-Candidate"] == "paid"
        more.set()


@pytest.mark.parametrize("code", ["idempotency_key_reused", "ledger_unavailable"])
async def test_what_ends_a_run_tells_of_its_money(
    net: Localnet, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """The key was another's when the second one was to be paid; and the ledger, asked whose, may
    be away."""
    acts = {"liar": asks(net, settles(500)), "next": good()}
    async with market(net, dsn, tmp_path, acts) as quotes:
        real = fetch

        async def away(*_: object) -> None:
            raise LedgerUnavailable("it is away", may_have_happened=False)

        async def fetched(*of: Any, **options: Any) -> Any:
            if of[3].attempt == 1:
                return await real(*of, **options)
            if code == "ledger_unavailable":
                ours = quotes.home.service.procurement
                monkeypatch.setattr(ours._database, "fetch", away)
            return Problem(422, "idempotency_key_reused", "Another's. Nothing was paid for this.")

        monkeypatch.setattr("proxy.procurement.procurement.fetch", fetched)
        answer = await quotes.want(headers=KEY)
        assert answer.json["code"] == code
        assert (answer.json["lost_usd"], len(answer.json["attempts"])) == ("0.001", 1)
        assert "0.001 USD were paid for nothing" in answer.json["detail"]
        assert "othing was" not in answer.json["detail"]


async def test_a_key_is_for_one_request(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"a": asks(net, settles()), "b": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        assert (await quotes.want("/x", headers=KEY)).status == 200
        for options in ({"path": "/y"}, {"path": "/x", "method": "POST", "data": b"1"}):
            other = await quotes.want(headers=KEY, **options)
            assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
        assert len(await payments(quotes)) == 1


async def test_at_once_there_is_one_payment(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """Though each of them would begin with somebody else."""
    acts = {name: asks(net, settles()) for name in "abcde"}
    async with market(net, dsn, tmp_path, acts) as quotes:
        candidates = quotes.home.service.procurement.candidates
        turn, real = 0, candidates.rank

        def turned(wish: Any) -> Any:
            nonlocal turn
            turn += 1
            ranked = real(wish)
            return ranked[turn % 5 :] + ranked[: turn % 5]

        candidates.rank = turned  # type: ignore[method-assign]
        answers: list[Answer] = await asyncio.gather(*(quotes.want(headers=KEY) for _ in range(10)))
        assert [answer.status for answer in answers] == [200] * 10
        assert len({answer.headers["Autopay-Candidate"] for answer in answers}) == 1
        assert len(await payments(quotes)) == 1
        assert sum(quotes.payments(name) for name in "abcde") == 1


async def test_without_a_ledger_nobody_is_asked_under_a_key(
    net: Localnet, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise LedgerUnavailable("it is away", may_have_happened=False)

    async with market(net, dsn, tmp_path, {"a": good()}) as quotes:
        monkeypatch.setattr(quotes.home.service.procurement._database, "fetch", away)
        answer = await quotes.want(headers=KEY)
        assert (answer.status, answer.json["code"]) == (503, "ledger_unavailable")
        assert not quotes.sellers["a"].seen
        assert (await quotes.want()).status == 200


async def test_free_answers_need_no_key(net: Localnet, dsn: str, tmp_path: Path) -> None:
    async with market(net, dsn, tmp_path, {"a": status(500), "b": good()}) as quotes:
        assert [(await quotes.want(headers=KEY)).status for _ in range(2)] == [200, 200]
