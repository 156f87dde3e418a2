"""Any sequence of purchases under any policies, against the policies on paper.

The real proxy's decision and the real ledger on PostgreSQL, with a clock that the test sets; beside
them `paper.py`, which has no counters. After each step answers, counters, payments, approvals, pins
and losses have to be the same, and what was refused must have changed nothing.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from policies import Ask, Book, Rules, decide, ledger_rules
from proxy.chains.solana.fate import Seen
from proxy.ledger import (
    Delivery,
    Ledger,
    Refused,
    Reservation,
    Reserved,
    SettledReceipt,
    approvals,
    audit,
    ceilings,
    pins,
    policies,
)
from proxy.ledger.approvals import ApprovalError
from proxy.reconciler.books import Books
from proxy.wire.call import HUNG_UP
from tests.model.clock import START, install, set_clock
from tests.model.paper import CEILINGS, Answer, Layer, Paper, Says, Want, ends
from tests.model.world import SOAK, World, profile

AGENTS = ("ann", "bob")
SHOPS = ("https://a.example.com:443", "https://b.example.com:443", "http://a.example.com:8080")
NETWORKS = ("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")
ASSETS = (
    "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
    "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGkZwyTDt1v",
)
RECEIVERS = ("2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4", "9" * 44)
LAYERS: list[Layer] = [
    *((None, None), ("ann", None), ("bob", None), (None, "a.example.com")),
    *((None, "*.example.com"), (None, "https://a.example.com:443"), ("ann", "*.example.com")),
]
AMOUNTS = (0, 10_000, 25_000, 60_000, 120_000)
ROLLING = ("1h", "2h", "24h", "2d")
SAYINGS: dict[str, list[tuple[Any, Any]]] = {
    "amount": [
        ((window, "micros"), x)
        for window in ("hour", "day", "month", "lifetime", "session", "trace", *ROLLING, *ROLLING)
        for x in AMOUNTS
    ],
    "number": [
        ((window, "payments"), n)
        for window in ("hour", "day", "month", "lifetime", "1h", "24h", "2d")
        for n in (0, 1, 2, 3, 5)
    ],
    "approval": [("approval_above", x) for x in (0, 0, 5_000, 10_000)],
    "pinning": [("pinning", x) for x in ("first_use", "first_use", "first_use", "off")],
    "price": [
        *(("ratio_last", "1.5"), ("ratio_last", "1"), ("ratio_median", "2")),
        ("ratio_median", "1.25"),
    ],
    "loss": [("loss_cap", x) for x in (0, 15_000, 15_000, 40_000)],
    "call": [("per_call", x) for x in (20_000, 200_000, 200_000, 1_000_000)],
}
THEMES = ("amount", "amount", "amount", "number", "number", *SAYINGS)
# What an example is about, mostly.
FOCUSES = ("amount", "amount", "number", "approval", "approval", "pinning", "price", "loss")
KEYS = {
    "hour": "hourly", "day": "daily", "month": "monthly", "lifetime": "lifetime",
    "session": "session", "trace": "trace", "pinning": "pay_to_pinning",
    "ratio_last": "max_price_ratio_last", "ratio_median": "max_price_ratio_median",
}  # fmt: skip
ENDS = ("settled", "settled", "never_sent", "doubted", "landed", "final", "dead")
ANSWERS = ("good", "bad", "hung_up", "lost", "lost")

_STATE = """
SELECT policy_version() AS version,
    (SELECT count(*) FROM policy_decision_logs) AS decisions,
    (SELECT jsonb_agg(jsonb_build_array(c.kind, a.name, c.subject,
            CASE c.kind WHEN 'session' THEN c.session_id WHEN 'hour' THEN right(c.scope, 13)
                        WHEN 'month' THEN right(c.scope, 7) ELSE c.day::text END,
            c.spent_micros, c.held_micros, c.paid_calls, c.held_calls))
       FROM budget_counters c LEFT JOIN agents a ON a.id = c.agent_id
      WHERE c.spent_micros + c.held_micros + c.paid_calls + c.held_calls > 0)::text AS counters,
    (SELECT jsonb_object_agg(p.id, p.status) FROM payments p)::text AS payments,
    (SELECT jsonb_object_agg(l.payment_id, l.day) FROM losses l)::text AS losses,
    (SELECT jsonb_agg(jsonb_build_array(a.name, l.provider, l.day, l.lost_micros))
       FROM loss_counters l LEFT JOIN agents a ON a.id = l.agent_id
      WHERE l.lost_micros > 0)::text AS lost
"""
_STATUS = {"SIGNED": "open", "CONFIRMED": "paid", "VERIFIED": "final", "FAILED": "failed"}
# What is asked before any number is looked at; the row of the day that goes with it is no limit's.
_BARE = ("frozen", "spending_halted", "payment_in_doubt", "duplicate_message", "policy_changed")


def rules_of(says: Says) -> Rules:
    """As a file would have it."""
    found: dict[str, Any] = {}
    for key, value in says.items():
        if isinstance(key, str):
            money = key in ("per_call", "loss_cap", "approval_above")
            found[KEYS.get(key, key)] = _usd(value) if money else value
        elif key[1] == "payments":
            found.setdefault("payments", {})[key[0]] = value
        elif key[0] in KEYS:
            found[KEYS[key[0]]] = _usd(value)
        else:
            found.setdefault("rolling", {})[key[0]] = _usd(value)
    return Rules.from_json(found)


def _usd(micros: int) -> str:
    return f"{micros // 10**6}.{micros % 10**6:06}"


def saying(chance: Random, focus: str) -> dict[Any, Any]:
    """What a layer may say: mostly one or two things, and not always anything."""
    themes = [focus] * len(THEMES) + list(THEMES)
    return dict(chance.choice(SAYINGS[chance.choice(themes)]) for _ in range(chance.randint(0, 3)))


def wanted(chance: Random) -> Want:
    """Mostly the same: what differs in everything shares no limit and no approval."""
    pick = chance.choice
    return Want(
        agent=pick(["ann", "ann", "ann", "bob"]),
        provider=pick([*[SHOPS[0]] * 3, *SHOPS]),
        price=pick([1, 5_000, 5_000, 10_000, 15_000, 30_000]),
        method=pick([*["GET"] * 5, "POST"]),
        path=pick([*["/v1"] * 5, "/v2"]),
        body=pick([*["k1"] * 8, "k2", None]),
        pay_to=pick([*[RECEIVERS[0]] * 2, RECEIVERS[1]]),
        network=pick([*[NETWORKS[0]] * 3, NETWORKS[1]]),
        asset=pick([*[ASSETS[0]] * 5, ASSETS[1]]),
        session=pick([None, "s1"]),
        trace=pick([None, "t1"]),
    )


def sayable(layer: Layer, says: Says) -> dict[Any, Any]:
    whole = layer[1] is None
    return {k: v for k, v in says.items() if whole or k[0] not in ("session", "trace")}


CHANGES: list[Mapping[str, Any]] = [
    *[dict[str, Any]()] * 12,
    *({"agent": "bob"}, {"provider": SHOPS[1]}, {"provider": SHOPS[2]}),
    *({"method": "PUT"}, {"path": "/v3"}, {"body": "k3"}, {"body": None}),
    *({"pay_to": RECEIVERS[1]}, {"network": NETWORKS[1]}, {"asset": ASSETS[1]}),
    {"network": NETWORKS[1], "pay_to": RECEIVERS[1]},
]


def act(chance: Random, focus: str) -> tuple[str, dict[str, Any]]:
    """Something that somebody does: a method of `Gate`, and its arguments."""
    pick, some = chance.choice, chance.randrange
    off, wants = pick([-1, 0, 1]), [wanted(chance) for _ in range(chance.randint(1, 4))]
    acts: dict[str, tuple[int, dict[str, Any]]] = {
        "buy": (6, {"news": wants, "edge": some(30), "off": off}),
        "buy_in_a_race": (2, {"want": wants[0], "stale": pick([True, False])}),
        "buy_alike": (4, {"nth": some(6), "change": pick(CHANGES), "off": pick([0, 0, off])}),
        "batch": (
            3,
            {
                "news": wants,
                "edge": some(30),
                "off": off,
                "ended": [
                    (some(10), pick(["settled", "never_sent"])) for _ in range(chance.randint(0, 3))
                ],
            },
        ),
        "wait": (3, {"want": wants[0], "nth": some(12), "short": some(2) > 0}),
        "repeat": (1, {"nth": some(10)}),
        "end": (5, {"several": [(some(6), pick([*ENDS, *ANSWERS])) for _ in range(4)]}),
        "write_layer": (
            2,
            {"layer": pick(LAYERS), "says": saying(chance, focus), "beside": some(3) > 0},
        ),
        "move_limit": (3, {"nth": some(4), "which": some(10), "to": chance.randint(-2, 2)}),
        "freeze": (1, {"layer": pick([*LAYERS, None]), "want": wants[0], "stays": some(4) == 0}),
        "ceiling": (
            1,
            {
                "kind": pick(sorted(CEILINGS)),
                "named": pick([True, False]),
                "limit": pick([None, *AMOUNTS[1:]]),
            },
        ),
        "roll_back": (1, {"back": chance.randint(1, 5)}),
        "answer": (
            7,
            {
                "words": [(some(10), some(3) > 0) for _ in range(chance.randint(1, 3))],
                "minutes": pick([1, 60, 60, 24 * 60]),
                "change": pick([None, *CHANGES]),
                "off": pick([0, off]),
                "waiting": some(3) > 0,
                "later": pick([None, None, None, "due", "short"]),
                "end": pick([None, "never_sent", "dead", "dead", "doubted"]),
            },
        ),
        "pin": (1, {"nth": some(4), "to": pick([*RECEIVERS, None]), "accept": some(3) > 0}),
        "pass_time": (
            4,
            {
                "to": pick(["minute", "hour", "hour", "day", "day", "month", "approval"]),
                "steps": pick([1, 1, 1, 2, 3, 24]),
                "short": some(3) == 0,
                "upkeep": pick([True, False]),
            },
        ),
    }
    (name,) = chance.choices(list(acts), [weight for weight, _ in acts.values()])
    return name, acts[name][1]


# Hypothesis draws a mark for each act. Drawn value by value, acts look alike for hundreds of
# examples; these hardly ever do, and with all marks before, no two examples have the same chances.
marks = st.uuids()


class Gate(RuleBasedStateMachine):
    """What programs buy, what comes of it, what operators say, and time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.examples += 1
        self.ids: dict[str, UUID] = {}
        self.number = self.decisions = self.steps = 0
        self.seen: dict[UUID, tuple[Reservation, Reserved | Refused, datetime]] = {}
        self.wanted: list[Want] = []
        self.money: Any = None
        self.drawn = b""
        world.run(self._begin())
        self.ledger = world.run(self._open())
        self.books = Books(world.real)

    async def _begin(self) -> None:
        await self.world.clear()
        await set_clock(self.world.owner, START)
        for number, name in enumerate(AGENTS):
            self.ids[name] = UUID(int=self.world.examples << 8 | number)
            await self.world.owner.execute(
                "INSERT INTO agents (id, name) VALUES ($1, $2)", self.ids[name], name
            )
            await self.world.owner.execute(
                "INSERT INTO agent_policies (agent_id, inherited)"
                " VALUES ($1, '{per_call,daily,session,trace}')",
                self.ids[name],
            )
        self.view: Book = await policies.load(self.world.real)
        self.view_before = self.view
        self.paper = Paper(START, self.view.version)

    async def _open(self) -> Ledger:
        return Ledger(self.world.real)

    def teardown(self) -> None:
        assert self.world.run(audit.findings(self.world.real)) == []
        self.world.run(self.ledger.close())

    @initialize(mark=marks)
    def begin(self, mark: UUID) -> None:
        chance = self._chance(mark)
        self.focus = chance.choice(FOCUSES)
        for _ in range(chance.randint(1, 4)):
            layer = chance.choice(LAYERS)
            self.world.run(self._set(layer, sayable(layer, saying(chance, self.focus))))
        note(f"begins with {self.paper.layers}")

    @rule(mark=marks)
    def do(self, mark: UUID) -> None:
        name, how = act(self._chance(mark), self.focus)
        note(f"{name} {how}")
        getattr(self, name)(**how)

    def _chance(self, mark: UUID) -> Random:
        self.drawn = sha256(self.drawn + mark.bytes).digest()
        return Random(self.drawn)

    # --- what is bought

    def buy(self, news: list[Want], edge: int, off: int) -> None:
        """The last one at a price at the edge of something."""
        for want in news[:-1]:
            self.world.run(self._buy(want))
        self.world.run(self._buy(self._at_edge(news[-1], edge, off)))

    def buy_in_a_race(self, want: Want, stale: bool) -> None:
        """Decided under the book before; or with the bytes of another payment."""
        self.world.run(self._buy(want, stale=stale, reused=not stale))

    def buy_alike(self, nth: int, change: Mapping[str, Any], off: int) -> None:
        """What was wanted before, with one thing changed, maybe."""
        if self.wanted:
            want = self.wanted[-1 - nth % len(self.wanted)]
            want = replace(want, price=max(1, want.price + off), **change)
            self.world.run(self._buy(want))

    def wait(self, want: Want, nth: int, short: bool) -> None:
        """Until a window lets go of a payment, or a microsecond less; then all that is left, and
        before it one more than that."""
        budgets = [budget for budget in self.paper.budgets(want) if budget.counted]
        until = self.paper.lets_go(budgets[nth % len(budgets)]) if budgets else None
        if until is not None:
            self._set_clock(until, short=short)
            for off in (1, 0):
                self.world.run(self._buy(replace(want, price=max(1, self.paper.left(want) + off))))

    def batch(self, news: list[Want], edge: int, off: int, ended: list[tuple[int, str]]) -> None:
        """Several at once, in one call to the database, behind ends of others."""
        first = self._at_edge(news[0], edge, off)
        plain = [
            (want, rules) for want in [first, *news[1:]] if (rules := self._asked(want)) is not None
        ]
        made = [(want, self._reservation(want, rules)) for want, rules in plain]
        over = {
            list(self.paper.payments)[nth % len(self.paper.payments)]: how
            for nth, how in ended
            if self.paper.payments
        }
        over = {key: how for key, how in over.items() if self._may_end(key, how)}

        async def together() -> list[Any]:
            return await asyncio.gather(
                *(self._end(key, how) for key, how in over.items()),
                *(self.ledger.reserve(new) for _, new in made),
            )

        answers = self.world.run(together())[len(over) :]
        for (want, new), answer in zip(made, answers, strict=True):
            self._note(want, new, answer)
        for key, how in over.items():  # the outbox hands them over a turn later than the others
            self.paper.end(key, how)
            self.money = None

    def repeat(self, nth: int) -> None:
        """The acknowledgement was lost: the same by its id, within the day, is the same."""
        if not self.seen:
            return
        new, first, at = list(self.seen.values())[-1 - nth % len(self.seen)]
        if self.paper.now - at < timedelta(days=1):
            answer = self.world.run(self.ledger.reserve(new))
            payment = self.paper.payments.get(new.payment_id)
            if payment is not None and payment.state == "failed":
                assert isinstance(answer, Refused)
                assert answer.code == "abandoned"
            elif isinstance(first, Refused):  # the payment that it was about is told once
                assert answer == replace(first, joined=None)
            else:
                assert answer == first

    # --- what comes of it

    def end(self, several: list[tuple[int, str]]) -> None:
        keys = list(self.paper.payments)
        for nth, how in several if keys else []:
            for each in ("settled", "bad") if how == "lost" else (how,):
                self._come_to(keys[-1 - nth % len(keys)], each)

    # --- what operators do

    def write_layer(self, layer: Layer, says: Any, beside: bool) -> None:
        before = self.paper.layers.get(layer, {}) if beside else {}
        self.world.run(self._set(layer, before | sayable(layer, says)))

    def move_limit(self, nth: int, which: int, to: int) -> None:
        """To about what is spent and held already, in mid-window."""
        limits = [
            (layer, key)
            for layer in self.paper.layers
            for key in self.paper.layers[layer]
            if isinstance(key, tuple)
        ]
        if limits and self.wanted:
            want = self.wanted[-1 - nth % len(self.wanted)]
            layer, key = limits[which % len(limits)]
            stands = [
                sum(p.want.price for p in budget.counted)
                if key[1] == "micros"
                else len(budget.counted)
                for budget in self.paper.budgets(want)
                if budget.window == key[0]
            ]
            value = max([0, *(each + to * (want.price if abs(to) > 1 else 1) for each in stands)])
            self.world.run(self._set(layer, self.paper.layers[layer] | {key: value}))

    def freeze(self, layer: Layer | None, want: Want, stays: bool) -> None:
        """A layer, or everything by the one switch."""
        if layer is None:
            self.world.run(self._halt(want))
            return
        frozen = "frozen" in self.paper.layers.get(layer, {})
        self.world.run(self._freeze(layer, not frozen))
        self.world.run(self._buy(want))
        self.world.run(self._buy(want, stale=True))
        if not stays:
            self.world.run(self._freeze(layer, False))

    def ceiling(self, kind: Any, named: bool, limit: int | None) -> None:
        subject = SHOPS[0] if named and kind != "fleet_day" else "*"
        if limit is None:
            self.world.run(ceilings.clear_ceiling(self.world.real, kind, subject))
            self.paper.ceilings.pop((kind, subject), None)
        else:
            self.world.run(ceilings.set_ceiling(self.world.real, kind, subject, limit))
            self.paper.ceilings[kind, subject] = limit
        self.paper.changed()
        self.world.run(self._hear())

    def roll_back(self, back: int) -> None:
        version = max(self.paper.version - back, min(self.paper.before))
        self.world.run(policies.roll_back(self.world.real, version, by="me"))
        self.paper.roll_back(version)
        self.world.run(self._hear())

    def answer(
        self,
        words: list[tuple[int, bool]],
        minutes: int,
        change: Mapping[str, Any] | None,
        off: int,
        waiting: bool,
        later: str | None,
        end: str | None,
    ) -> None:
        """An operator's words, of what waits or of whatever it is by now; and then, `later` maybe,
        what he was asked for, or something like it, twice, once at a price that is `off`: it pays
        once, though the first payment may come to an `end` in between."""
        for nth, yes in words:
            keys = [
                key
                for key, a in self.paper.approvals.items()
                if not waiting or self.paper.shown(a) == "pending"
            ]
            if keys:
                key = keys[-1 - nth % len(keys)]
                self.world.run(self._decide(key, yes, timedelta(minutes=minutes)))
                asked = self.paper.approvals[key]
                if later is not None and asked.until > self.paper.now:
                    self._set_clock(asked.until, short=later == "short")
                if change is not None:
                    want = replace(asked.bound, price=asked.price, **change)
                    self.world.run(self._buy(replace(want, price=max(1, want.price + off))))
                    if end is not None and asked.payment is not None:
                        self._come_to(asked.payment, end)
                    self.world.run(self._buy(want))

    def pin(self, nth: int, to: str | None, accept: bool) -> None:
        if not self.paper.pins:
            return
        till = list(self.paper.pins)[nth % len(self.paper.pins)]
        known = self.paper.pins[till]
        if accept and to is not None:
            done = pins.accept(self.world.real, till[0], to, by="me", network=till[1])
            assert self.world.run(done) == (not known.get(to))
            known[to] = True
        elif not accept:
            gone = [one for one in known if to in (None, one)]
            forget = pins.forget(self.world.real, till[0], to, by="me", network=till[1])
            assert self.world.run(forget) == len(gone)
            for one in gone:
                del known[one]
                self.paper.refusals.pop((*till, one), None)

    # --- time

    def pass_time(self, to: str, steps: int, short: bool, upkeep: bool) -> None:
        """To the end of something; or `short` of it, by a microsecond. `upkeep`: and the service
        does what it does every so often."""
        now = self.paper.now
        if to == "minute":
            now += timedelta(minutes=steps)
        elif to == "approval":
            due = [a.until for a in self.paper.approvals.values() if a.until > now]
            now = min(due, default=now)
        else:
            for _ in range(min(steps, 3) if to == "month" else steps):
                now = ends(to, now) or now
        self._set_clock(now, short=short)
        if upkeep:
            self.money = None
            self.world.run(approvals.expire(self.world.real))
            self.world.run(self.world.real.fetchval("SELECT prune_hours()"))
            self.paper.forget()

    def _set_clock(self, now: datetime, *, short: bool) -> None:
        """`short`: of it, by a microsecond."""
        if short and now - timedelta(microseconds=1) > self.paper.now:
            now -= timedelta(microseconds=1)
        self.paper.now = now
        self.world.run(set_clock(self.world.owner, now))

    # --- parts

    async def _buy(self, want: Want, *, stale: bool = False, reused: bool = False) -> None:
        """As the exchange does it: decide under a version of the book, then reserve under it."""
        book = self.view_before if stale else self.view
        rules = self._asked(want, book)
        if rules is None:
            return
        new = self._reservation(want, rules, book.version)
        if reused and self.paper.payments:
            reused_of = self.seen[next(iter(self.paper.payments))][0]
            new = replace(new, message_sha256=reused_of.message_sha256)
        else:
            reused = False
        answer = await self.ledger.reserve(new)
        if book.version != self.paper.version:
            assert isinstance(answer, Refused)
            assert answer.code == "policy_changed"
            return
        self._note(want, new, answer, reused=reused)

    def _asked(self, want: Want, book: Book | None = None) -> Mapping[str, Any] | None:
        """What the proxy lets the ledger ask; None: it denies by itself what no ledger would."""
        book = book or self.view
        at = urlsplit(want.provider)
        assert at.hostname is not None
        assert at.port is not None
        policy = book.policy(want.agent, at.scheme, at.hostname, at.port)
        ask = Ask(
            *(want.method, at.scheme, at.hostname, at.port, want.path, want.pay_to),
            *(want.asset, "USDC", want.network, want.price),
        )
        verdict = decide(policy, ask)
        if book is self.view:
            expected = self.paper.proxy_answer(want)
            assert (verdict.code, verdict.limit if not verdict.allowed else None) == (
                expected.code,
                expected.limit,
            )
        if verdict.allowed:
            return ledger_rules(policy, verdict)
        # A proxy that did not ask: what is the agent's own the ledger asks once more.
        own = self.paper.answers(want)[0].code in ("frozen", "over_per_call_limit")
        return {} if book is self.view and own else None

    def _note(
        self, want: Want, new: Reservation, answer: Reserved | Refused, *, reused: bool = False
    ) -> None:
        """The answer is one that the paper has, too; and what follows from it."""
        self.decisions += 1
        self.seen[new.payment_id] = (new, answer, self.paper.now)
        self.wanted.append(want)
        told, expected = self._told(answer), self.paper.answers(want, reused=reused)
        assert told in expected, (want, told, expected)
        if told.code == "ok":
            self.paper.granted(new.payment_id, want)
            for budget in self.paper.budgets(want):
                stands = sum(p.want.price for p in budget.counted)
                assert budget.micros is None or stands <= budget.micros, budget
                assert budget.most is None or len(budget.counted) <= budget.most, budget
            self.money = None
        elif told.code == "pay_to_changed":
            self.paper.refused_receiver(want)
        elif told.code == "approval_required" and told.about[1] is not None:
            assert isinstance(answer, Refused)
            assert answer.detail is not None
            self.paper.asked(want, UUID(answer.detail["approval"]))

    def _told(self, answer: Reserved | Refused) -> Answer:
        if isinstance(answer, Reserved):
            numbers = answer.limit, answer.spent, answer.held
            return Answer("ok", *numbers, remaining=answer.remaining)
        if answer.code in _BARE:
            return Answer(answer.code)
        numbers = answer.limit, answer.spent, answer.held
        said: Mapping[str, Any] = answer.detail or {}
        about: Any = None
        if answer.code == "pay_to_changed":
            about = frozenset(said["pinned"])
        elif answer.code == "price_drift":
            about = said["rule"]
        elif answer.code == "over_loss_cap":
            about = said["lost_micros"]
        elif answer.code == "approval_required":
            key = UUID(said["approval"]) if "approval" in said else None
            about = said["state"], key if key is None or key in self.paper.approvals else "new"
        return Answer(answer.code, *numbers, resets_at=answer.resets_at, about=about)

    def _at_edge(self, want: Want, edge: int, off: int) -> Want:
        """At a price where the answer changes, if there is one."""
        paper = self.paper
        most = paper.least(want, "per_call")
        edges = [most, paper.least(want, "approval_above")]
        edges += [
            b.micros - sum(p.want.price for p in b.counted)
            for b in paper.budgets(want)
            if b.micros is not None
        ]
        edges += [cap - lost for cap, lost in paper.losses(want)]
        edges += [past[0] for past in [paper.most_by_history(want)] if past is not None]
        edges += [a.price for a in paper.approvals.values() if a.bound == want.bound]
        prices = [int(x) + off for x in edges if x is not None and 1 <= x + off <= most + 1]
        if not prices or edge % 3 == 0:
            return want
        return replace(want, price=prices[edge % len(prices)])

    def _reservation(
        self, want: Want, rules: Mapping[str, Any], version: int | None = None
    ) -> Reservation:
        self.number += 1
        mark = f"{self.world.examples}/{self.number}".encode()
        request = f"{want.method} {want.provider}{want.path} {want.body}".encode()
        return Reservation(
            payment_id=UUID(int=self.world.examples << 32 | self.number << 8 | 0xFF),
            agent_id=self.ids[want.agent],
            price=want.price,
            session_id=want.session,
            trace_id=want.trace,
            provider=want.provider,
            method=want.method,
            endpoint=want.provider + want.path,
            request_body_sha256=None,
            x402_version=2,
            network=want.network,
            asset=want.asset,
            symbol="USDC",
            amount=want.price,
            pay_to=want.pay_to,
            source_account="source",
            blockhash="hash",
            last_valid_block_height=250,
            blockhash_slot=100,
            client_signature=mark.hex(),
            message_sha256=sha256(mark).digest(),
            request_key=None if want.body is None else sha256(request).digest(),
            policy_version=self.view.version if version is None else version,
            rules=rules,
        )

    def _may_end(self, key: UUID, how: str) -> bool:
        """Whether a proxy could come to say so. One that was sent, was sent."""
        payment = self.paper.payments[key]
        return how != "never_sent" or (payment.state == "open" and not payment.doubted)

    def _come_to(self, key: UUID, how: str) -> None:
        if self._may_end(key, how):
            self.world.run(self._end(key, how))
            self.paper.end(key, how)
            self.money = None

    async def _end(self, key: UUID, how: str) -> None:
        new, ledger = self.seen[key][0], self.ledger
        seen = Seen(key.hex * 2, 120, "finalized", None, "ours", None, -new.amount, 0, 5_000)
        if how == "settled":
            await ledger.settle(key, SettledReceipt(True, 200, True, 1))
        elif how == "never_sent":
            await ledger.release(key, how)
        elif how == "doubted":
            await ledger.doubt(key, "answer_lost")
        elif how == "landed":
            await self.books.confirm(key, seen)
        elif how == "final":
            await self.books.verify(key, seen)
        elif how == "dead":
            await self.books.disprove(key, "dead", None)
        else:
            self.number += 1
            good, status = how == "good", 500 if how == "bad" else 200
            error = HUNG_UP if how == "hung_up" else ""
            said = Delivery(new.provider, new.endpoint, "GET", status, "", 1, good, good, 0.5)
            await ledger.deliver(replace(said, payment_id=key, error=error))

    async def _set(self, layer: Layer, says: Says) -> None:
        applied = await policies.set_rules(self.world.real, *layer, rules_of(says), by="me")
        self.paper.set_layer(layer, says)
        assert applied.version == self.paper.version
        await self._hear()

    async def _freeze(self, layer: Layer, frozen: bool) -> None:
        version = await policies.freeze(self.world.real, *layer, frozen, by="me")
        says = dict(self.paper.layers.get(layer, {}))
        says.pop("frozen", None)
        self.paper.set_layer(layer, says | ({"frozen": True} if frozen else {}))
        assert version == self.paper.version
        await self._hear()

    async def _halt(self, want: Want) -> None:
        self.paper.halted = True
        await audit.halt(self.world.real, "a test", by="me")
        await self._buy(want)
        self.paper.halted = False
        await audit.resume(self.world.real, by="me")

    async def _hear(self) -> None:
        """The proxy hears of a change; how the book was before it knows, too."""
        book = await policies.load(self.world.real)
        if book.version != self.view.version:
            self.view_before, self.view = self.view, book
            self.money = None

    async def _decide(self, key: UUID, yes: bool, good_for: timedelta) -> None:
        expected = self.paper.decide(key, yes, good_for)
        try:
            if yes:
                await approvals.approve(self.world.real, key, by="me", good_for=good_for)
            else:
                await approvals.reject(self.world.real, key, by="me")
        except ApprovalError as error:
            assert error.state == expected
        else:
            assert expected is None

    # --- what has to be so after each step

    @invariant()
    def the_books_are_on_paper(self) -> None:
        self.world.run(self._compare())
        self.steps += 1

    async def _compare(self) -> None:
        paper = self.paper
        assert self.ledger.waiting == 0
        row = await self.world.real.fetchrow(_STATE)
        assert row is not None
        assert (row["version"], row["decisions"]) == (paper.version, self.decisions)
        counters = {tuple(each[:4]): tuple(each[4:]) for each in _json(row["counters"]) or []}
        self._unmoved(counters, row["payments"], row["losses"])
        judged = {
            (kind, agent, subject, named): stands
            for (kind, agent, subject, named), stands in counters.items()
            if kind not in ("hour", "day", "month", "lifetime")
            or paper.is_open(kind, (agent, subject), named)
        }
        assert judged == paper.sums()
        payments = {key: _STATUS[status] for key, status in (_json(row["payments"]) or {}).items()}
        assert payments == {str(key): p.state for key, p in paper.payments.items()}
        lost = {key: p for key, p in paper.payments.items() if p.lost_on is not None}
        assert (_json(row["losses"]) or {}) == {str(k): str(p.lost_on) for k, p in lost.items()}
        sums: dict[tuple[Any, ...], int] = {}
        for p in lost.values():
            agent, provider = p.want.agent, p.want.provider
            for key in ((agent, None), (None, provider), (agent, provider)):
                spot = (*key, str(p.lost_on))
                sums[spot] = sums.get(spot, 0) + p.want.price
        assert {tuple(each[:3]): each[3] for each in _json(row["lost"]) or []} == sums
        if paper.approvals or paper.pins or self.steps % 8 == 0:
            await self._compare_words()

    def _unmoved(self, *money: Any) -> None:
        """Nothing has, but by payments that were granted, came to an end, or are counted anew."""
        assert self.money in (None, money)
        self.money = money

    async def _compare_words(self) -> None:
        """What operators see: approvals and pins."""
        paper = self.paper
        found = await approvals.list_(self.world.real, limit=500)
        assert {a.id: (a.state, a.price, a.asks, a.payment_id) for a in found} == {
            key: (paper.shown(a), a.price, a.asks, a.payment) for key, a in paper.approvals.items()
        }
        for each in found:
            assert each.state == "expired" or each.expires_at == paper.approvals[each.id].until
        used = [a.payment for a in paper.approvals.values() if a.payment is not None]
        assert len(used) == len(set(used))
        assert {
            (pin.provider, pin.network, pin.pay_to, pin.accepted, pin.refusals)
            for pin in await pins.list_(self.world.real)
        } == {
            (*till, to, accepted, paper.refusals.get((*till, to), 0))
            for till, known in paper.pins.items()
            for to, accepted in known.items()
        }


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


@pytest.mark.timeout(3600 if SOAK else 300)
def test_the_policies_hold_whatever_is_bought(world: World) -> None:
    world.run(install(world.owner))
    world.run(set_clock(world.owner, START))
    assert world.run(world.real.fetchval("SELECT now()")) == START
    examples = profile(600, 60) if SOAK else profile(32, 25)
    run_state_machine_as_test(lambda: Gate(world), settings=examples)
