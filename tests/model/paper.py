"""The policies on paper: what docs/policies.md says, told again in plain Python.

There are no counters here, no scopes and no locks: every sum is made anew of the payments, every
question is put to them. So nothing of how the database remembers can be wrong in the same way.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from statistics import median
from typing import Any, NamedTuple
from uuid import UUID

from tests.ledger.windows import covers

HOUR = timedelta(hours=1)
ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)

Layer = tuple[str | None, str | None]
"""The agent and the provider that it is about; neither: the defaults."""
Says = Mapping[Any, Any]
"""What a layer says. A limit is under (window, "micros") or (window, "payments")."""
BUILT_IN: Says = {
    "per_call": 50_000,
    ("day", "micros"): 1_000_000,
    ("session", "micros"): 1_000_000,
    ("trace", "micros"): 1_000_000,
}


@dataclass(frozen=True)
class Want:
    """A purchase, as an agent asks for it."""

    agent: str
    provider: str
    price: int
    method: str
    path: str
    body: str | None
    pay_to: str
    network: str
    asset: str
    session: str | None = None
    trace: str | None = None

    @property
    def bound(self) -> "Want":
        """All that an approval is for, but the price."""
        return replace(self, price=0, session=None, trace=None)

    @property
    def till(self) -> tuple[str, str]:
        return self.provider, self.network


@dataclass
class Payment:
    want: Want
    at: datetime
    state: str = "open"  # paid, final, failed
    doubted: bool = False
    by_chain: bool = False
    answers: list[str] = field(default_factory=list)  # good, bad, hung_up
    lost_on: date | None = None

    @property
    def spent(self) -> bool:
        return self.state in ("paid", "final")


class Stand(NamedTuple):
    """What is spent and held, and by how many payments each."""

    spent: int
    held: int
    paid: int
    open: int


def stand(payments: Collection[Payment]) -> Stand:
    paid = [p.want.price for p in payments if p.spent]
    held = [p.want.price for p in payments if p.state == "open"]
    return Stand(sum(paid), sum(held), len(paid), len(held))


@dataclass(frozen=True)
class Budget:
    """One limit that a purchase is under. `row`: which of the table in docs/policies.md."""

    row: int
    code: str
    window: str
    micros: int | None
    most: int | None
    counted: tuple[Payment, ...]


@dataclass
class Approval:
    bound: Want
    price: int
    state: str  # pending, approved, rejected, used, expired
    until: datetime
    made: datetime
    asks: int = 1
    decided: bool = False
    payment: UUID | None = None


@dataclass(frozen=True)
class Answer:
    """`about`: what a refusal says beside its numbers, as far as it is compared."""

    code: str
    limit: int | None = None
    spent: int = 0
    held: int = 0
    remaining: int | None = None
    resets_at: datetime | None = None
    about: Any = None


_CODES = {
    "session": (20, "over_session_limit"),
    "trace": (21, "over_trace_limit"),
    "hour": (23, "over_hourly_limit"),
    "month": (25, "over_monthly_limit"),
    "lifetime": (26, "over_lifetime_limit"),
}
CEILINGS = {
    "agent_provider_day": "over_agent_provider_limit",
    "provider_day": "over_provider_limit",
    "fleet_day": "over_fleet_limit",
}


def begins(window: str, now: datetime) -> datetime:
    """Since when a window that is open now has counted."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    if window in ("lifetime", "session", "trace"):
        return ALWAYS
    if window in ("hour", "day", "month"):
        return {"hour": hour, "day": hour.replace(hour=0), "month": hour.replace(day=1, hour=0)}[
            window
        ]
    return hour - int(window[:-1]) * {"h": HOUR, "d": 24 * HOUR}[window[-1]]


def ends(window: str, now: datetime) -> datetime | None:
    """When a window of the calendar begins anew."""
    if window == "month":
        return (begins("month", now) + 31 * 24 * HOUR).replace(day=1)
    return {
        "hour": begins("hour", now) + HOUR,
        "day": begins("day", now) + 24 * HOUR,
    }.get(window)


class Paper:
    def __init__(self, now: datetime, version: int) -> None:
        self.now = now
        self.version = version
        self.halted = False
        self.layers: dict[Layer, dict[Any, Any]] = {}
        self.ceilings: dict[tuple[str, str], int] = {}
        self.before = {version: self._book()}
        self.payments: dict[UUID, Payment] = {}
        self.approvals: dict[UUID, Approval] = {}
        self.pins: dict[tuple[str, str], dict[str, bool]] = {}  # till → receiver → accepted
        self.refusals: dict[tuple[str, str, str], int] = {}

    # --- the book

    def _book(self) -> Any:
        return deepcopy((self.layers, self.ceilings))

    def changed(self) -> None:
        """To be called after the book was, maybe, changed: one version for each change."""
        if self._book() != self.before[self.version]:
            self.version += 1
            self.before[self.version] = self._book()

    def set_layer(self, layer: Layer, says: Says) -> None:
        self.layers[layer] = dict(says)
        if not says:
            del self.layers[layer]
        self.changed()

    def roll_back(self, version: int) -> None:
        self.layers, self.ceilings = deepcopy(self.before[version])
        self.changed()

    def own(self, agent: str) -> Says:
        """The agent's own layer; the defaults where it says nothing."""
        defaults, own = self.layers.get((None, None), {}), self.layers.get((agent, None), {})
        return {**BUILT_IN, **defaults, **own}

    def holding(self, want: Want) -> list[tuple[Layer, Says]]:
        return [
            ((want.agent, None), self.own(want.agent)),
            *(
                ((agent, pattern), says)
                for (agent, pattern), says in self.layers.items()
                if agent in (None, want.agent) and pattern and covers(pattern, want.provider)
            ),
        ]

    def least(self, want: Want, rule: str) -> Any:
        said = [Fraction(says[rule]) for _, says in self.holding(want) if rule in says]
        return min(said, default=None)

    # --- sums

    def counted(self, layer: Layer, since: datetime, **same: Any) -> tuple[Payment, ...]:
        """The payments that a layer matches."""
        agent, pattern = layer
        return tuple(
            p
            for p in self.payments.values()
            if p.state != "failed"
            and p.at >= since
            and agent in (None, p.want.agent)
            and (pattern is None or covers(pattern, p.want.provider))
            and all(getattr(p.want, name) == value for name, value in same.items())
        )

    def budgets(self, want: Want) -> list[Budget]:
        found = []
        for layer, says in self.holding(want):
            for window in {key[0] for key in says if isinstance(key, tuple)}:
                row, code = _CODES.get(window, (27, "over_rolling_limit"))
                if window == "day":
                    row, code = 24 if layer[1] else 19, "over_daily_limit"
                same = {}
                if window in ("session", "trace"):
                    same = {window: getattr(want, window)}
                    if same[window] is None:
                        continue
                counted = self.counted(layer, begins(window, self.now), **same)
                limits = says.get((window, "micros")), says.get((window, "payments"))
                found.append(Budget(row, code, window, *limits, counted))
        today = begins("day", self.now)
        for kind, code in CEILINGS.items():
            named = {} if kind == "fleet_day" else {"provider": want.provider}
            limit = self.ceilings.get((kind, want.provider), self.ceilings.get((kind, "*")))
            if limit is not None:
                whose = (want.agent if kind == "agent_provider_day" else None, None)
                counted = self.counted(whose, today, **named)
                found.append(Budget(22, code, "day", limit, None, counted))
        return sorted(found, key=lambda budget: budget.row)

    def left(self, want: Want) -> int:
        """The least that is left to it in any budget."""
        return min(
            b.micros - sum(stand(b.counted)[:2]) for b in self.budgets(want) if b.micros is not None
        )

    def lets_go(self, budget: Budget) -> datetime | None:
        """When the oldest payment that it counts leaves its window."""
        if budget.row != 27 or not budget.counted:
            return ends(budget.window, self.now)
        hour = begins("hour", self.now)
        while budget.counted[0].at >= begins(budget.window, hour):
            hour += HOUR
        return hour

    # --- what is asked

    def proxy_answer(self, want: Want) -> Answer:
        """Rows 1 and 3: frozen, and the price of one call."""
        says = [(layer, says) for layer, says in self.holding(want) if says.get("frozen")]
        if says:
            own = any(pattern is None for (_, pattern), _ in says)
            return Answer("frozen" if own else "provider_frozen")
        most = self.least(want, "per_call")
        return Answer("over_per_call_limit", most) if want.price > most else Answer("ok")

    def answers(self, want: Want, *, reused: bool = False) -> list[Answer]:
        """What the ledger may say. More than one only where several limits of one row refuse.
        `reused`: its bytes are another payment's."""
        own, day = self.own(want.agent), begins("day", self.now)
        if self.layers.get((want.agent, None), {}).get("frozen"):
            return [Answer("frozen")]
        if self.halted:
            return [Answer("spending_halted")]
        if want.price > own["per_call"]:
            return [Answer("over_per_call_limit", own["per_call"])]
        if want.body and any(
            p.state == "open" and p.doubted and self._same_request(p.want, want)
            for p in self.payments.values()
        ):
            return [Answer("payment_in_doubt")]
        gate = self._pin(want) or self._drift(want) or self._loss(want) or self._approval(want)
        if gate:
            return gate
        budgets = self.budgets(want)
        for row in sorted({budget.row for budget in budgets}):
            refused = [self._refusal(each, want) for each in budgets if each.row == row]
            if any(refused):
                return [answer for answer in refused if answer]
        if reused:
            return [Answer("duplicate_message")]
        today = stand(self.counted((want.agent, None), day))
        return [
            Answer(
                *("ok", own["day", "micros"], today.spent, today.held + want.price),
                remaining=self.left(want) - want.price,
            )
        ]

    @staticmethod
    def _same_request(one: Want, other: Want) -> bool:
        def request(want: Want) -> tuple[Any, ...]:
            return want.agent, want.method, want.provider, want.path, want.body

        return request(one) == request(other)

    def _refusal(self, budget: Budget, want: Want) -> Answer | None:
        s = stand(budget.counted)
        if budget.micros is not None and s.spent + s.held + want.price > budget.micros:
            code = budget.code
        elif budget.most is not None and s.paid + s.open >= budget.most:
            code = "too_many_payments"
        else:
            return None
        resets_at = ends(budget.window, self.now)
        if budget.row == 27:
            resets_at = self._room(budget, want, code)
        return Answer(code, budget.micros, s.spent, s.held, resets_at=resets_at)

    def _room(self, budget: Budget, want: Want, code: str) -> datetime | None:
        """The first full hour at which a rolling window has let go of enough."""
        hour = begins("hour", self.now)
        for _ in range(32 * 24):
            hour += HOUR
            left = stand([p for p in budget.counted if p.at >= begins(budget.window, hour)])
            if code == "too_many_payments":
                if left.paid + left.open < (budget.most or 0):
                    return hour
            elif left.spent + left.held + want.price <= (budget.micros or 0):
                return hour
        return None

    def _pin(self, want: Want) -> list[Answer]:
        if not self.pins_first_use(want):
            return []
        pinned = self.pinned(want)
        if not pinned or want.pay_to in pinned:
            return []
        return [Answer("pay_to_changed", about=frozenset(pinned))]

    def pins_first_use(self, want: Want) -> bool:
        return any(says.get("pinning") == "first_use" for _, says in self.holding(want))

    def pinned(self, want: Want) -> set[str]:
        return {to for to, accepted in self.pins.get(want.till, {}).items() if accepted}

    def most_by_history(self, want: Want) -> tuple[Fraction, str] | None:
        """The highest price that what was paid before allows, and the rule that says so."""

        def place(want: Want) -> tuple[str, str, str]:
            return want.provider, want.method, want.path

        paid = [
            Fraction(p.want.price)
            for p in self.payments.values()
            if p.spent and place(p.want) == place(want)
        ][-21:]
        ratios = self.least(want, "ratio_last"), self.least(want, "ratio_median")
        if not paid or ratios == (None, None):
            return None
        bounds = []
        if ratios[0] is not None:
            bounds.append((ratios[0] * paid[-1], "max_price_ratio_last"))
        if ratios[1] is not None:
            bounds.append((ratios[1] * median(paid), "max_price_ratio_median"))
        return min(bounds, key=lambda bound: bound[0])

    def _drift(self, want: Want) -> list[Answer]:
        most = self.most_by_history(want)
        if most is None or want.price <= most[0]:
            return []
        return [Answer("price_drift", int(most[0]), about=most[1])]

    def losses(self, want: Want) -> list[tuple[int, int]]:
        """(cap, lost today) of each layer that has one."""
        return [
            (
                says["loss_cap"],
                sum(
                    p.want.price
                    for p in self.counted(layer, ALWAYS)
                    if p.lost_on == self.now.date()
                ),
            )
            for layer, says in self.holding(want)
            if "loss_cap" in says
        ]

    def _loss(self, want: Want) -> list[Answer]:
        return [
            Answer("over_loss_cap", cap, resets_at=ends("day", self.now), about=lost)
            for cap, lost in self.losses(want)
            if lost + want.price > cap
        ]

    # --- approvals

    def needs_approval(self, want: Want) -> bool:
        above = self.least(want, "approval_above")
        return above is not None and want.price > above

    def _of(self, want: Want, state: str) -> list[tuple[UUID, Approval]]:
        return [
            (key, a)
            for key, a in self.approvals.items()
            if a.bound == want.bound and self.shown(a) == state
        ]

    def shown(self, a: Approval) -> str:
        over = a.state in ("pending", "approved") and a.until <= self.now
        return "expired" if over else a.state

    def good(self, want: Want) -> UUID | None:
        """The approval that it would use: of several, the one that allows least."""
        good = [(a.price, a.until, key) for key, a in self._of(want, "approved")]
        return min((one for one in good if one[0] >= want.price), default=(0, 0, None))[2]

    def _approval(self, want: Want) -> list[Answer]:
        if not self.needs_approval(want):
            return []
        if want.body is None:  # nobody could know the request again
            return [Answer("approval_required", about=("body_unknown", None))]
        if self.good(want):
            return []
        rejected = [
            (a.until, key)
            for key, a in self._of(want, "rejected")
            if a.price <= want.price and a.until > self.now
        ]
        if rejected:
            until = max(rejected)[0]
            return [
                Answer("approval_required", about=("rejected", key))
                for at, key in rejected
                if at == until
            ]
        for key, a in self._of(want, "pending"):
            if a.price >= want.price:
                return [Answer("approval_required", about=("pending", key))]
        return [Answer("approval_required", about=("pending", "new"))]

    def asked(self, want: Want, key: UUID) -> None:
        """It waits for an operator under this id."""
        if key in self.approvals:
            self.approvals[key].asks += self.approvals[key].state == "pending"
            return
        for _, dearer in self._of(want, "pending"):
            dearer.state = "expired"
        self.approvals[key] = Approval(want.bound, want.price, "pending", self.now + HOUR, self.now)

    def decide(self, key: UUID, yes: bool, good_for: timedelta) -> str | None:
        """An operator's word; what it is instead, if he comes too late."""
        a, word = self.approvals[key], "approved" if yes else "rejected"
        state = self.shown(a)
        if state in ("used", "expired"):
            return state
        if state != word:
            a.state, a.until = word, self.now + (good_for if yes else HOUR)
            a.decided = True
        return None

    def forget(self) -> None:
        """What nobody has ever decided is kept for a month."""
        for key, a in list(self.approvals.items()):
            old = a.made < self.now - timedelta(days=30)
            if old and not a.decided and self.shown(a) == "expired":
                del self.approvals[key]

    # --- what follows

    def granted(self, key: UUID, want: Want) -> None:
        self.payments[key] = Payment(want, self.now)
        if self.pins_first_use(want):
            self.pins.setdefault(want.till, {})[want.pay_to] = True
        if self.needs_approval(want):
            used = self.good(want)
            assert used is not None
            self.approvals[used].state, self.approvals[used].payment = "used", key

    def refused_receiver(self, want: Want) -> None:
        self.pins[want.till].setdefault(want.pay_to, False)
        spot = (*want.till, want.pay_to)
        self.refusals[spot] = self.refusals.get(spot, 0) + 1

    def end(self, key: UUID, how: str) -> None:
        """What comes of a payment: settled, never_sent, dead, doubted, landed, final; or of its
        answer: good, bad, hung_up."""
        p = self.payments[key]
        if how in ("good", "bad", "hung_up"):
            p.answers.append(how)
        elif how == "dead" and p.state in ("open", "paid"):
            p.state = "failed"
        elif how in ("landed", "final", "settled") and p.state in ("open", "paid"):
            p.by_chain |= p.state == "open" and how != "settled"
            p.state = "final" if how == "final" else "paid"
        elif p.state == "open" and how == "doubted":
            p.doubted = True
        elif p.state == "open" and how == "never_sent":
            p.state = "failed"
            for a in self.approvals.values():
                if a.payment == key:
                    a.state, a.payment = "approved", None
        lost = p.spent and "good" not in p.answers and (p.by_chain or "bad" in p.answers)
        p.lost_on = (p.lost_on or self.now.date()) if lost else None

    # --- the counters, as they have to be

    def sums(self) -> dict[tuple[Any, ...], Stand]:
        """(kind, agent, subject, period) → what stands there: of the budgets that always count, and
        of the windows that are open under a limit."""
        found: dict[tuple[Any, ...], dict[int, Payment]] = {}

        def add(p: Payment, *key: Any) -> None:
            found.setdefault(key, {})[id(p)] = p  # once, though two windows may share a counter

        for p in self.payments.values():
            w, day = p.want, p.at.date().isoformat()
            add(p, "agent_day", w.agent, None, day)
            add(p, "agent_provider_day", w.agent, w.provider, day)
            add(p, "provider_day", None, w.provider, day)
            add(p, "fleet_day", None, None, day)
            if w.session is not None:
                add(p, "session", w.agent, None, w.session)
            if w.trace is not None:
                add(p, "trace", w.agent, w.trace, None)
        for layer, window, since in self.open_windows():
            kind = counter_kind(window)
            for p in self.counted(layer, since):
                add(p, kind, *layer, period(kind, p.at))
        sums = {key: stand(payments.values()) for key, payments in found.items()}
        return {key: each for key, each in sums.items() if any(each)}

    def is_open(self, kind: str, layer: Layer, named: str | None) -> bool:
        """Whether `sums` has to have this counter of a window, if anything stands there."""
        return any(
            counter_kind(window) == kind
            and whose == layer
            and (named is None or named >= str(period(kind, since)))
            for whose, window, since in self.open_windows()
        )

    def open_windows(self) -> set[tuple[Layer, str, datetime]]:
        agents = {agent for agent, _ in self.layers if agent}
        agents |= {p.want.agent for p in self.payments.values()}
        layers = {layer: says for layer, says in self.layers.items() if layer[1]}
        layers |= {(agent, None): dict(self.own(agent)) for agent in agents}
        return {
            (layer, window, begins(window, self.now))
            for layer, says in layers.items()
            for window in {key[0] for key in says if isinstance(key, tuple)}
            if window not in ("session", "trace") and (window != "day" or layer[1])
        }


def counter_kind(window: str) -> str:
    """A rolling window is counted by the hour."""
    return window if window in ("day", "month", "lifetime") else "hour"


def period(kind: str, at: datetime) -> str | None:
    """How a counter's window is called."""
    shape = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}.get(kind)
    return at.strftime(shape) if shape else None
