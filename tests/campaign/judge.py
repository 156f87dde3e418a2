"""The five promises, held against the chain. Our own books are the accused here, not a witness:
what was paid for is known from the chain, for whom from the providers, under which limits from the
campaign itself."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from solders.pubkey import Pubkey

from proxy.ledger import Database
from proxy.localnet import LocalChain
from proxy.localnet.history import Landed
from proxy.localnet.tokens import read_holding
from tests.campaign.market import Presented
from tests.campaign.programs import Order, Programs

_PAYMENTS = """
SELECT p.client_signature, p.status::text, p.amount_atomic::bigint AS amount,
       l.id IS NOT NULL AS receipt, l.source
FROM payments p LEFT JOIN x402_payment_logs l ON l.id = p.id
"""
# Granted while an equal request of the same agent had a payment in doubt.
WATCH = """
-- A payment's own columns say when transactions began, which may have waited for one another since:
-- here is when it was granted, and when it was booked. Both hold the agent's counters then.
CREATE TABLE moments (
    payment_id uuid, status payment_status, at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (payment_id, status));
CREATE FUNCTION note_moment() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO moments (payment_id, status) VALUES (NEW.id, NEW.status) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER note_moment AFTER INSERT OR UPDATE OF status ON payments
    FOR EACH ROW EXECUTE FUNCTION note_moment();
"""
_NOT_JOINED = """
SELECT q.client_signature FROM payments q
JOIN payments p ON p.agent_id = q.agent_id AND p.request_key = q.request_key AND p.id <> q.id
JOIN moments granted ON granted.payment_id = q.id AND granted.status = 'SIGNED'
LEFT JOIN moments booked ON booked.payment_id = p.id AND booked.status = 'CONFIRMED'
WHERE p.in_doubt_since < granted.at
  AND (p.settled_at IS NULL OR coalesce(booked.at, p.settled_at) > granted.at)
  AND p.status IN ('SIGNED', 'CONFIRMED', 'VERIFIED')
"""
_OF_REQUEST = """
SELECT id, status::text, created_at, in_doubt_since, doubt_reason, settled_at, release_reason,
       presented, instance, idempotency_key IS NOT NULL AS keyed
FROM payments WHERE endpoint LIKE $1 ORDER BY created_at
"""


class Landings:
    """What has left one token account, by our signature. `collect` now and then: the chain of the
    tests forgets what is long past."""

    def __init__(self, chain: LocalChain, account: Pubkey) -> None:
        self.amounts: dict[str, int] = {}
        self._chain = chain
        self._account = account
        self._seen: set[str] = set()

    def collect(self) -> None:
        for record in self._chain.history.newest_first(self._account):
            name = str(record.signature)
            if name in self._seen:
                break
            self._seen.add(name)
            taken = self._taken(record)
            if record.err is None and taken > 0:
                ours = str(record.transaction.signatures[1])
                self.amounts[ours] = self.amounts.get(ours, 0) + taken

    def balance(self) -> int:
        """Atomic units that are there now."""
        held = read_holding(self._chain.account(self._account))
        return held.amount if held else 0

    def _taken(self, record: Landed) -> int:
        index = list(record.transaction.message.account_keys).index(self._account)
        before = sum(b.holding.amount for b in record.pre_tokens if b.account_index == index)
        after = sum(b.holding.amount for b in record.post_tokens if b.account_index == index)
        return before - after


@dataclass(slots=True)
class Verdict:
    """Counts. The first five are the promises, and with the next four they must be zero."""

    over_budget: int = 0
    """Micro-USD that landed above any budget."""
    lost_receipts: int = 0
    paid_twice: int = 0
    held: int = 0
    freed_and_landed: int = 0
    unproved: int = 0
    """Booked, and neither found on the chain nor taken back."""
    phantoms: int = 0
    """In the books as proved, and not on the chain."""
    difference: int = 0
    """Between what has left the account and what the books call proved."""
    findings: int = 0
    """Of `audit_books`."""
    landed: int = 0
    recovered: int = 0
    """Receipts rebuilt from the chain."""
    taken_back: int = 0
    """Freed, and rightly so."""
    details: list[str] = field(default_factory=list)

    @property
    def promises(self) -> dict[str, int]:
        return {
            "units over any budget": self.over_budget,
            "landed without a receipt": self.lost_receipts,
            "requests paid twice": self.paid_twice,
            "held for ever": self.held,
            "freed and landed": self.freed_and_landed,
        }

    @property
    def kept(self) -> bool:
        rest = (self.unproved, self.phantoms, self.difference, self.findings)
        return not any(self.promises.values()) and not any(rest)


async def judge(
    operator: Database,
    landings: Landings,
    left: int,
    presented: Sequence[Presented],
    programs: Programs,
    limits: Mapping[str, int],
) -> Verdict:
    """`left`: atomic units that are gone from the account. `limits` by scope: agent/NAME,
    session/NAME, trace/NAME, provider/URL, fleet."""
    verdict = Verdict(landed=len(landings.amounts))
    shown = {each.client_signature: each for each in presented}

    spent: defaultdict[str, int] = defaultdict(int)
    times: Counter[str] = Counter()
    for signature, amount in landings.amounts.items():
        order = programs.orders[shown[signature].request]
        times[order.id] += 1
        for scope in scopes_of(order):
            spent[scope] += amount
    for scope, amount in spent.items():
        if amount > limits[scope]:
            verdict.over_budget += amount - limits[scope]
            verdict.details.append(f"{scope}: {amount} of {limits[scope]}")
    joined = {row["client_signature"] for row in await operator.fetch(_NOT_JOINED)}
    twice = {shown[signature].request for signature in joined & landings.amounts.keys()}
    for request, count in times.items():
        # Without a key, the same request again is a request of its own, as soon as it is known what
        # became of the first. And no single sending ever pays twice.
        most = 1 if programs.orders[request].keyed or request in twice else programs.asked[request]
        if count > most:
            verdict.paid_twice += 1
            asked = f"{count} times, asked {programs.asked[request]}"
            verdict.details.append(f"{request} was paid {asked}, at most {most}")
            verdict.details += [
                f"  {dict(row)}" for row in await operator.fetch(_OF_REQUEST, f"%/{request}/%")
            ]

    proved = 0
    booked = set()
    for row in await operator.fetch(_PAYMENTS):
        signature, status = row["client_signature"], row["status"]
        landed = signature in landings.amounts
        booked.add(signature)
        verdict.recovered += row["source"] == "chain" and status == "VERIFIED"
        verdict.taken_back += status == "FAILED" and not landed
        if landed and not row["receipt"]:
            verdict.lost_receipts += 1
        if status in ("INITIATED", "SIGNED"):
            verdict.held += 1
        elif status == "CONFIRMED":
            verdict.unproved += 1
        elif status == "FAILED" and landed:
            verdict.freed_and_landed += 1
            verdict.details.append(f"freed and landed: {signature}")
        elif status == "VERIFIED":
            proved += row["amount"]
            if not landed:
                verdict.phantoms += 1
                verdict.details.append(f"proved and not there: {signature}")
    unknown = landings.amounts.keys() - booked
    verdict.lost_receipts += len(unknown)
    verdict.difference = left - proved
    found = await operator.fetch("SELECT * FROM audit_books()")
    verdict.findings = len(found)
    verdict.details += [f"audit: {tuple(row)}" for row in found[:10]]
    return verdict


def scopes_of(order: Order) -> list[str]:
    return [
        f"agent/{order.agent}",
        f"session/{order.session}",
        f"trace/{order.trace}",
        f"provider/{order.provider}",
        "fleet",
    ]
