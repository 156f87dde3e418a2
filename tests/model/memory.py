"""The books in memory: what the SQL of the money moves does, told again in plain Python.

It answers the very statements that the ledger and the reconciler send, so the real code runs on it
(`tests/simulator`). What makes it worth anything is `test_money_model.py`: there every statement
goes to it and to PostgreSQL, and the answers and the books have to be the same.

Every call is one transaction: it happens wholly, or raises LedgerFault and nothing has changed.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from proxy.ledger import LedgerFault, kept, lane, ledger
from proxy.ledger.states import OPEN, SETTLED, UNPROVED, IllegalMove, Status, moved
from proxy.reconciler import books
from tests.model import again

UNLIMITED = 999_999_999_999_999_999
_HASH = re.compile(r"[0-9A-Za-z]{32,88}")
_DENIALS = {
    "agent_day": "over_daily_limit",
    "session": "over_session_limit",
    "trace": "over_trace_limit",
    "agent_provider_day": "over_agent_provider_limit",
    "provider_day": "over_provider_limit",
    "wallet_day": "over_wallet_limit",
    "fleet_day": "over_fleet_limit",
}
RELEASES = ("never_sent", "proved_dead")

Args = Mapping[str, Any]
Row = dict[str, Any]


@dataclass
class AgentRow:
    """An agent and its policy; micro-USD."""

    name: str
    per_call: int = 50_000
    daily: int = 1_000_000
    session: int = 1_000_000
    trace: int = 1_000_000
    frozen: bool = False
    active: bool = True
    erased: bool = False


@dataclass
class Counter:
    kind: str
    agent: str | None
    subject: str | None
    spent: int = 0
    held: int = 0
    calls: int = 0
    top: int | None = None

    @property
    def stands(self) -> int:
        return self.spent + self.held


@dataclass
class PaymentRow:
    args: Args
    number: int
    status: Status
    day: int
    scopes: list[str]
    in_doubt: bool = False
    doubt_reason: str | None = None
    doubt_status: int | None = None
    release_reason: str | None = None
    hash: str | None = None
    seen_confirmed: bool = False
    """Seen in a block once, by ourselves."""
    history: list[str] = field(default_factory=list)
    """The reasons of its moves."""
    presented: int = 0
    presented_by: str | None = None
    # Of what it was reserved with, these do change.
    instance: str | None = field(init=False)
    request_key: str | None = field(init=False)
    idempotency_key: str | None = field(init=False)
    header: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.instance = self.args.get("instance")
        self.request_key = self.args.get("request_key")
        self.idempotency_key = self.args.get("idempotency_key")
        self.header = self.args.get("payment_header")

    @property
    def price(self) -> int:
        return int(self.args["price_micros"])

    def move(self, to: Status, reason: str) -> None:
        try:
            self.status = moved(self.status, to, reason, in_doubt=self.in_doubt)
        except IllegalMove as illegal:
            raise LedgerFault(str(illegal)) from illegal
        self.history.append(reason)


@dataclass
class ReceiptRow:
    source: str
    claimed: bool
    named: str | None
    """The transaction, as the provider or the chain has it."""


@dataclass
class KeptRow:
    agent: str
    request_key: str | None
    idempotency_key: str | None
    delivered: bool
    sealed: bytes | None
    """None: on its way."""


@dataclass
class DoubtRow:
    why: str
    detail: str
    absent_since: int | None
    alarmed: list[str] = field(default_factory=list)


@dataclass
class State:
    """All that is on disk. `day` counts UTC midnights."""

    day: int = 0
    halted: bool = False
    agents: dict[str, AgentRow] = field(default_factory=dict)
    ceilings: dict[tuple[str, str | None, str], int] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    payments: dict[str, PaymentRow] = field(default_factory=dict)
    receipts: dict[str, ReceiptRow] = field(default_factory=dict)
    decisions: dict[str, Row] = field(default_factory=dict)
    abandoned: set[str] = field(default_factory=set)
    noted: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)
    kept: dict[str, KeptRow] = field(default_factory=dict)
    doubts: dict[str, DoubtRow] = field(default_factory=dict)
    alarms: list[tuple[str, str]] = field(default_factory=list)
    seen: dict[tuple[str, str], dict[str, Row]] = field(default_factory=dict)
    balances: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)


class Memory:
    """Stands in for `Database`. `day_name` says what a day of `State.day` is called, `lives` which
    processes there are."""

    def __init__(
        self, day_name: Callable[[int], str] = str, lives: again.Lives = lambda _: False
    ) -> None:
        self.state = State()
        self._day_name = day_name
        self._lives = lives
        self._statements: dict[str, Callable[..., Any]] = {
            lane._TICK: self._tick,
            books._WATCHES: self._watches,
            books._OPEN: self._open,
            books._SEEN: self._all_seen,
            books._NOTE_SEEN: self._note_seen,
            books._FORGET_SEEN: self._forget_seen,
            books._BALANCES: self._all_balances,
            books._NOTE_BALANCE: self._note_balance,
            books._FORGET_BALANCES: self._forget_balances,
            books._NOTE_ROUND: lambda *_: [],
            "SELECT confirm_from_chain($1, $2)": self._one(self.confirm),
            "SELECT verify_payment($1, $2)": self._one(self.verify),
            "SELECT disprove($1, $2, $3)": self._one(self.disprove),
            "SELECT note_chain_doubt($1, $2, $3, $4, $5::text::audit_event_type,"
            " $6::text::audit_severity)": self._one(self.note_chain_doubt),
            ledger._PRIOR: self._prior,
            ledger._STATE: self._answer_state,
            ledger._LEFT: self._left,
            ledger._ELSEWHERE: self._elsewhere,
            "SELECT begin_presenting($1, $2)": self._one(self.begin_presenting),
            "SELECT end_presenting($1)": self._one(self.end_presenting),
            kept._KEEP: self._one(self.keep_answer),
            kept._FIND: self._find_answer,
        }

    # --- as a Database

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        return self.run(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        return next(iter(self.run(sql, *args)), None)

    async def fetchval(self, sql: str, *args: object) -> Any:
        row = await self.fetchrow(sql, *args)
        return None if row is None else next(iter(row.values()))

    async def execute(self, sql: str, *args: object) -> str:
        self.run(sql, *args)
        return "OK"

    def run(self, sql: str, *args: object) -> list[Row]:
        """The rows. Raises LedgerFault, with nothing changed; KeyError for SQL it does not know."""
        rows: list[Row] = self._statements[sql](*args)
        return rows

    @staticmethod
    def _one(move: Callable[..., str | None]) -> Callable[..., list[Row]]:
        return lambda *args: [{"outcome": move(*args)}]

    # --- the moves of money

    def _tick(self, moves: str) -> list[Row]:
        calls: dict[str, Callable[[Args], Any]] = {
            "reserve": self.reserve,
            "settle": self.settle,
            "release": lambda args: self.release(args["payment_id"], args["reason"]),
            "doubt": self.doubt,
            "deliver": self.deliver,
            "deny": lambda args: self._note(args["id"], "noted"),
            "retry": lambda _: "noted",
        }
        rows = []
        for ordinal, move in enumerate(json.loads(moves)):
            row: Row = {"ordinal": ordinal, "outcome": None, "failure": None, "sqlstate_": None}
            try:
                row["outcome"] = json.dumps(calls[move["move"]](move["args"]))
            except LedgerFault as fault:
                row |= {"failure": str(fault), "sqlstate_": "23514"}
            rows.append(row)
        return rows

    def _note(self, key: str, word: str) -> str:
        if key in self.state.noted:
            return "already"
        self.state.noted.add(key)
        return word

    def reserve(self, q: Args) -> Row:
        """As `reserve(jsonb)`: the attributes of the type `reservation`."""
        s, key = self.state, str(q["payment_id"])
        before = s.decisions.get(key)
        if before is not None:
            again = dict(before)
            if again["code"] == "ok" and s.payments[key].status is Status.FAILED:
                again["code"] = "abandoned"
            return again
        r: Row = {
            "code": "ok",
            "limit_micros": 0,
            "spent_micros": 0,
            "held_micros": 0,
            "remaining_micros": 0,
            "day": self._day_name(s.day),
            "resets_at": None,
            "joined": None,
        }
        agent = s.agents.get(q["agent_id"])
        if agent is None or not agent.active:
            r["code"] = "unknown_agent"
        else:
            self._admit(q, agent, r)
        if r["code"] == "ok":
            self._hold(q, r)
        s.decisions[key] = dict(r, joined=None)
        return r

    def _admit(self, q: Args, agent: AgentRow, r: Row) -> None:
        s = self.state
        counters = [self._counter(*each) for each in self._counters_of(q)]
        day = counters[0]
        r |= {"limit_micros": agent.daily, "spent_micros": day.spent, "held_micros": day.held}
        prior, r["joined"] = again.prior_payment(
            s,
            q["agent_id"],
            q.get("request_key"),
            q.get("idempotency_key"),
            bool(q.get("share")),
            q.get("instance"),
            self._lives,
        )
        if prior == "request_elsewhere" and q.get("beside") is not False:
            prior = None
        if agent.frozen:
            r["code"] = "frozen"
        elif s.halted:
            r["code"] = "spending_halted"
        elif q["price_micros"] > agent.per_call:
            r |= {"code": "over_per_call_limit", "limit_micros": agent.per_call}
            r |= {"spent_micros": 0, "held_micros": 0}
        elif prior is not None:
            r["code"] = prior
        elif q["payment_id"] in s.abandoned:
            r["code"] = "abandoned"
        if r["code"] != prior:
            r["joined"] = None
        left = []
        for counter in counters:
            limit = self._limit(counter)
            if limit is None:
                continue
            left.append(limit - counter.stands)
            if r["code"] == "ok" and counter.stands + q["price_micros"] > limit:
                r |= {"code": _DENIALS[counter.kind], "limit_micros": limit}
                r |= {"spent_micros": counter.spent, "held_micros": counter.held}
        r["remaining_micros"] = min(left)

    def _hold(self, q: Args, r: Row) -> None:
        s, key, message = self.state, str(q["payment_id"]), q.get("message_sha256")
        taken = {each.args.get("message_sha256") for each in s.payments.values()}
        if key in s.payments or (message is not None and message in taken):
            r["code"] = "duplicate_message"
            return
        born = moved(None, Status.INITIATED if message is None else Status.SIGNED, "reserved")
        scopes = [scope for scope, *_ in self._counters_of(q)]
        s.payments[key] = PaymentRow(dict(q), len(s.payments), born, s.day, scopes)
        for scope in scopes:
            counter = s.counters[scope]
            counter.held += q["price_micros"]
            limit = self._limit(counter)
            counter.top = UNLIMITED if limit is None else max(counter.top or 0, limit)
        r["held_micros"] += q["price_micros"]
        r["remaining_micros"] -= q["price_micros"]

    def settle(self, p: Args) -> str:
        if "coming_seconds" in p:
            self.keep_answer(UUID(p["payment_id"]), False, None, p["coming_seconds"], 2**31 - 1)
        payment = self.state.payments.get(p["payment_id"])
        if payment is None:
            return "absent"
        if payment.status in SETTLED:
            return "already"
        if payment.status is not Status.SIGNED:
            return "released" if payment.status is Status.FAILED else "unsigned"
        payment.move(Status.CONFIRMED, "chain_confirmed" if p["source"] == "chain" else "settled")
        self._move_held(payment, spend=True)
        found = _HASH.fullmatch(p["transaction"] or "")
        if found and not any(x.hash == found[0] for x in self.state.payments.values()):
            payment.hash = found[0]
        self.state.receipts[p["payment_id"]] = ReceiptRow(
            p["source"], p["claimed"], p["transaction"]
        )
        return "settled"

    def release(self, key: str, reason: str) -> str:
        payment = self.state.payments.get(key)
        if payment is None:
            self.state.abandoned.add(key)
            return "absent"
        if payment.status is Status.FAILED:
            return "already"
        if reason == "never_sent" and payment.presented:
            return "presented"
        if payment.status not in OPEN:
            return "settled"
        if reason not in RELEASES:
            raise LedgerFault(f"release_reason {reason}")
        payment.move(Status.FAILED, reason)
        self._move_held(payment, spend=False)
        payment.release_reason = reason
        return "released"

    def doubt(self, p: Args) -> str:
        payment = self.state.payments.get(p["payment_id"])
        if payment is None:
            return "absent"
        if payment.status is not Status.SIGNED:
            return payment.status.lower()
        payment.in_doubt = True
        payment.doubt_reason, payment.doubt_status = p["reason"], p["http_status"]
        return "doubted"

    def deliver(self, p: Args) -> str:
        if p["payment_id"] is not None and p["payment_id"] not in self.state.payments:
            raise LedgerFault("a delivery for a payment that there is not")
        word = self._note(p["id"], "delivered")
        if p["payment_id"] is not None:
            self.state.delivered.add(p["payment_id"])
        return word

    # --- the same request again

    def _prior(
        self, agent: UUID, request: bytes | None, key: bytes | None, _: float, share: bool, me: Any
    ) -> list[Row]:
        code, payment = again.prior_payment(
            self.state, str(agent), _hex(request), _hex(key), share, str(me), self._lives
        )
        return [{"code": code, "payment_id": None if payment is None else UUID(payment)}]

    def _answer_state(self, payment_id: UUID, me: Any) -> list[Row]:
        payment = self.state.payments.get(str(payment_id))
        if payment is None:
            return []
        state = again.answer_state(self.state, payment, str(me), self._lives)
        return [{"answer_state": state}]

    def _elsewhere(self, agent: UUID, request: bytes | None, me: Any) -> list[Row]:
        return [
            {"id": UUID(key), "instance": UUID(p.instance)}
            for key, p in self.state.payments.items()
            if p.status in OPEN
            and (p.args["agent_id"], p.request_key) == (str(agent), _hex(request))
            and p.instance not in (None, str(me))
            and not p.in_doubt
        ]

    def _left(self, payment_id: UUID) -> list[Row]:
        payment = self.state.payments.get(str(payment_id))
        if payment is None:
            return []
        args = payment.args
        names = ("provider", "network", "asset", "pay_to", "x402_version")
        return [
            {name: args[name] for name in (*names, "last_valid_block_height")}
            | {
                "id": payment_id,
                "status": str(payment.status),
                "amount_atomic": args["amount_atomic"],
                "payment_header": payment.header,
                "presented": payment.presented,
            }
        ]

    def begin_presenting(self, payment_id: UUID, me: Any) -> str:
        payment = self.state.payments.get(str(payment_id))
        return again.begin_presenting(self.state, payment, str(me), self._lives)

    def end_presenting(self, presented: str) -> str:
        q = json.loads(presented)
        payment = self.state.payments.get(q["payment_id"])
        if payment is None or self._note(q["id"], "noted") == "already":
            return "noted"
        if payment.presented_by == q["instance"]:
            payment.presented_by = None
            payment.presented = again.MOST if q["last"] else payment.presented
        return "noted"

    def keep_answer(
        self, payment_id: UUID, delivered: bool, sealed: bytes | None, _seconds: float, most: int
    ) -> str:
        key = str(payment_id)
        payment = self.state.payments.get(key)
        if payment is None or self.state.agents[payment.args["agent_id"]].erased:
            return "erased"
        agent, kept = payment.args["agent_id"], self.state.kept
        if key in kept:
            kept[key].delivered = kept[key].delivered and delivered
            kept[key].sealed = kept[key].sealed or sealed
        else:
            kept[key] = KeptRow(
                agent, payment.request_key, payment.idempotency_key, delivered, sealed
            )
        own = [other for other, each in kept.items() if each.agent == agent]
        for old in own[: max(0, len(own) - most)]:
            del kept[old]
        return "kept"

    def _find_answer(self, payment_id: UUID, agent: UUID) -> list[Row]:
        kept = self.state.kept.get(str(payment_id))
        if kept is None or kept.sealed is None or kept.agent != str(agent):
            return []
        return [{"sealed": kept.sealed, "delivered": kept.delivered}]

    # --- the moves of the reconciler

    def confirm(self, payment_id: UUID, seen: str) -> str:
        found, key = json.loads(seen), str(payment_id)
        self._claim(key, found["signature"])
        payment = self.state.payments.get(key)
        if payment is None:
            return "absent"
        result = self.settle(
            {
                "payment_id": key,
                "source": "chain",
                "claimed": False,
                "transaction": found["signature"],
            }
        )
        if result in ("settled", "already"):
            payment.seen_confirmed = True
        return result

    def verify(self, payment_id: UUID, seen: str) -> str:
        result = self.confirm(payment_id, seen)
        if result not in ("settled", "already"):
            return result
        key = str(payment_id)
        payment = self.state.payments[key]
        if payment.status is not Status.CONFIRMED:
            return "already"
        payment.move(Status.VERIFIED, "finalized")
        payment.hash = json.loads(seen)["signature"]
        self.state.doubts.pop(key, None)
        return "verified"

    def disprove(self, payment_id: UUID, proof: str, seen: str | None) -> str:
        key = str(payment_id)
        if seen is not None:
            self._claim(key, json.loads(seen)["signature"])
        payment = self.state.payments.get(key)
        if payment is None:
            return "absent"
        if payment.status is Status.FAILED:
            return "already"
        if payment.status is Status.VERIFIED:
            return "verified"
        if payment.status is not Status.CONFIRMED:
            result = self.release(key, "proved_dead")
            self.state.doubts.pop(key, None)
            return result
        self.state.doubts.pop(key, None)
        claimed = self.state.receipts[key].claimed
        reason = "claimed_not_landed" if claimed else "served_unpaid"
        reason = "rolled_back" if payment.seen_confirmed else reason
        payment.move(Status.FAILED, reason)
        if reason == "claimed_not_landed":
            self.state.alarms.append((key, reason))
        payment.hash = None if seen is None else json.loads(seen)["signature"]
        payment.release_reason = "proved_dead"
        for scope in payment.scopes:
            counter = self.state.counters[scope]
            counter.spent -= payment.price
            counter.calls -= 1
        return "reversed"

    def note_chain_doubt(
        self,
        payment_id: UUID,
        why: str,
        detail: str,
        absent_since: int | None,
        kind: str | None,
        _severity: str | None,
    ) -> None:
        key = str(payment_id)
        payment = self.state.payments.get(key)
        if payment is None or payment.status not in UNPROVED:
            return
        row = self.state.doubts.setdefault(key, DoubtRow(why, detail, absent_since))
        row.why, row.detail, row.absent_since = why, detail, absent_since
        if kind is not None and why not in row.alarmed:
            row.alarmed.append(why)
            self.state.alarms.append((key, why))

    def _claim(self, key: str, signature: str) -> None:
        for other, each in self.state.payments.items():
            if each.hash == signature and other != key:
                each.hash = None

    def _move_held(self, payment: PaymentRow, *, spend: bool) -> None:
        for scope in payment.scopes:
            counter = self.state.counters[scope]
            counter.held -= payment.price
            counter.spent += payment.price if spend else 0
            counter.calls += spend

    # --- the budgets

    def _counters_of(self, q: Args) -> list[tuple[str, str, str | None, str | None]]:
        """(scope, kind, agent, subject), in lock order."""
        agent, provider, day = q["agent_id"], q["provider"], self._day_name(self.state.day)
        found: list[tuple[str, str, str | None, str | None]] = [
            (f"10/agent-day/{agent}/{day}", "agent_day", agent, None)
        ]
        if q.get("session_id") is not None:
            session = q["session_id"]
            found.append((f"20/session/{agent}/{session}", "session", agent, session))
        if q.get("trace_id") is not None:
            trace = q["trace_id"]
            found.append((f"30/trace/{agent}/{trace}", "trace", agent, trace))
        found += [
            (
                f"40/agent-provider-day/{agent}/{provider}/{day}",
                "agent_provider_day",
                agent,
                provider,
            ),
            (f"50/provider-day/{provider}/{day}", "provider_day", None, provider),
        ]
        if q.get("payer") is not None:
            payer = q["payer"]
            scope = f"60/wallet-day/{q['network']}/{payer}/{day}"
            found.append((scope, "wallet_day", None, payer))
        return [*found, (f"70/fleet-day/{day}", "fleet_day", None, None)]

    def _counter(self, scope: str, kind: str, agent: str | None, subject: str | None) -> Counter:
        return self.state.counters.setdefault(scope, Counter(kind, agent, subject))

    def _limit(self, counter: Counter) -> int | None:
        if counter.kind in ("agent_day", "session", "trace"):
            assert counter.agent is not None
            agent = self.state.agents[counter.agent]
            return {"agent_day": agent.daily, "session": agent.session, "trace": agent.trace}[
                counter.kind
            ]
        subject = counter.subject or "*"
        for owner, name in (
            (counter.agent, subject),
            (counter.agent, "*"),
            (None, subject),
            (None, "*"),
        ):
            if (counter.kind, owner, name) in self.state.ceilings:
                return self.state.ceilings[counter.kind, owner, name]
        return None

    # --- what the reconciler keeps

    def _watches(self) -> list[Row]:
        found: dict[tuple[str, str], int] = {}
        for each in self._watched():
            account = (each.args["network"], each.args["source_account"])
            found[account] = found.get(account, 0) + 1
        return [
            {"network": network, "account": account, "payments": count}
            for (network, account), count in sorted(found.items())
        ]

    def _open(self, network: str, account: str, most: int) -> list[Row]:
        rows = []
        for each in self._watched():
            if (each.args["network"], each.args["source_account"]) != (network, account):
                continue
            key = each.args["payment_id"]
            receipt, doubt = self.state.receipts.get(key), self.state.doubts.get(key)
            by_provider = receipt is not None and receipt.source == "provider"
            rows.append(
                {
                    "id": UUID(key),
                    "status": str(each.status),
                    "client_signature": each.args["client_signature"],
                    "last_valid_block_height": each.args["last_valid_block_height"],
                    "blockhash_slot": each.args["blockhash_slot"],
                    "memo": each.args["memo"],
                    "in_doubt": each.in_doubt,
                    "claim": receipt.named if receipt is not None and by_provider else None,
                    "why": None if doubt is None else doubt.why,
                    "absent_since": None if doubt is None else doubt.absent_since,
                    "agent": self.state.agents[each.args["agent_id"]].name,
                    "provider": each.args["provider"],
                    "symbol": each.args["symbol"],
                    "price_micros": each.price,
                }
            )
        return rows[:most]

    def _watched(self) -> Iterable[PaymentRow]:
        needed = ("client_signature", "source_account", "last_valid_block_height", "blockhash_slot")
        for each in self.state.payments.values():
            if (
                each.status in UNPROVED
                and each.args["network"].startswith("solana:")
                and all(each.args.get(name) is not None for name in needed)
            ):
                yield each

    def _all_seen(self, network: str, account: str) -> list[Row]:
        return [dict(row) for row in self.state.seen.get((network, account), {}).values()]

    def _note_seen(self, network: str, account: str, rows: str) -> list[Row]:
        table = self.state.seen.setdefault((network, account), {})
        for row in json.loads(rows):
            table[row["signature"]] = table.get(row["signature"], {}) | row
        return []

    def _forget_seen(self, network: str, account: str, signatures: list[str]) -> list[Row]:
        table = self.state.seen.setdefault((network, account), {})
        for signature in signatures:
            table.pop(signature, None)
        return []

    def _all_balances(self, network: str, account: str) -> list[Row]:
        table = self.state.balances.get((network, account), {})
        return [{"slot": slot, "amount_atomic": table[slot]} for slot in sorted(table)]

    def _note_balance(self, network: str, account: str, slot: int, amount: str) -> list[Row]:
        self.state.balances.setdefault((network, account), {}).setdefault(slot, int(amount))
        return []

    def _forget_balances(self, network: str, account: str, before: int) -> list[Row]:
        table = self.state.balances.get((network, account), {})
        for slot in [slot for slot in table if slot < before]:
            del table[slot]
        return []

    # --- by the operator's hand

    def erase(self, agent_id: str, names: Mapping[str, str]) -> None:
        """`names`: what the agent's scopes are called from now on."""
        s = self.state
        s.counters = {names.get(scope, scope): each for scope, each in s.counters.items()}
        for payment in s.payments.values():
            if payment.args["agent_id"] == agent_id:
                payment.scopes = [names.get(scope, scope) for scope in payment.scopes]
                payment.request_key = payment.idempotency_key = payment.header = None
        s.kept = {key: each for key, each in s.kept.items() if each.agent != agent_id}
        agent = s.agents[agent_id]
        agent.active, agent.frozen, agent.erased = False, True, True

    def snapshot(self) -> State:
        """What is on disk now."""
        return copy.deepcopy(self.state)


def _hex(value: bytes | None) -> str | None:
    """As a move's arguments have it."""
    return None if value is None else f"\\x{value.hex()}"
