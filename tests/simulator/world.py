"""One run: processes of autopay on one database, their programs, shops, a chain, an operator, and
everything that goes wrong. All of it follows from one number.

The code is the product's own, from the exchange down to the reconciler; in the place of sockets are
`SimDatabase`, `SimRpc` and `SimPurchase`. First comes the storm. Then nothing goes wrong any more,
slots get short, and everything must come to an end; then `judge.py` asks the chain.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from solders.keypair import Keypair

from policies import Policy
from proxy import again, entries
from proxy import agreement as agreement_module
from proxy import exchange as exchange_module
from proxy.again import Again, Terms
from proxy.agreement import Agreement
from proxy.awaited import Awaited
from proxy.chains.solana import accounts, blockhash, message
from proxy.chains.solana import chain as chain_module
from proxy.chains.solana.chain import SolanaChain
from proxy.chains.solana.wallet import Wallet
from proxy.consent import Consent
from proxy.exchange import Exchange
from proxy.ledger import Agent, Ledger, LedgerUnavailable, ids, lane
from proxy.ledger import ledger as ledger_module
from proxy.ledger.kept import KeptAnswers
from proxy.ledger.states import OPEN, Status
from proxy.metrics import Counts
from proxy.reconciler import Reconciler
from proxy.reconciler import reconciler as reconciler_module
from proxy.reconciler.books import Account
from proxy.wire.gate import Delivery, Paid, Replayed, Whole
from proxy.wire.problem import Problem
from proxy.x402.networks import SOLANA_DEVNET
from tests.model.memory import AgentRow, Memory
from tests.simulator.chain import Chain, SimRpc, Tx
from tests.simulator.database import Here, SimDatabase
from tests.simulator.faults import Faults
from tests.simulator.loop import LIFE, Life, VirtualLoop
from tests.simulator.shop import Shop, SimPurchase

STORM_SECONDS = (10.0, 40.0)
MOST_CALM_SLOTS = 4_000
PRICE = 10_000


class Trace:
    """What happened, in order, as one hash; with `keep`, also in words."""

    def __init__(self, loop: VirtualLoop, keep: bool) -> None:
        self._loop = loop
        self._hash = hashlib.sha256()
        self.lines: list[str] | None = [] if keep else None
        self.events = 0

    def tell(self, *words: object) -> None:
        line = f"{self._loop.now:.6f} " + " ".join(map(str, words))
        self._hash.update(line.encode() + b"\n")
        self.events += 1
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


@dataclass
class Wish:
    """Something that a program wants once, however often it has to ask for it."""

    agent: Agent
    shop: Shop
    path: str
    key: bytes | None
    purchases: list[SimPurchase] = field(default_factory=list)


@dataclass
class Process:
    """A running autopay: dead as soon as `life` is."""

    life: Life
    instance: UUID
    gone: asyncio.Event
    exchange: Exchange = field(init=False)
    ledger: Ledger = field(init=False)
    awaited: Awaited = field(default_factory=Awaited)


class World:
    """`run()` it once. After that `judge.verdict` has something to look at."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.trace = Trace(self.loop, keep_trace)
        source = Random(seed)

        def own() -> Random:
            """Each part has its own numbers: what one draws moves no other."""
            return Random(source.getrandbits(64))

        self.random, self.naming = own(), own()
        self.faults = Faults(own())
        self.wallet = Wallet(Keypair.from_seed(source.randbytes(32)))
        self.chain = Chain(own(), self.wallet.pubkey)
        self.chain.on_landing = lambda tx: self.trace.tell("lands", tx.client_signature[:8])
        self.memory = Memory(day_name=_day_name, lives=self._lives)
        self.landings: list[Tx] = []
        self.agents = [Agent(self._uuid(), name) for name in ("ann", "bob")]
        self.policies: dict[UUID, Policy] = {}
        for agent in self.agents:
            tight = self.random.choice([1_000_000, 60_000])
            row = AgentRow(agent.name, daily=tight, session=self.random.choice([1_000_000, 40_000]))
            self.memory.state.agents[str(agent.id)] = row
        self._tell_policies()
        self.sharp = self.random.random() < 0.04
        """Whether every single height is looked at, for what is right at the edge of one."""
        self.shops = [self._shop(own(), number) for number in range(2)]
        self.wishes: list[Wish] = []
        self.processes: list[Process] = []
        self.second_opinion = self.sharp or self.random.random() < 0.6
        self.locks: dict[Account, Life] = {}
        self.kills = 0
        self.opened: list[tuple[str, str]] = []
        """Payments that were granted while one for the same was with its shop, and open."""
        self.calm = False
        self.restless = self.random.choice([5.0, 15.0, 1e9])
        """Seconds between an operator's whims."""
        self.slot_seconds = self.random.choice([0.4, 0.4, 0.1, 0.05])
        self.calm_slots = self.random.choice([1, 8, 8])
        """In the time of one: heights decide, and nothing else may."""
        if self.sharp:
            self.slot_seconds, self.calm_slots = 1.0, 1
        self.busy = self.random.choice([0.5, 2.0])
        """Seconds that a program thinks."""

    # --- the run

    def run(self) -> None:
        """To the end. Raises Deadlock."""
        with self._in_place():
            try:
                self.loop.run_until_complete(self._live())
            finally:
                for process in self.processes:
                    self.loop.kill(process.life)
                for process in self.processes:
                    self.loop.bury(process.life)
                self._bury_rest()

    async def _live(self) -> None:
        self.loop.on_death = self._died
        for _ in range(self.random.choice([1, 2, 2])):
            await self._start()
        tasks = [
            self.loop.create_task(work)
            for work in (self._slots(), self._weather(), self._operator(), self._killer())
        ]
        storm = self.random.uniform(*STORM_SECONDS)
        programs = [
            self.loop.create_task(self._program(agent, storm))
            for agent in self.agents
            for _ in range(self.random.choice([1, 2, 4]))
        ]
        await asyncio.sleep(storm)
        self._calm_down()
        done, late = await asyncio.wait(programs, timeout=120.0)
        assert not late, "a program was never answered"
        for program in done:
            program.result()
        await self._settle_down()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _calm_down(self) -> None:
        self.trace.tell("calm")
        self.calm = True
        self.faults.calm()
        for process in self.processes:
            process.life.steps_left = None
        for row in self.memory.state.agents.values():
            row.frozen = False
        for shop in self.shops:
            shop.honest = True

    async def _settle_down(self) -> None:
        """Until nothing is open; the judge complains if something still is."""
        first = self.chain.slot
        while self.chain.slot - first < MOST_CALM_SLOTS:
            await asyncio.sleep(1.0)
            if not any(process.life.alive for process in self.processes):
                await self._start()
            if all(
                payment.status in (Status.VERIFIED, Status.FAILED)
                for payment in self.memory.state.payments.values()
            ):
                break
        for shop in self.shops:
            shop.bring_all()
        # What is dead has no more chances; what lives shows itself in these.
        await asyncio.sleep(10.0)

    # --- autopay

    async def _start(self) -> None:
        """A process like any other; it knows what the database knows."""
        life = Life(f"process {len(self.processes) + 1}")
        process = Process(life, self._uuid(), asyncio.Event())
        if self.faults.kills and self.random.random() < 0.5:
            life.steps_left = int(self.random.expovariate(1 / 1_500)) + 1
        self.processes.append(process)
        self.trace.tell(life, "starts")
        up = self.loop.spawn(life, self._build(process))
        await asyncio.wait(
            [up, self.loop.create_task(process.gone.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        if up.done():
            up.result()

    async def _build(self, process: Process) -> None:
        database: Any = SimDatabase(self.memory, self.faults, self._statement)
        ledger = process.ledger = Ledger(database)
        chain = SolanaChain(SOLANA_DEVNET, self.wallet, "http://one")
        counts, cipher = Counts(), _Cipher()
        chains = {SOLANA_DEVNET: chain}
        terms = Terms(wait=3.0)
        kept = KeptAnswers(database, cipher, most=100)  # type: ignore[arg-type]
        same = Again(ledger, kept, chains, counts, terms, process.awaited, self)
        agreement = Agreement(
            self,  # type: ignore[arg-type] # the directory
            self,  # type: ignore[arg-type] # the providers
            ledger,
            chains,
            counts,
            cipher,  # type: ignore[arg-type]
            same,
            Consent(database),
        )
        process.exchange = Exchange(agreement, self, ledger, counts, same)  # type: ignore[arg-type]
        urls = ["http://one", "http://two"] if self.second_opinion else ["http://one"]
        reconciler = Reconciler(
            "nowhere",
            database,
            {SOLANA_DEVNET: urls},
            own_accounts=[Account(SOLANA_DEVNET, self.chain.source)],
            interval=0.7 if self.sharp else self.random.choice([1.0, 2.0, 5.0]),
        )
        await chain.start()
        await reconciler.start()

    # As the other processes on the same database.

    async def words(self, senders: Mapping[UUID, UUID]) -> dict[UUID, str]:
        """A question and an answer, either of which may be lost."""
        words: dict[UUID, str] = {}
        for payment_id, sender in senders.items():
            await asyncio.sleep(self.faults.database_latency())
            (asked,) = (each for each in self.processes if each.instance == sender)
            heard = asked.life.alive and self.faults.statement(asked.life) == "ok"
            if heard and (word := asked.awaited.word(payment_id)):
                words[payment_id] = word
        await asyncio.sleep(self.faults.database_latency())
        self.trace.tell(LIFE.get(), "asked for", len(senders), "of them known of", len(words))
        return words

    # As the exchange's directory and providers.

    def policy_at(self, agent: Agent, _place: object) -> Policy:
        return self.policies[agent.id]

    def shadow_at(self, _agent: Agent, _place: object) -> None: ...

    def quoted(self, *_: object) -> None: ...

    def score(self, *_: object) -> float:
        return 0.5

    def _here(self) -> UUID:
        life = LIFE.get()
        return next(each.instance for each in self.processes if each.life is life)

    def _lives(self, instance: str) -> bool:
        return any(str(p.instance) == instance and p.life.alive for p in self.processes)

    # --- programs

    async def _program(self, agent: Agent, until: float) -> None:
        while self.loop.now < until:
            await asyncio.sleep(self.random.expovariate(1 / self.busy))
            path = f"/{agent.name}/{len(self.wishes)}"
            key = b"key " + path.encode() if self.random.random() < 0.3 else None
            wish = Wish(agent, self.random.choice(self.shops), path, key)
            self.wishes.append(wish)
            for _ in range(self.random.randint(1, 4)):
                if await self._ask(wish):
                    break
                await asyncio.sleep(self.random.choice([0.1, 2.0, 20.0]))

    async def _ask(self, wish: Wish) -> bool:
        """Whether the program is content."""
        alive = [process for process in self.processes if process.life.alive]
        if not alive:
            return False
        process = self.random.choice(alive)
        if not hasattr(process, "exchange"):
            return False
        refuse = self.random.choice([0.0, 0.0, 0.0, 0.3])
        purchase = SimPurchase(self.loop, wish.agent, wish.shop, wish.path, refuse)
        purchase.idempotency_key = wish.key
        purchase.session = self.random.choice([None, "s1"])
        purchase.trace = self.random.choice([None, "t1"])
        wish.purchases.append(purchase)
        leaves = self.random.random() < 0.1
        work = self.loop.spawn(process.life, self._serve(process, purchase, leaves))
        gone = self.loop.create_task(process.gone.wait())
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            self.trace.tell("cut off", wish.path)
            return False
        return work.result()

    async def _serve(self, process: Process, purchase: SimPurchase, leaves: bool) -> bool:
        """What the data plane does with the reply, in short."""
        challenge = self.shops[0].challenge()
        for shop in self.shops:
            if shop.origin == purchase.origin:
                challenge = shop.challenge()
        if leaves:
            self.loop.call_later(self.random.uniform(0, 2), lambda: setattr(purchase, "gone", True))
        reply = await process.exchange.pay(purchase, challenge)  # type: ignore[arg-type]
        what = reply.code if isinstance(reply, Problem) else type(reply).__name__
        self.trace.tell("answer", purchase.path, what)
        if isinstance(reply, Paid):
            status = reply.answer.status
            reached = not purchase.gone
            if reply.keep is not None and (reply.keep.always or not reached):
                whole = Whole(status, b"OK", (), (), b"")
                await reply.keep.save(whole, reached)
            async with asyncio.timeout(60.0):
                await reply.finish(Delivery(status, "", 0, reached, None, 1, 1))
            # What was paid for and arrived is final, whatever its status.
            return reached and (b"Autopay-State", b"paid") in reply.headers
        return isinstance(reply, Replayed)

    # --- what else goes on

    async def _slots(self) -> None:
        faults = self.faults
        while True:
            await asyncio.sleep(self.slot_seconds)
            if self.calm:
                for _ in range(self.calm_slots):
                    self.chain.advance()
                continue
            if faults.forks and self.random.random() < faults.forks:
                depth = self.random.randint(1, 20)
                self.trace.tell("fork", depth)
                self.chain.fork(depth, again=self.random.random() < 0.7)
            self.chain.advance(skip=faults.skips, lazy=faults.lazy)

    async def _weather(self) -> None:
        """Outages, and nodes that fall behind."""
        faults = self.faults
        while not self.calm:
            await asyncio.sleep(self.random.expovariate(1 / 15.0))
            if self.calm:
                return
            match self.random.randrange(8):
                case 6 | 7:
                    faults.cut_off.clear()
                    if self.random.random() < 0.7:
                        faults.cut_off.add(self.random.choice(self.processes).life)
                case 0:
                    faults.database_away = not faults.database_away
                case 1:
                    faults.rpc_away = not faults.rpc_away
                case 2 | 3:
                    name = self.random.choice(["one", "two"])
                    faults.lags[name] = self.random.choice([0, 0, 3, 30])
                case _:
                    faults.database_away = faults.rpc_away = False

    async def _operator(self) -> None:
        """Limits, freezes, the switch, ceilings, midnight."""
        state = self.memory.state
        while not self.calm:
            await asyncio.sleep(self.random.expovariate(1 / self.restless))
            row = state.agents[str(self.random.choice(self.agents).id)]
            match self.random.randrange(7):
                case 0:
                    row.daily = self.random.choice([0, 30_000, 500_000])
                case 1:
                    row.frozen = not row.frozen
                case 2:
                    state.halted = not state.halted
                case 3:
                    state.day += 1
                case 4:
                    key = ("fleet_day", None, "*")
                    state.ceilings[key] = self.random.choice([0, 50_000, 900_000])
                case 5:
                    state.ceilings.clear()
                case _:
                    row.daily, row.frozen, state.halted = 500_000, False, False
            self.trace.tell("operator", state.day, state.halted, row)
            # Every process hears of it a little later.
            self.loop.call_later(self.random.uniform(0, 3), self._tell_policies)

    def _tell_policies(self) -> None:
        for agent in self.agents:
            row = self.memory.state.agents[str(agent.id)]
            self.policies[agent.id] = Policy(
                agent.name, row.frozen, row.per_call, row.daily, row.session, row.trace
            )

    async def _killer(self) -> None:
        while not self.calm:
            await asyncio.sleep(1.0)
            alive = [process for process in self.processes if process.life.alive]
            if alive and self.random.random() < self.faults.kills:
                victim = self.random.choice(alive).life
                self.loop.kill(victim)
                self._died(victim)

    def _died(self, life: Life) -> None:
        self.kills += 1
        self.trace.tell(life, "is killed")
        (process,) = (each for each in self.processes if each.life is life)
        self.locks = {account: led for account, led in self.locks.items() if led is not life}
        process.gone.set()
        self.loop.spawn(None, self._restart())

    async def _restart(self) -> None:
        await asyncio.sleep(self.random.choice([0.1, 3.0, 30.0]))
        await self._start()

    # --- what is seen of it

    def _statement(self, life: Life, kind: str, sql: str, args: Any, result: Any) -> None:
        if sql is lane._TICK:
            moves = json.loads(args[0])
            for move, row in zip(moves, result, strict=True):
                self.trace.tell(life, kind, move["move"], row["outcome"], row["failure"])
                if move["move"] == "reserve" and json.loads(row["outcome"] or "{}")["code"] == "ok":
                    self._granted(move["args"])
        elif sql.startswith("SELECT ") and "(" in sql:
            subject = args[0] if isinstance(args[0], UUID) else ""  # other ids are anybody's
            self.trace.tell(life, kind, sql[:40], subject, result)

    def _granted(self, args: dict[str, Any]) -> None:
        """A program asks for one thing after the other, and again only when it has its answer or
        was cut off. So if bytes of an open payment for the same have left, this is one too many."""
        with_shops = {tx.client_signature for shop in self.shops for tx in shop.seen}
        for key, other in self.memory.state.payments.items():
            if (
                key != args["payment_id"]
                and other.status in OPEN
                and other.args["agent_id"] == args["agent_id"]
                and other.args["request_key"] == args["request_key"]
                and other.args["client_signature"] in with_shops
            ):
                self.opened.append((args["payment_id"], key))

    # --- parts

    def _shop(self, random: Random, number: int) -> Shop:
        return Shop(
            f"shop{number}.example",
            PRICE * (number + 1),
            self.chain,
            random,
            self.trace.tell,
            memo=random.choice([None, None, "one memo for all"]),
            identifier=random.random() < 0.5,
            edge=self.sharp or random.random() < 0.3,
        )

    def _uuid(self) -> UUID:
        return UUID(int=self.naming.getrandbits(128))

    def _bury_rest(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop._ready.clear()  # type: ignore[attr-defined]
        self.loop._scheduled.clear()  # type: ignore[attr-defined]
        self.loop.close()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The product's code, with this world around it."""

        def clock() -> float:
            return self.loop.now

        def rpc(url: str, **_: object) -> SimRpc:
            return SimRpc(self.chain, self.faults, url)

        time = SimpleNamespace(monotonic=clock, perf_counter=clock)
        wall = SimpleNamespace(time_ns=lambda: int(self.naming.gauss(1.8e18, 1e14)))
        secret = SimpleNamespace(
            randbits=self.naming.getrandbits,
            token_hex=lambda count: self.naming.randbytes(count).hex(),
        )
        level = logging.root.manager.disable
        with ExitStack() as stack:
            for module, name, value in (
                (agreement_module, "time", time),
                (exchange_module, "time", time),
                (ledger_module, "time", time),
                (reconciler_module, "time", time),
                (ids, "time", wall),
                (ids, "secrets", secret),
                (message, "secrets", secret),
                (chain_module, "Rpc", rpc),
                (reconciler_module, "Rpc", rpc),
                (reconciler_module, "Leadership", lambda _: _Leadership(self)),
                (entries, "INSTANCE", Here(self._here)),
                (again, "INSTANCE", Here(self._here)),
            ):
                stack.enter_context(patch.object(module, name, value))
            for function in (blockhash.Blockhashes.__init__, accounts.TokenAccounts.__init__):
                stack.enter_context(patch.dict(function.__kwdefaults__, {"clock": clock}))
            logging.disable(logging.CRITICAL)
            stack.callback(logging.disable, level)
            yield


class _Leadership:
    """An advisory lock, which ends with its process, or with a connection that breaks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.term = 1

    async def lead(self, account: Account) -> bool:
        await asyncio.sleep(0.001)
        life, faults = LIFE.get(), self._world.faults
        assert life is not None
        if faults.statement(life) != "ok":
            self.close()
            raise LedgerUnavailable("the connection is gone", may_have_happened=False)
        return self._world.locks.setdefault(account, life) is life

    async def leave(self, account: Account) -> None:
        if self._world.locks.get(account) is LIFE.get():
            del self._world.locks[account]

    def close(self) -> None:
        self.term += 1
        life, locks = LIFE.get(), self._world.locks
        self._world.locks = {account: led for account, led in locks.items() if led is not life}


class _Cipher:
    """No secret is kept here."""

    async def seal_for(self, _agent: UUID, text: str) -> bytes:
        return text.encode()

    async def seal_bytes_for(self, _agent: UUID, plain: bytes) -> bytes:
        return plain

    async def open_bytes_for(self, _agent: UUID, sealed: bytes) -> bytes:
        return sealed


def _day_name(day: int) -> str:
    """A date, since the ledger reads it as one."""
    return f"2030-01-{day + 1:02d}"
