"""Is there enough money, and can the receiver take it? Answered from memory, checked behind it.

A transfer from an empty account, or to one that does not exist, fails only at the facilitator, when
our signature is already out. Both accounts are read with one getMultipleAccounts: before the first
payment to a receiver, and afterwards in the background, so that a payment waits for no RPC.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal

from cachetools import TTLCache
from solders.pubkey import Pubkey

from proxy.chains import Unpayable
from proxy.x402 import Asset

from .message import Transfer
from .rpc import Account
from .singleflight import SingleFlight

_ACCOUNT_SIZE = 165
_STATE_OFFSET = 108
_STATES = {0: "is not initialised", 2: "is frozen"}


@dataclass(slots=True)
class _Seen:
    """A token account as the chain showed it; `problem` says why it is of no use, "" if it is."""

    amount: int
    problem: str
    asked_at: float
    taken: list[tuple[float, int]] = field(default_factory=list)
    """(when, how much) was signed away, until the chain's answer can be thought to include it."""

    taken_sum: int = 0

    @property
    def available(self) -> int:
        return self.amount - self.taken_sum

    def take(self, at: float, amount: int) -> None:
        self.taken.append((at, amount))
        self.taken_sum += amount


class TokenAccounts:
    """What is known of our token accounts and of the receivers'. Times are in seconds."""

    def __init__(
        self,
        fetch: Callable[[list[Pubkey]], Awaitable[list[Account | None]]],
        *,
        refresh_after: float = 10.0,
        trusted_for: float = 600.0,
        negative_for: float = 2.0,
        settling_for: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A good answer is used for `trusted_for`, and asked again in the background once it is
        `refresh_after` old; a bad one is asked again, and waited for, after `negative_for`.
        A payment takes about `settling_for` to show in the balance.
        """
        self._fetch = fetch
        self._refresh_after = refresh_after
        self._trusted_for = trusted_for
        self._negative_for = negative_for
        self._settling_for = settling_for
        self._clock = clock
        self._sources: dict[Pubkey, _Seen] = {}
        self._destinations: TTLCache[Pubkey, _Seen] = TTLCache(4096, trusted_for, clock)
        self._flights: SingleFlight[tuple[Pubkey, Pubkey], None] = SingleFlight()
        self._failed_at = -negative_for

    async def close(self) -> None:
        """Drop the questions that are still under way."""
        await self._flights.close()

    async def take(self, transfer: Transfer, asset: Asset) -> None:
        """Check that `transfer` can work and count its amount as gone.

        Raises Unpayable: insufficient_funds, no_destination_account, or rpc_unavailable when
        nothing recent is known and the RPC does not answer.
        """
        age = self._age(transfer)
        if age > self._trusted_for or (
            age > self._negative_for and self._problem(transfer, asset) is not None
        ):
            await self._ask(transfer)
        elif age > self._refresh_after and self._clock() - self._failed_at >= self._negative_for:
            self._flights.launch(_key(transfer), lambda: self._fetch_both(transfer))
        problem = self._problem(transfer, asset)
        if problem is not None:
            raise problem
        self._sources[transfer.source].take(self._clock(), transfer.amount)

    def give_back(self, source: Pubkey, amount: int) -> None:
        """Undo one `take` whose payment will never be sent."""
        seen = self._sources.get(source)
        if seen is None:
            return
        # Backwards: it was the last one, or nearly.
        for index in reversed(range(len(seen.taken))):
            if seen.taken[index][1] == amount:
                del seen.taken[index]
                seen.taken_sum -= amount
                return

    def _age(self, transfer: Transfer) -> float:
        """Of the older of the two answers; infinite while one is missing."""
        source = self._sources.get(transfer.source)
        destination = self._destinations.get(transfer.destination)
        if source is None or destination is None:
            return float("inf")
        return self._clock() - min(source.asked_at, destination.asked_at)

    def _problem(self, transfer: Transfer, asset: Asset) -> Unpayable | None:
        source = self._sources[transfer.source]
        destination = self._destinations[transfer.destination]
        if source.problem:
            return Unpayable(
                "insufficient_funds", f"the wallet's {asset.symbol} account {source.problem}"
            )
        if source.available < transfer.amount:
            return Unpayable(
                "insufficient_funds",
                f"the wallet holds {_units(source.available, asset)}, "
                f"the payment needs {_units(transfer.amount, asset)}",
            )
        if destination.problem:
            return Unpayable(
                "no_destination_account",
                f"the receiver's {asset.symbol} account {destination.problem}",
            )
        return None

    async def _ask(self, transfer: Transfer) -> None:
        await self._flights.run(_key(transfer), lambda: self._fetch_both(transfer))

    async def _fetch_both(self, transfer: Transfer) -> None:
        asked_at = self._clock()
        try:
            source, destination = await self._fetch([transfer.source, transfer.destination])
        except Unpayable:
            self._failed_at = self._clock()
            raise
        self._keep_source(transfer, _look(source, transfer, transfer.payer, asked_at))
        self._destinations[transfer.destination] = _look(
            destination, transfer, transfer.pay_to, asked_at
        )

    def _keep_source(self, transfer: Transfer, seen: _Seen) -> None:
        before = self._sources.get(transfer.source)
        if before is not None:
            if before.asked_at > seen.asked_at:
                return  # questions with different receivers may be answered out of order
            for at, amount in before.taken:
                if at > seen.asked_at - self._settling_for:
                    seen.take(at, amount)
        self._sources[transfer.source] = seen


def _key(transfer: Transfer) -> tuple[Pubkey, Pubkey]:
    return transfer.source, transfer.destination


def _look(account: Account | None, transfer: Transfer, owner: Pubkey, asked_at: float) -> _Seen:
    """Read a token account: mint, owner, u64 amount, …, state; extensions come after these."""
    if account is None:
        return _Seen(0, "does not exist", asked_at)
    data = account.data
    if account.owner != transfer.token_program or len(data) < _ACCOUNT_SIZE:
        return _Seen(0, "belongs to another program", asked_at)
    if data[:32] != bytes(transfer.mint):
        return _Seen(0, "holds another asset", asked_at)
    if data[32:64] != bytes(owner):
        # The address is derived from its first owner, who can hand the account on to another.
        return _Seen(0, "is controlled by someone else", asked_at)
    amount = int.from_bytes(data[64:72], "little")
    return _Seen(amount, _STATES.get(data[_STATE_OFFSET], ""), asked_at)


def _units(amount: int, asset: Asset) -> str:
    text = f"{Decimal(amount).scaleb(-asset.decimals):f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {asset.symbol}"
