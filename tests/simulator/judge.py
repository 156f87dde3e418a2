"""The five promises, asked of the chain: the books are only heard as to what they said."""

from collections import defaultdict
from typing import TYPE_CHECKING

from proxy.ledger.states import SETTLED, Status

if TYPE_CHECKING:
    from tests.simulator.world import World


def verdict(world: "World") -> list[str]:
    """What is wrong at the end of a run; nothing, if autopay keeps its word."""
    return [
        *_no_budget_is_exceeded(world),
        *_every_landing_has_its_receipt(world),
        *_nothing_is_paid_twice(world),
        *_nothing_stays_held(world),
        *_nothing_was_freed_that_landed(world),
        *_the_books_are_right(world),
    ]


def _by_signature(world: "World") -> dict[str, str]:
    return {p.args["client_signature"]: key for key, p in world.memory.state.payments.items()}


def _no_budget_is_exceeded(world: "World") -> list[str]:
    state, ours = world.memory.state, _by_signature(world)
    moved: dict[str, int] = defaultdict(int)
    for tx in world.chain.moved():
        if tx.client_signature in ours:
            for scope in state.payments[ours[tx.client_signature]].scopes:
                moved[scope] += tx.amount
    return [
        f"1 overspent: {scope} has moved {amount} of {state.counters[scope].top}"
        for scope, amount in moved.items()
        if amount > (state.counters[scope].top or 0)
    ]


def _every_landing_has_its_receipt(world: "World") -> list[str]:
    state, ours, found = world.memory.state, _by_signature(world), []
    for tx in world.chain.moved():
        key = ours.get(tx.client_signature)
        if key is None:
            found.append(f"2 unknown: {tx.client_signature[:8]} landed and is in no book")
        elif key not in state.receipts or state.payments[key].status is not Status.VERIFIED:
            found.append(f"2 no receipt: {key} landed and is {state.payments[key].status}")
    return found


def _nothing_is_paid_twice(world: "World") -> list[str]:
    found = []
    landed = {tx.client_signature for tx in world.chain.moved()}
    paid: dict[bytes, int] = defaultdict(int)
    for payment in world.memory.state.payments.values():
        key = payment.args.get("idempotency_key")
        if key is not None and payment.args["client_signature"] in landed:
            paid[key] += 1
    found += [f"3 paid twice: one key, {count} payments" for count in paid.values() if count > 1]
    for wish in world.wishes:
        for purchase in wish.purchases:
            if len(set(purchase.sent)) > 1:
                found.append(f"3 signed twice: {wish.path} sent {len(set(purchase.sent))} payments")
    # One that was granted too late for its caller has never left, and is no harm.
    left = {tx.client_signature for shop in world.shops for tx in shop.seen}
    payments = world.memory.state.payments
    for new, old in world.opened:
        if payments[new].args["client_signature"] in left:
            found.append(f"3 signed anew: {new} left while {old} was open")
    return found


def _nothing_stays_held(world: "World") -> list[str]:
    state = world.memory.state
    return [
        f"4 held for ever: {key} is {p.status} ({state.doubts.get(key)})"
        for key, p in state.payments.items()
        if p.status not in (Status.VERIFIED, Status.FAILED)
    ] + [
        f"4 held for ever: {scope} holds {counter.held}"
        for scope, counter in state.counters.items()
        if counter.held
    ]


def _nothing_was_freed_that_landed(world: "World") -> list[str]:
    landed = {tx.client_signature for tx in world.chain.moved()}
    return [
        f"5 freed too early: {key} was {p.history[-1]} and landed"
        for key, p in world.memory.state.payments.items()
        if p.status is Status.FAILED and p.args["client_signature"] in landed
    ]


def _the_books_are_right(world: "World") -> list[str]:
    """Against each other; and what they call spent, against what the chain has moved."""
    state, spent = world.memory.state, defaultdict[str, int](int)
    for payment in state.payments.values():
        for scope in payment.scopes:
            spent[scope] += payment.price if payment.status in SETTLED else 0
    found = [
        f"books: {scope} says {counter.spent}, its payments {spent[scope]}"
        for scope, counter in state.counters.items()
        if counter.spent != spent[scope]
    ]
    books = sum(
        int(p.args["amount_atomic"]) for p in state.payments.values() if p.status in SETTLED
    )
    chain = sum(tx.amount for tx in world.chain.moved())
    if books != chain:
        found.append(f"books: they say {books}, the chain has moved {chain}")
    return [*found, *(f"a callback failed: {failure}" for failure in world.loop.failures)]
