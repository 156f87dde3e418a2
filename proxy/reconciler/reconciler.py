"""Who asks the chain, and when.

Rests while every payment is proved: then a query to our own database every round, and no call to
any RPC. Whatever fails in a round is tried again in the next; nothing is decided by a failure.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence

from proxy.chains import Unpayable
from proxy.chains.solana.node import Node
from proxy.chains.solana.rpc import Rpc
from proxy.ledger import Database, LedgerError
from proxy.metrics import Counts
from proxy.reconciler.books import Account, Books
from proxy.reconciler.leadership import Leadership
from proxy.reconciler.rebuild import Found, rebuild
from proxy.reconciler.watch import Ruling, Watch
from proxy.tasks import end

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0


class Reconciler:
    """`start()` and `close()`, or `reconcile_once()`. The counters are since the start.

    `rounds` looks at one account · `landed` payments found on chain whose answer was lost ·
    `verified` · `proved_dead` · `disagreements` times that RPCs said different things ·
    `failures` rounds that an RPC or the database cut short.
    """

    def __init__(
        self,
        dsn: str,
        database: Database,
        rpc_urls: Mapping[str, Sequence[str]],
        *,
        own_accounts: Sequence[Account] = (),
        interval: float = 2.0,
        counts: Counts | None = None,
    ) -> None:
        """`rpc_urls`: network → the RPC that is asked first, then those for second opinions.
        `own_accounts`: whose balance is written down at the start, before they pay. `interval`:
        seconds between rounds; it decides nothing. `counts` hears of the payments that it books
        and frees.
        """
        self.rounds = 0
        self.landed = 0
        self.verified = 0
        self.proved_dead = 0
        self.disagreements = 0
        self.failures = 0
        self._counts = counts if counts is not None else Counts()
        self._database = database
        self._books = Books(database)
        self._leadership = Leadership(dsn)
        self._nodes = {
            network: [Node(Rpc(url)) for url in urls] for network, urls in rpc_urls.items()
        }
        self._openings = {account for account in own_accounts if account.network in self._nodes}
        self._interval = interval
        self._me = f"{socket.gethostname()}:{os.getpid()}"
        self._watches: dict[Account, Watch] = {}
        self._term = 0
        self._pauses: dict[Account | None, tuple[float, float]] = {}  # → (until, how long it was)
        self._task: asyncio.Task[None] | None = None

    @property
    def lag(self) -> int:
        """Finalized blocks since the oldest payment that we watch could last have landed."""
        return max((watch.lag for watch in self._watches.values()), default=0)

    @property
    def leads(self) -> list[Account]:
        """The accounts that this process looks after now."""
        return list(self._watches)

    async def start(self) -> None:
        """Begin; an unreachable RPC or database is no error here."""
        self._task = asyncio.create_task(self._run(), name="reconciler")

    async def close(self) -> None:
        """Stop at once; what was under way is taken up by the next leader."""
        await end(self._task)
        self._leadership.close()
        for nodes in self._nodes.values():
            for node in nodes:
                await node.rpc.close()

    async def reconcile_once(self) -> dict[Account, list[Ruling] | str]:
        """One round for every account with open payments; a text says why there was none. Raises
        LedgerError."""
        report: dict[Account, list[Ruling] | str] = {}
        for account in await self._books.watches():
            if account.network not in self._nodes:
                report[account] = "there is no RPC for this network in the settings"
            elif not await self._leadership.lead(account):
                report[account] = "another autopay is at it"
            else:
                report[account] = await self._round(account)
        return report

    async def rebuild(self, wallets: Iterable[str], *, everything: bool = False) -> list[Found]:
        """Writes down what the chain has and the books have lost (`rebuild.py`). Raises
        LedgerError."""
        return await rebuild(self._database, self._nodes, wallets, everything=everything)

    async def _run(self) -> None:
        while True:
            try:
                await self._open_books()
                await self._pass()
            except LedgerError as error:
                self.failures += 1
                log.warning("the reconciler waits: %s", error)
            except Exception:
                # A payment held too long is a nuisance; all of them held for ever is not.
                self.failures += 1
                log.exception("a round of the reconciler failed")
            await asyncio.sleep(self._interval)

    async def _open_books(self) -> None:
        """The balances that later ones are held against."""
        if not self._openings or self._rests(None):
            return
        for account in list(self._openings):
            node = self._nodes[account.network][0]
            try:
                tip = await node.finalized()
                balance = await node.balance(account.address, tip.slot)
            except Unpayable as error:
                self._fell_short(None)
                log.warning("the balance of %s is not known: %s", account.address, error.detail)
                return
            if balance is not None:
                await self._books.note_balance(account, balance)
            self._openings.discard(account)

    async def _pass(self) -> None:
        """A round for every account that has payments to be proved and that we lead."""
        wanted = [
            account for account in await self._books.watches() if account.network in self._nodes
        ]
        for account in [led for led in self._watches if led not in wanted]:
            del self._watches[account]
            await self._leadership.leave(account)
        for account in wanted:
            if self._rests(account):
                continue
            if await self._leadership.lead(account):
                await self._round(account)
            else:
                self._watches.pop(account, None)

    async def _round(self, account: Account) -> list[Ruling] | str:
        if self._term != self._leadership.term:
            self._watches.clear()
            self._term = self._leadership.term
        watch = self._watches.get(account)
        if watch is None:
            watch = self._watches[account] = Watch(
                self._books, self._nodes[account.network], account
            )
        trouble: str | None = None
        rulings: list[Ruling] = []
        try:
            rulings = await watch.round()
        except Unpayable as error:
            trouble = error.detail
            self.failures += 1
            self._fell_short(account)
            log.warning("payments from %s stay as they are: %s", account.address, trouble)
        else:
            self.rounds += 1
            self._pauses.pop(account, None)
            self._count(rulings)
        await self._books.note_round(account, self._me, watch.tip, trouble)
        return rulings if trouble is None else trouble

    def _count(self, rulings: Sequence[Ruling]) -> None:
        for ruling in rulings:
            self.landed += ruling.outcome == "settled"
            self.verified += ruling.outcome == "verified"
            self.proved_dead += ruling.outcome in ("released", "reversed")
            self.disagreements += ruling.why == "rpcs_disagree"
            if ruling.booked is not None:
                it = ruling.booked
                self._counts.paid(
                    it.agent, it.provider, it.symbol, it.price, reason="chain_confirmed"
                )
            if ruling.outcome in ("released", "reversed"):
                self._counts.payments.add(ruling.outcome, "proved_dead")

    def _rests(self, account: Account | None) -> bool:
        """An RPC that fails is asked less and less often."""
        return self._pauses.get(account, (0.0, 0.0))[0] > time.monotonic()

    def _fell_short(self, account: Account | None) -> None:
        _, last = self._pauses.get(account, (0.0, self._interval / 2))
        pause = min(last * 2, _LONGEST_PAUSE)
        self._pauses[account] = (time.monotonic() + pause, pause)
