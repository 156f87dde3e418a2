"""What goes into the ledger and what comes out of it, as values.

Amounts named `amount` are atomic units of the asset; all other money is micro-USD.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

from proxy.ledger.ids import new_id


@dataclass(frozen=True, slots=True)
class Met402:
    """A 402 that a request met: its row in `api_requests`."""

    provider: str  # scheme://host:port
    api_type: str = "MARKET_DATA"  # or KNOWLEDGE_DATA
    instructions: Mapping[str, Any] | None = None  # the challenge, as it was understood
    response_headers: Mapping[str, str] | None = None  # only names that can hold no secret
    tool_name: str | None = None
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A signed authorization before it leaves: who pays, for what, how to find it on chain."""

    payment_id: UUID
    agent_id: UUID
    price: int  # what budgets are charged: `amount` in micro-USD, rounded up
    session_id: str | None
    trace_id: str | None
    # the request
    provider: str  # scheme://host:port
    method: str
    endpoint: str  # the URL, as it shall be shown and kept
    request_body_sha256: bytes | None
    # the offer
    x402_version: int
    network: str
    asset: str
    symbol: str
    amount: int
    pay_to: str
    # the authorization; None where a chain has no such thing
    payer: str | None = None
    fee_payer: str | None = None
    source_account: str | None = None
    destination_account: str | None = None
    memo: str | None = None
    blockhash: str | None = None
    last_valid_block_height: int | None = None
    blockhash_slot: int | None = None
    client_signature: str | None = None
    message_sha256: bytes | None = None  # None: to be signed after the reservation
    payload: Mapping[str, Any] | None = None
    # beside it
    decimals: int = 6
    facilitator_url: str | None = None
    url_sealed: bytes | None = None  # the URL with its query, under the agent's own key
    request_key: bytes | None = None  # SHA-256: equal for equal requests of one agent
    idempotency_key: bytes | None = None  # SHA-256 of what the program gave
    key_seconds: float | None = None  # for how long that key stands for this request
    share: bool = False  # whether to join an equal request that is under way
    header: str | None = None  # as it is about to leave; kept to be sent again byte for byte
    identified: bool = False  # whether there is a payment identifier in it
    instance: UUID | None = None  # the process that is about to send it
    beside: bool = False  # whether equal ones of other processes are known to be others' purchases
    tool_name: str | None = None
    met: "Met402 | None" = None
    policy_version: int | None = None  # of the book that allowed it: under no other is it reserved
    shadow_reason: str | None = None  # what the shadow book says of it
    rules: Mapping[str, Any] | None = None  # what the ledger is to ask: policies.ledger_rules


@dataclass(frozen=True, slots=True)
class Reserved:
    """The money is held. `spent`, `held`, `limit`: the agent's day, this payment included."""

    remaining: int  # the least that is left in any budget
    spent: int
    held: int
    limit: int
    day: date


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing is held. The numbers are those of the limit that refused, in micro-USD.

    Codes: over_daily_limit, over_session_limit, over_trace_limit, over_agent_provider_limit,
    over_provider_limit, over_wallet_limit, over_fleet_limit, over_per_call_limit (the policy was
    tightened since it was asked), frozen, unknown_agent, duplicate_message, abandoned (given up
    before), and those of `Prior`.
    """

    code: str
    limit: int
    spent: int
    held: int
    asked: int
    resets_at: datetime | None  # when this budget begins anew; None if it does not by itself
    joined: UUID | None = None  # the payment from before, for the codes of `Prior`
    detail: Mapping[str, Any] | None = None  # what the numbers don't say; see 0030_gate.sql


@dataclass(frozen=True, slots=True)
class Prior:
    """What a request has to do with a payment from before.

    Codes: payment_in_doubt; request_in_progress; answer_kept; answer_lost (it landed, and its
    provider may serve it again); already_paid (it landed, and there is no answer to be had);
    idempotency_key_reused (by another request); released (nothing was paid after all);
    request_elsewhere (another process sent one for the same, and only that knows for whom).
    """

    code: str
    payment_id: UUID


@dataclass(frozen=True, slots=True)
class Left:
    """A payment that has left, as it is to be sent again. `header` is None once it was erased."""

    id: UUID
    status: str
    provider: str
    network: str
    asset: str
    amount: int
    pay_to: str
    x402_version: int
    last_valid_block_height: int | None
    header: str | None
    presented: int  # how often it was sent again


@dataclass(frozen=True, slots=True)
class SettledReceipt:
    """What the provider said when it took the money. Texts are its own: evidence only."""

    claimed: bool  # whether there was a settlement header; False: a 2xx without one
    http_status: int
    success: bool  # whether the answer that was paid for is a good one (a paid 500 is not)
    latency_ms: int
    transaction: str = ""
    payer: str = ""
    network: str = ""
    amount: int | None = None
    response_header: str = ""  # as it came: JSON in base64
    error: str = ""
    source: str = "provider"  # or "chain": found there, the answer was lost


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to get something from a provider, paid or not."""

    provider: str
    url: str
    method: str
    status: int  # 599 if no answer came
    response_hash: str  # SHA-256 of the body, hex; "" if there was none
    latency_ms: int
    success: bool
    schema_ok: bool
    score: float  # of the provider, at that moment: 0..1
    attempt: int = 1
    payment_id: UUID | None = None
    agent_id: UUID | None = None
    intent: str = ""  # what it was for; "" = the request itself
    amount: int = 0  # paid, in atomic units
    transaction: str = ""
    pay_to: str = ""
    error: str = ""
    total_ms: int | None = None  # to the last byte; `latency_ms` is to the first
    size: int | None = None
    content_type: str = ""
    whole: bool | None = None  # the provider brought it to its end
    expected: bool | None = None  # more than that it is whole, and no error
    unread: str = ""  # why its body was not held against what was expected
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A denial that the ledger did not make itself: a policy's, or of a 402 that cannot be paid."""

    agent_id: UUID
    method: str
    endpoint: str
    reason: str  # the stable code; "not_payable" for a 402 that cannot be paid
    detail: str  # the sentence, or the code of what could not be paid
    price: int = 0
    limit: int | None = None
    policy_version: int | None = None
    shadow_reason: str | None = None  # what the shadow book says of it
    session_id: str | None = None
    trace_id: str | None = None
    met: Met402 | None = None  # None: no 402 was met, the request was turned away before
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Presented:
    """What came of sending the same bytes again. `last`: there is no point in another time."""

    payment_id: UUID
    instance: UUID
    success: bool
    last: bool = False
    error_class: str = ""  # a code of error_classifications
    error: str = ""
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Retry:
    """A try after the first, to bring a payment on its way or to get an answer without one; nothing
    of a payment had left before."""

    payment_id: UUID | None
    attempt: int  # 1 to 3
    delay: float  # seconds that were waited before it
    success: bool
    error_class: str = ""  # how it ended, a code of error_classifications
    error: str = ""
    cause: str = ""  # why it was made, another such code
    # What it was, where no payment tells:
    agent_id: UUID | None = None
    provider: str = ""
    method: str = ""
    endpoint: str = ""
    id: UUID = field(default_factory=uuid4)
