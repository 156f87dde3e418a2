"""Any sequence of moves, against a model: hypothesis looks for one after which the books are wrong.

Every statement that the real ledger and the real reconciler send goes to PostgreSQL and to
`memory.py`; answers, counters, payments, receipts and the reasons of the moves have to be the same
after each step, and `audit_books` has to have nothing to say.

The same examples each time; others with `--hypothesis-seed=N` or in `make soak`, and a failure
prints what it was.
"""

import asyncio
import base64
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from policies import Policy
from proxy.chains.solana.fate import Seen
from proxy.ledger import (
    Delivery,
    Ledger,
    Presented,
    Reservation,
    SettledReceipt,
    agents,
    audit,
    ceilings,
    kept,
)
from proxy.reconciler.books import Account, Books
from tests.model.memory import AgentRow, Memory
from tests.model.twin import Twin
from tests.model.world import SOAK, World, profile

NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
WALLET = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
PROVIDERS = ("https://a.example:443", "https://b.example:443")
HASHES = [letter * 88 for letter in "123"]
NAMES = ("ann", "bob")
ME, GONE = UUID(int=1), UUID(int=2)  # processes; neither has told the database that it lives
LIMITS = st.sampled_from([0, 1, 50_000, 300_000, 1_000_000])

_ROLL_OVER = """
SET session_replication_role = replica;
UPDATE budget_counters SET day = day - 1, scope = '~' || regexp_replace(scope, '[^/]*$', '')
    || to_char(day - 1, 'YYYY-MM-DD') WHERE day IS NOT NULL;
UPDATE budget_counters SET scope = ltrim(scope, '~') WHERE scope LIKE '~%';
UPDATE payments SET day = day - 1, scopes = ARRAY(
    SELECT CASE WHEN s ~ '/\\d{4}-\\d\\d-\\d\\d$'
                THEN left(s, -10) || to_char(to_date(right(s, 10), 'YYYY-MM-DD') - 1, 'YYYY-MM-DD')
                ELSE s END
      FROM unnest(scopes) WITH ORDINALITY o (s, n) ORDER BY n);
SET session_replication_role = origin;
"""


class Money(RuleBasedStateMachine):
    """What agents, an operator, providers and the chain can do to the books."""

    payments = Bundle("payments")
    unborn = Bundle("unborn")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.examples += 1
        self.number = 0
        self.memory = Memory()
        self.twin: Any = Twin(world.real, self.memory)
        self.ids: dict[str, str] = {}
        world.run(self._begin())
        self.ledger = world.run(self._open())
        self.books = Books(self.twin)
        self.made: dict[UUID, Reservation] = {}
        self.halted = False
        self.steps = 0

    async def _begin(self) -> None:
        await self.world.clear()
        for number, name in enumerate(NAMES):
            key = str(UUID(int=self.world.examples << 8 | number))
            await self.world.owner.execute(
                "INSERT INTO agents (id, name) VALUES ($1, $2)", UUID(key), name
            )
            await self.world.owner.execute(
                "INSERT INTO agent_policies (agent_id, per_call_limit_micros, daily_limit_micros,"
                " session_limit_micros, trace_limit_micros)"
                " VALUES ($1, 400000, 1000000, 700000, 500000)",
                UUID(key),
            )
            self.memory.state.agents[key] = AgentRow(name, 400_000, 1_000_000, 700_000, 500_000)
            self.ids[name] = key

    async def _open(self) -> Ledger:
        return Ledger(self.twin)

    def teardown(self) -> None:
        self.world.run(self.twin.audit())
        self.world.run(self.ledger.close())

    # --- what an agent does

    @rule(
        target=payments,
        name=st.sampled_from(NAMES),
        session=st.sampled_from([None, "s1", "s2"]),
        trace=st.sampled_from([None, "t1", "t2"]),
        provider=st.sampled_from(PROVIDERS),
        near=st.sampled_from(
            ["", "", "agent_day", "session", "trace", "provider_day", "fleet_day"]
        ),
        off=st.integers(-1, 1),
        signed=st.sampled_from([True, True, True, False]),
        twin_of=st.none() | payments,
        key=st.sampled_from([None, None, b"k1", b"k2"]),
        named=st.sampled_from([None, None, None, b"i1"]),
        sender=st.sampled_from([None, ME, GONE]),
        share=st.sampled_from([False, False, True]),
    )
    def reserve(
        self,
        name: str,
        session: str | None,
        trace: str | None,
        provider: str,
        near: str,
        off: int,
        signed: bool,
        twin_of: UUID | None,
        key: bytes | None,
        named: bytes | None,
        sender: UUID | None,
        share: bool,
    ) -> UUID:
        """Of a price around what is left of some budget, or of a common one."""
        new = self._reservation(name, session, trace, provider, key)
        new = replace(new, price=self._price(new, near, off), instance=sender, share=share)
        if named is not None:
            new = replace(new, idempotency_key=sha256(named).digest())
        if not signed:
            new = replace(new, message_sha256=None)
        elif twin_of is not None:
            new = replace(new, message_sha256=self.made[twin_of].message_sha256)
        return self._reserve(new)

    def _reserve(self, new: Reservation) -> UUID:
        self.made[new.payment_id] = new
        self.world.run(self.ledger.reserve(new))
        return new.payment_id

    @rule(payment=payments)
    def repeat(self, payment: UUID) -> None:
        """Its acknowledgement was lost, say: the same again, by its id."""
        self.world.run(self.ledger.reserve(self.made[payment]))

    @rule(
        target=payments,
        name=st.sampled_from(NAMES),
        prices=st.lists(st.integers(1, 400_000), min_size=2, max_size=5),
        settled=st.lists(payments, max_size=3),
        dropped=st.lists(payments, max_size=2),
        session=st.sampled_from([None, "s1"]),
    )
    def batch(
        self,
        name: str,
        prices: list[int],
        settled: list[UUID],
        dropped: list[UUID],
        session: str | None,
    ) -> Any:
        """Several at once, in one call to the database."""
        new = [
            replace(self._reservation(name, session, None, PROVIDERS[0], None), price=price)
            for price in prices
        ]
        self.made |= {each.payment_id: each for each in new}

        async def together() -> None:
            await asyncio.gather(
                *(self.ledger.reserve(each) for each in new),
                *(self.ledger.settle(each, _receipt(True, None)) for each in settled),
                *(self.ledger.release(each, "never_sent") for each in dropped),
            )

        self.world.run(together())
        return multiple(*(each.payment_id for each in new))

    # --- what comes of it

    @rule(payment=payments, claimed=st.booleans(), named=st.none() | st.sampled_from(HASHES))
    def settle(self, payment: UUID, claimed: bool, named: str | None) -> None:
        self.world.run(self.ledger.settle(payment, _receipt(claimed, named)))

    @rule(payment=payments, reason=st.sampled_from(["never_sent", "proved_dead", "timeout"]))
    def release(self, payment: UUID, reason: str) -> None:
        self.world.run(self.ledger.release(payment, reason))

    @rule(payment=payments, reason=st.sampled_from(["answer_lost", "asked_again"]))
    def doubt(self, payment: UUID, reason: str) -> None:
        self.world.run(self.ledger.doubt(payment, reason))

    @rule(target=unborn, name=st.sampled_from(NAMES))
    def abandon(self, name: str) -> Reservation:
        """Given up while it is still on its way to the database."""
        new = self._reservation(name, "s1", None, PROVIDERS[0], None)
        self.world.run(self.ledger.release(new.payment_id, "never_sent"))
        return new

    @rule(target=payments, new=consumes(unborn))
    def arrive_late(self, new: Reservation) -> UUID:
        return self._reserve(new)

    # --- the same request again

    @rule(payment=payments)
    def present_again(self, payment: UUID) -> None:
        self.world.run(self.ledger.begin_presenting(payment, ME))

    @rule(payment=payments, success=st.booleans(), last=st.booleans(), mark=st.integers(0, 2))
    def presented(self, payment: UUID, success: bool, last: bool, mark: int) -> None:
        """The same outcome may be told twice."""
        known = uuid5(payment, str(mark))
        said = Presented(payment, ME, success, last, id=known)
        self.world.run(self.ledger.end_presenting(said))

    @rule(payment=payments, delivered=st.booleans())
    def keep(self, payment: UUID, delivered: bool) -> None:
        self.world.run(self.twin.fetchval(kept._KEEP, payment, delivered, b"sealed", 600.0, 3))

    @rule(payment=payments)
    def promise(self, payment: UUID) -> None:
        self.world.run(self.twin.fetchval(kept._KEEP, payment, False, None, 600.0, 3))

    @rule(payment=payments)
    def deliver(self, payment: UUID) -> None:
        said = Delivery("p", "u", "GET", 200, "", 1, True, True, 0.5, payment_id=payment)
        self.world.run(self.ledger.deliver(said))

    @rule(
        name=st.sampled_from(NAMES),
        key=st.sampled_from([None, b"k1", b"k2"]),
        named=st.sampled_from([None, b"i1"]),
        share=st.booleans(),
    )
    def ask(self, name: str, key: bytes | None, named: bytes | None, share: bool) -> None:
        """What does this request have to do with payments from before?"""
        self.world.run(
            self.ledger.prior(
                UUID(self.ids[name]),
                None if key is None else sha256(key).digest(),
                None if named is None else sha256(named).digest(),
                key_seconds=86_400,
                share=share,
                instance=ME,
            )
        )

    @rule(payment=payments)
    def ask_of(self, payment: UUID) -> None:
        self.world.run(self.ledger.answer_state(payment, ME))
        self.world.run(self.ledger.left(payment))
        agent = self.made[payment].agent_id
        self.world.run(self.twin.fetchval(kept._FIND, payment, agent))

    # --- what the chain shows

    @rule(payment=payments, named=st.sampled_from(HASHES))
    def confirm(self, payment: UUID, named: str) -> None:
        self.world.run(self.books.confirm(payment, _seen(named)))

    @rule(payment=payments, named=st.sampled_from(HASHES))
    def verify(self, payment: UUID, named: str) -> None:
        self.world.run(self.books.verify(payment, _seen(named)))

    @rule(payment=payments, named=st.none() | st.sampled_from(HASHES))
    def disprove(self, payment: UUID, named: str | None) -> None:
        seen = None if named is None else replace(_seen(named), err='"InsufficientFunds"')
        if self.made[payment].message_sha256 is not None:
            self.world.run(self.books.disprove(payment, "dead", seen))

    @rule(payment=payments, why=st.sampled_from(["rpcs_disagree", "second_scan_due"]))
    def wonder(self, payment: UUID, why: str) -> None:
        alarm = ("ALARM", "ERROR") if why == "rpcs_disagree" else None
        self.world.run(self.books.doubt(payment, why, "", 7, alarm))

    @rule()
    def look(self) -> None:
        """What the reconciler reads."""
        self.world.run(self.books.watches())
        self.world.run(self.books.open_payments(Account(NETWORK, "source")))

    # --- what an operator does, and the night

    @rule(name=st.sampled_from(NAMES), daily=LIMITS, session=LIMITS, trace=LIMITS, call=LIMITS)
    def limits(self, name: str, daily: int, session: int, trace: int, call: int) -> None:
        """Raised or lowered, below what is spent and held already, too."""
        row = self.memory.state.agents[self.ids[name]]
        if row.active:
            policy = Policy(name, row.frozen, call, daily, session, trace)
            self.world.run(agents.set_policy(self.world.real, policy))
            row.per_call, row.daily, row.session, row.trace = call, daily, session, trace

    @rule(name=st.sampled_from(NAMES), frozen=st.booleans())
    def freeze(self, name: str, frozen: bool) -> None:
        row = self.memory.state.agents[self.ids[name]]
        if row.active:
            self.world.run(agents.set_frozen(self.world.real, name, frozen))
            row.frozen = frozen

    @rule()
    def halt_or_resume(self) -> None:
        self.halted = self.memory.state.halted = not self.halted
        if self.halted:
            self.world.run(audit.halt(self.world.real, "a test", by="me"))
        else:
            self.world.run(audit.resume(self.world.real, by="me"))

    @rule(
        kind=st.sampled_from(ceilings.KINDS),
        exactly=st.booleans(),
        limit=st.none() | LIMITS,
        own=st.booleans(),
    )
    def ceiling(self, kind: ceilings.Kind, exactly: bool, limit: int | None, own: bool) -> None:
        subject = {"fleet_day": "*", "wallet_day": WALLET}.get(kind, PROVIDERS[0])
        subject = subject if exactly else "*"
        agent = "ann" if own and kind == "agent_provider_day" else None
        if agent is not None and not self.memory.state.agents[self.ids[agent]].active:
            return
        key = (kind, None if agent is None else self.ids[agent], subject)
        if limit is None:
            self.world.run(ceilings.clear_ceiling(self.world.real, kind, subject, agent=agent))
            self.memory.state.ceilings.pop(key, None)
        else:
            self.world.run(ceilings.set_ceiling(self.world.real, kind, subject, limit, agent=agent))
            self.memory.state.ceilings[key] = limit

    @rule()
    def midnight(self) -> None:
        """What is in the books is a day older."""
        self.world.run(self.world.owner.execute(_ROLL_OVER))
        self.memory.state.day += 1

    @rule(sure=st.integers(0, 3))
    def erase(self, sure: int) -> None:
        row = self.memory.state.agents[self.ids["bob"]]
        if sure == 0 and row.active:
            self.world.run(self._erase())

    async def _erase(self) -> None:
        agent = self.ids["bob"]
        ask = "SELECT id::text AS id, scopes FROM payments WHERE agent_id = $1"
        before = {row["id"]: row["scopes"] for row in await self.world.real.fetch(ask, UUID(agent))}
        assert await self.world.owner.fetchval("SELECT erase_agent('bob', 'me')") is not None
        names: dict[str, str] = {}
        for row in await self.world.real.fetch(ask, UUID(agent)):
            for old, new in zip(before[row["id"]], row["scopes"], strict=True):
                if old != new:
                    assert names.setdefault(old, new) == new
        assert len(set(names.values())) == len(names), "two budgets became one"
        assert not any("/s1" in new or "/t1" in new for new in names.values())
        self.memory.erase(agent, names)

    @invariant()
    def the_books_are_the_model(self) -> None:
        self.world.run(self.twin.compare())
        assert self.ledger.waiting == 0
        self.steps += 1
        if self.steps % 8 == 0:  # it reads everything: too slow for every step
            self.world.run(self.twin.audit())

    # --- parts

    def _reservation(
        self, name: str, session: str | None, trace: str | None, provider: str, key: bytes | None
    ) -> Reservation:
        self.number += 1
        mark = f"{self.world.examples}/{self.number}".encode()
        return Reservation(
            payment_id=UUID(int=self.world.examples << 32 | self.number << 8 | 0xFF),
            agent_id=UUID(self.ids[name]),
            price=10_000,
            session_id=session,
            trace_id=trace,
            provider=provider,
            method="GET",
            endpoint=f"{provider}/v1",
            request_body_sha256=None,
            x402_version=2,
            network=NETWORK,
            asset="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
            symbol="USDC",
            amount=10_000,
            pay_to=WALLET,
            payer=WALLET if self.number % 5 else None,
            source_account="source",
            memo=None,
            blockhash="hash",
            last_valid_block_height=250,
            blockhash_slot=100,
            client_signature=mark.hex(),
            header=f"PAYMENT-SIGNATURE: {mark.hex()}" if self.number % 7 else None,
            identified=self.number % 2 == 0,
            message_sha256=sha256(mark).digest(),
            request_key=None if key is None else sha256(key).digest(),
        )

    def _price(self, new: Reservation, near: str, off: int) -> int:
        args = {
            "agent_id": str(new.agent_id),
            "provider": new.provider,
            "session_id": new.session_id,
            "trace_id": new.trace_id,
            "payer": new.payer,
            "network": new.network,
        }
        for scope, kind, agent, subject in self.memory._counters_of(args):
            if kind == near:
                counter = self.memory._counter(scope, kind, agent, subject)
                limit = self.memory._limit(counter)
                if limit is not None:
                    return max(1, limit - counter.stands + off)
        return 90_000


def _receipt(claimed: bool, named: str | None) -> SettledReceipt:
    header = base64.b64encode(json.dumps({"success": True}).encode()).decode()
    return SettledReceipt(
        claimed=claimed,
        http_status=200,
        success=True,
        latency_ms=1,
        transaction=named or "",
        response_header=header if claimed else "",
    )


def _seen(signature: str) -> Seen:
    return Seen(signature, 120, "finalized", None, "ours", None, -10_000, 0, 5_000)


@pytest.mark.timeout(3600 if SOAK else 120)
def test_the_books_are_right_after_any_moves(world: World) -> None:
    examples = profile(1_000, 60) if SOAK else profile(40, 25)
    run_state_machine_as_test(lambda: Money(world), settings=examples)
