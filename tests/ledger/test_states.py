"""The table of moves, held against PostgreSQL's own: every pair of states, every reason."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from proxy.chains.solana.fate import Seen
from proxy.ledger import Database, Ledger, SettledReceipt
from proxy.ledger.states import FINAL, MOVES, OPEN, SETTLED, UNPROVED, IllegalMove, Status, moved
from proxy.reconciler.books import Books
from tests.ledger.conftest import Make

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

REASONS = [*sorted(set().union(*MOVES.values())), "timeout"]
RECEIPT = SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=5)
# What the row itself says of why it failed; the rest is said by the function that moves it.
_COLUMN = {"never_sent": "never_sent"}
_WAYS: dict[Status, list[tuple[Status, str]]] = {
    Status.INITIATED: [],
    Status.SIGNED: [(Status.SIGNED, "signed")],
    Status.CONFIRMED: [(Status.SIGNED, "signed"), (Status.CONFIRMED, "settled")],
    Status.VERIFIED: [
        (Status.SIGNED, "signed"),
        (Status.CONFIRMED, "settled"),
        (Status.VERIFIED, "finalized"),
    ],
    Status.FAILED: [(Status.FAILED, "never_sent")],
}


def test_statuses_are_those_of_the_books() -> None:
    assert frozenset({Status.INITIATED, Status.SIGNED}) == OPEN
    assert frozenset({Status.CONFIRMED, Status.VERIFIED}) == SETTLED
    assert frozenset({Status.VERIFIED, Status.FAILED}) == FINAL
    assert frozenset({Status.SIGNED, Status.CONFIRMED}) == UNPROVED


@pytest.mark.parametrize("to", Status)
@pytest.mark.parametrize("at", [None, *Status])
def test_what_is_not_in_the_table_is_refused(at: Status | None, to: Status) -> None:
    for reason in REASONS:
        if reason in MOVES.get((at, to), ()):
            assert moved(at, to, reason) is to
        else:
            with pytest.raises(IllegalMove) as refused:
                moved(at, to, reason)
            assert (refused.value.status, refused.value.to, refused.value.reason) == (
                at,
                to,
                reason,
            )


def test_money_that_may_have_left_is_never_called_unsent() -> None:
    assert moved(Status.SIGNED, Status.FAILED, "proved_dead", in_doubt=True) is Status.FAILED
    with pytest.raises(IllegalMove, match="never_sent"):
        moved(Status.SIGNED, Status.FAILED, "never_sent", in_doubt=True)


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator["Connection"]:
    """Past every function: only the triggers stand in the way."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def _born(owner: "Connection", make: Make, ledger: Ledger, status: Status) -> object:
    reservation = make(message_sha256=None)
    await ledger.reserve(reservation)
    for to, reason in _WAYS[status]:
        await _move(owner, reservation.payment_id, to, reason)
    return reservation.payment_id


async def _move(owner: "Connection", payment_id: object, to: Status, reason: str) -> None:
    release = _COLUMN.get(reason, "proved_dead") if to is Status.FAILED else None
    await owner.execute(
        "UPDATE payments SET status = $2::text::payment_status, release_reason = $3,"
        " message_sha256 = coalesce(message_sha256, sha256(id::text::bytea)) WHERE id = $1",
        payment_id,
        to,
        release,
    )


@pytest.mark.parametrize("doubted", [False, True])
async def test_the_database_agrees_about_every_pair(
    owner: "Connection", make: Make, ledger: Ledger, doubted: bool
) -> None:
    for at, to in itertools.product(Status, Status):
        if at is to:
            continue
        for reason in ("never_sent", "proved_dead") if to is Status.FAILED else ("",):
            payment_id = await _born(owner, make, ledger, at)
            if doubted:
                await owner.execute(
                    "UPDATE payments SET in_doubt_since = now() WHERE id = $1", payment_id
                )
            # The three ways of a proof are one to the trigger: the chain proved it dead.
            legal = {_COLUMN.get(r, "proved_dead") for r in MOVES.get((at, to), ())}
            if to is not Status.FAILED:
                allowed = bool(legal)
            else:
                allowed = reason in legal and not (doubted and reason == "never_sent")
            try:
                await _move(owner, payment_id, to, reason)
            except asyncpg.CheckViolationError as refused:
                assert not allowed, f"{at} → {to} ({reason}): {refused}"
                assert refused.constraint_name == "payment_transition"
            else:
                assert allowed, f"{at} → {to} ({reason}) went through"


@pytest.mark.parametrize("status", Status)
async def test_the_database_agrees_about_births(
    owner: "Connection", make: Make, ledger: Ledger, status: Status
) -> None:
    model = make()
    await ledger.reserve(model)
    born = (
        "INSERT INTO payments (id, agent_id, status, amount_atomic, price_micros, day, scopes,"
        " policy_version, provider, method, endpoint, x402_version, network, asset, symbol, pay_to,"
        " api_request_id, release_reason, message_sha256)"
        " SELECT gen_random_uuid(), agent_id, $2::text::payment_status, amount_atomic,"
        " price_micros, day, scopes, policy_version, provider, method, endpoint, x402_version,"
        " network, asset, symbol, pay_to, api_request_id,"
        " CASE $2::text WHEN 'FAILED' THEN 'never_sent' END,"
        " sha256('other')"
        " FROM payments WHERE id = $1"
    )
    if (None, status) in MOVES:
        await owner.execute(born, model.payment_id, status)
    else:
        with pytest.raises(asyncpg.CheckViolationError, match="cannot begin as"):
            await owner.execute(born, model.payment_id, status)


SEEN = json.dumps({"signature": "6" * 88, "slot": 7, "change_atomic": -10_000, "fee_lamports": 5})


async def test_every_move_leaves_its_event_with_its_reason(
    owner: "Connection", database: Database, make: Make, ledger: Ledger
) -> None:
    """Each by the functions that the running proxy has, none by hand but the one it never makes."""

    async def reserved(**changes: object) -> object:
        reservation = make(**changes)
        await ledger.reserve(reservation)
        return reservation.payment_id

    async def run(sql: str, payment_id: object, *args: object) -> None:
        await database.fetchval(sql, payment_id, *args)

    confirm, verify = "SELECT confirm_from_chain($1, $2)", "SELECT verify_payment($1, $2)"
    dead = "SELECT disprove($1, 'it is dead')"
    await _move(owner, await reserved(message_sha256=None), Status.SIGNED, "signed")
    await ledger.release(await reserved(message_sha256=None), "never_sent")  # type: ignore[arg-type]
    await ledger.release(await reserved(), "never_sent")  # type: ignore[arg-type]
    lost = await reserved()
    await ledger.doubt(lost, "answer_lost")  # type: ignore[arg-type]
    await run(dead, lost)
    for claimed in (True, False):
        settled = await reserved()
        receipt = RECEIPT if claimed else SettledReceipt(False, 200, True, 5)
        await ledger.settle(settled, receipt)  # type: ignore[arg-type]
        await run(dead, settled)
    seen = await reserved()
    await ledger.doubt(seen, "answer_lost")  # type: ignore[arg-type]
    await run(confirm, seen, SEEN)
    await run(dead, seen)
    final = await reserved()
    await run(verify, final, SEEN)

    rows = await owner.fetch(
        "SELECT details ->> 'from' AS at, details ->> 'to' AS to, details ->> 'reason' AS reason"
        " FROM audit_events WHERE details ? 'to'"
    )
    told = {
        (Status(row["at"]) if row["at"] else None, Status(row["to"]), row["reason"]) for row in rows
    }
    assert told == {(at, to, reason) for (at, to), reasons in MOVES.items() for reason in reasons}
    assert await owner.fetchval("SELECT count(*) FROM audit_books()") == 0


async def test_a_failed_transaction_that_another_payment_was_given(
    database: Database, make: Make, ledger: Ledger
) -> None:
    """A provider names the transaction of one payment for another one too. That it failed is then
    told of the payment whose it is, and must not be refused because the other has its name."""
    transaction = "6" * 88
    claim = SettledReceipt(True, 200, True, 5, transaction=transaction)
    other, own = make(), make()
    for each in (other, own):
        await ledger.reserve(each)
        await ledger.settle(each.payment_id, claim)
    seen = Seen(transaction, 7, "finalized", '"Failed"', own.client_signature or "", "", 0, 0, 5)
    outcome = await Books(database).disprove(own.payment_id, "failed on chain", seen)
    assert outcome == "reversed"
    rows = await database.fetch("SELECT id, payment_hash FROM payments")
    assert {row["id"]: row["payment_hash"] for row in rows} == {
        other.payment_id: None,
        own.payment_id: transaction,
    }
