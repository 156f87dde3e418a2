"""An equal payment that another process has sent: what it says of it decides whether one may be
signed beside it. Two processes, as far as the database can see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from proxy.again import Again, Terms
from proxy.awaited import Awaited, Word
from proxy.entries import INSTANCE, request_key
from proxy.ledger import Agent, Database, Ledger, Prior, Reserved
from proxy.ledger.presence import Presence
from proxy.metrics import Counts
from tests.ledger.conftest import Make

URL = "https://api.example.com/v1/quote"
OTHER = uuid4()


@asynccontextmanager
async def present(dsn: str, instance: UUID, awaited: Awaited) -> AsyncIterator[Presence]:
    presence = Presence(dsn, instance, word=awaited.word)
    await presence.start()
    yield presence
    await presence.close()


class Case:
    """A payment of the other process, and this one with the same request."""

    def __init__(self, database: Database, ledger: Ledger, bot: Agent, presence: Presence) -> None:
        purchase = SimpleNamespace(method="GET", url=URL, body_sha256=_no_body)
        self.meeting: Any = SimpleNamespace(purchase=purchase, agent=bot)
        kept: Any = None
        self.again = Again(ledger, kept, {}, Counts(), Terms(), Awaited(), presence)
        self._database = database

    async def status(self, payment_id: UUID) -> str:
        row = await self._database.fetchrow("SELECT status FROM payments WHERE id = $1", payment_id)
        assert row is not None
        return str(row["status"])


async def _no_body() -> bytes:
    return bytes(32)


@pytest.fixture
async def others() -> Awaited:
    return Awaited()


@pytest.fixture
async def case(
    dsn: str, database: Database, ledger: Ledger, bot: Agent, others: Awaited
) -> AsyncIterator[Case]:
    async with (
        present(dsn, OTHER, others),
        present(dsn, INSTANCE, Awaited()) as presence,
    ):
        yield Case(database, ledger, bot, presence)


@pytest.fixture
async def payment(ledger: Ledger, make: Make) -> UUID:
    one = make(request_key=request_key("GET", URL, bytes(32)), instance=OTHER)
    assert isinstance(await ledger.reserve(one), Reserved)
    return one.payment_id


async def test_what_was_never_sent_is_taken_back_before_anything_is_signed_in_its_stead(
    case: Case, others: Awaited, payment: UUID
) -> None:
    """Else a third process could find it, take its sender for gone, and send it: two payments for
    one request."""
    others.unsent(payment)
    assert await case.again.elsewhere(case.meeting, payment) is None
    assert await case.status(payment) == "FAILED"


async def test_what_another_process_has_sent_meanwhile_is_not_taken_back(
    case: Case, ledger: Ledger, make: Make
) -> None:
    """Its own process, which never sent it, can say so only now."""
    one = make(
        request_key=request_key("GET", URL, bytes(32)), instance=uuid4(), header="X-PAYMENT: AQ=="
    )
    assert isinstance(await ledger.reserve(one), Reserved)
    assert await ledger.begin_presenting(one.payment_id, INSTANCE) == "ok"
    assert await ledger.release(one.payment_id, "never_sent")
    assert await case.status(one.payment_id) == "SIGNED"


async def test_what_may_have_been_sent_after_all_is_not_taken_back(
    case: Case, ledger: Ledger, others: Awaited, payment: UUID
) -> None:
    others.unsent(payment)
    await ledger.doubt(payment, "answer_lost")  # by whoever sent it meanwhile
    await case.again.elsewhere(case.meeting, payment)
    assert await case.status(payment) == "SIGNED"


@pytest.mark.parametrize("word", [Word.WAITS, Word.NOTHING])
async def test_only_a_word_for_it_lets_a_second_be_signed(
    case: Case, others: Awaited, payment: UUID, word: Word
) -> None:
    if word is Word.WAITS:
        others.delivered(payment)
    met = await asyncio.wait_for(case.again.elsewhere(case.meeting, payment), 20)
    assert met == (None if word is Word.WAITS else Prior("request_in_progress", payment))
    assert await case.status(payment) == "SIGNED"
