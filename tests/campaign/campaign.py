"""One campaign, top to bottom: build the house, let programs buy, break everything, heal it, judge.

Real processes, a real PostgreSQL, the local chain. Every choice is made by the seed; when things
happen is the machine's affair, so a seed brings back a kind of trouble, not its very moment.
"""

import asyncio
import contextlib
import json
import logging
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from aiohttp import web
from solders.keypair import Keypair

from policies import Policy
from proxy.chains.solana import Wallet
from proxy.ledger import Database, LedgerError, LedgerUnavailable, agents
from proxy.ledger.ceilings import set_ceiling
from proxy.localnet import USDC_DEVNET, Localnet
from proxy.localnet.blocks import MAX_AGE
from proxy.localnet.faults import Fault
from proxy.localnet.params import RpcError
from proxy.localnet.rpc import RpcNode
from proxy.localnet.tokens import TOKEN, ata
from proxy.vault import FileKeys, Vault
from tests.campaign.database import Relay, Server, trouble
from tests.campaign.judge import WATCH, Landings, Verdict, judge
from tests.campaign.market import Market
from tests.campaign.programs import Buyer, Programs
from tests.campaign.replicas import Replica

ROOT = Path(__file__).parents[2]
FUNDS = 10**12
KEYED = 0.5  # of the requests come under an Idempotency-Key
SLOT_SECONDS = 0.025
LIFE_SECONDS = (MAX_AGE + 1) * SLOT_SECONDS
LOOPBACK = ("127.0.0.0/8",)

# Of one season, micro-USD. Each kind of limit is the one that binds for somebody.
AGENTS = 3
SEASON_SECONDS = 12.0
PATIENCE = 120.0
DAILY, SESSION, TRACE = 60_000, 28_000, 22_000
PROVIDER, FLEET = 90_000, 150_000

_OPEN = """
SELECT EXISTS (SELECT 1 FROM payments WHERE status IN ('INITIATED', 'SIGNED', 'CONFIRMED'))
"""


@dataclass(slots=True)
class Report:
    """What was done, and what came of it."""

    seed: int
    seconds: float
    verdict: Verdict
    kills: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    behaved: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Ends of processes that nobody ordered, and complaints in their logs."""
    healing: float = 0.0

    @property
    def good(self) -> bool:
        return self.verdict.kept and not self.faults

    def __str__(self) -> str:
        v = self.verdict
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s of trouble, healed in {self.healing:.0f} s",
            f"  trouble    {_listed(self.kills)}",
            f"  providers  {_listed(self.behaved)}",
            f"  programs   {_listed(self.heard)}",
            f"  landed {v.landed}, recovered by the reconciler {v.recovered},"
            f" rightly taken back {v.taken_back}",
            "  promises   " + ", ".join(f"{what} {count}" for what, count in v.promises.items()),
            f"  books      unproved {v.unproved}, phantoms {v.phantoms}, difference"
            f" {v.difference}, findings {v.findings}",
        ]
        lines += [f"  ! {line}" for line in [*v.details[:20], *self.faults[:20]]]
        if not self.good:
            lines.append(f"  again: python -m bench.endure --seed {self.seed}")
        return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in counts.most_common())


@dataclass(slots=True)
class Site:
    """The house while it is being broken."""

    dsn: str
    """Straight to the database; the replicas' way is the relay."""
    vault: Vault
    server: Server
    relay: Relay
    net: Localnet
    second: RpcNode
    market: Market
    programs: Programs
    replicas: list[Replica]
    landings: Landings
    rng: random.Random
    limits: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Database]:
        """As the database's owner."""
        database = await Database.open(self.dsn)
        try:
            yield database
        finally:
            await database.close()

    async def next_season(self) -> None:
        """New agents, and more for everybody: what is spent stays spent. The operator is patient:
        while everything is being broken, the database may well be away for a while."""
        end = time.monotonic() + PATIENCE
        while True:
            season, self.programs.season = self.programs.season, self.programs.season + 1
            try:
                buyers = await self._buyers(season)
                break
            except LedgerUnavailable:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(1)
        self.programs.buyers[:] = buyers
        raised = {f"provider/{each}": PROVIDER for each in self.market.providers} | {"fleet": FLEET}
        for scope, more in raised.items():
            self.limits[scope] = self.limits.get(scope, 0) + more
        while True:
            try:
                await self._raise_ceilings()
                return
            except LedgerUnavailable:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(1)

    async def _buyers(self, season: int) -> list[Buyer]:
        buyers = []
        async with self.operator() as operator:
            for index in range(AGENTS):
                name = f"a{season}-{index}"
                policy = Policy(
                    name,
                    daily_limit=DAILY,
                    session_limit=SESSION,
                    trace_limit=TRACE,
                    allowed_targets=LOOPBACK,
                )
                new = await agents.add(operator, self.vault, name, policy)
                self.limits[f"agent/{name}"] = DAILY
                self.limits |= {f"session/{name}-s{each}": SESSION for each in range(3)}
                self.limits |= {f"trace/{name}-t{each}": TRACE for each in range(4)}
                buyers.append(Buyer(name, new.token))
        return buyers

    async def _raise_ceilings(self) -> None:
        async with self.operator() as operator:
            for provider in self.market.providers:
                limit = self.limits[f"provider/{provider}"]
                await set_ceiling(operator, "provider_day", provider, limit)
            await set_ceiling(operator, "fleet_day", "*", self.limits["fleet"])

    # --- what is broken

    async def break_something(self) -> None:
        kinds: list[tuple[int, str, Callable[[], Awaitable[bool]]]] = [
            (30, "kill -9", self._kill),
            (4, "asleep past expiry", self._sleep),
            (6, "database killed", self._kill_server),
            (4, "database stopped at once", self._stop_server),
            *((5, f"wire {kind}", self._wire(kind)) for kind in
              ("cut", "cut_after", "deafen", "stall")),
            (6, "RPC down", self._rpc_down),
            (6, "second RPC lies", self._second_lies),
            (5, "index forgets", self._index_forgets),
            (4, "frozen and thawed", self._freeze),
        ]  # fmt: skip
        weights = [weight for weight, _, _ in kinds]
        _, name, strike = self.rng.choices(kinds, weights)[0]
        if await strike():
            self.kills[name] += 1

    async def _kill(self) -> bool:
        up = [replica for replica in self.replicas if replica.up]
        return bool(up) and self.rng.choice(up).kill("kill -9") and False  # it counts by itself

    async def _sleep(self) -> bool:
        return await self.rng.choice(self.replicas).sleep(LIFE_SECONDS * 1.2)

    async def _kill_server(self) -> bool:
        await self.server.kill()
        return True

    async def _stop_server(self) -> bool:
        await self.server.stop_at_once()
        return True

    def _wire(self, kind: str) -> Callable[[], Awaitable[bool]]:
        async def strike() -> bool:
            await trouble(self.relay, kind, self.rng)
            return True

        return strike

    async def _rpc_down(self) -> bool:
        faults = self.net.node.faults
        kind = self.rng.choice(
            [
                Fault("*", status=503),
                Fault("*", status=429),
                Fault("*", delay=0.5),
                Fault("getSignaturesForAddress", error=RpcError(-32004, "not available")),
                Fault("*", status=500, after=True),
            ]
        )
        faults.add(kind)
        await asyncio.sleep(self.rng.uniform(0.2, 1.0))
        faults.clear()
        return True

    async def _second_lies(self) -> bool:
        """It knows of no payment at all; or of every other one."""
        lies = self.second.faults.lies
        if self.rng.random() < 0.5:
            lies["getSignaturesForAddress"] = lambda found: []
        else:
            lies["getSignaturesForAddress"] = lambda found: found[::2]
        lies["getSignatureStatuses"] = lambda found: found | {"value": [None] * len(found["value"])}
        await asyncio.sleep(self.rng.uniform(0.5, 2.0))
        self.second.faults.clear()
        return True

    async def _index_forgets(self) -> bool:
        """Every node's index leaves out what landed lately, and finds it again."""
        chain = self.net.chain
        before = chain.index_lag
        chain.index_lag = self.rng.randrange(10, 200)
        await asyncio.sleep(self.rng.uniform(0.5, 2.0))
        chain.index_lag = before
        return True

    async def _freeze(self) -> bool:
        name = self.rng.choice(self.programs.buyers).name
        with contextlib.suppress(LedgerError):
            async with self.operator() as operator:
                try:
                    await agents.set_frozen(operator, name, True)
                    await asyncio.sleep(0.2)
                finally:
                    await agents.set_frozen(operator, name, False)
        return True

    # --- and healed

    async def heal(self, patience: float) -> None:
        """One survivor, and blocks as fast as it reads them, until nothing is open."""
        await asyncio.gather(*(replica.end() for replica in self.replicas))
        self.relay.mend()
        self.net.node.faults.clear()
        self.second.faults.clear()
        self.net.chain.index_lag = 0
        survivor = self.replicas[0]
        survivor.start(crashes=False)
        await survivor.ready()
        end = time.monotonic() + patience
        async with self.operator() as operator:
            while time.monotonic() < end and await operator.fetchval(_OPEN):
                self.net.chain.advance(8)
                self.landings.collect()
                await asyncio.sleep(0.1)
        await survivor.end()

    # --- and judged

    async def judged(self) -> Verdict:
        self.landings.collect()
        left = FUNDS - self.landings.balance()
        async with self.operator() as operator:
            return await judge(
                operator, self.landings, left, self.market.presented, self.programs, self.limits
            )

    async def complaints(self) -> list[str]:
        async with self.operator() as operator:
            halted = await operator.fetchval("SELECT reason FROM spending WHERE halted")
        found = [f"spending was halted: {halted}"] if halted else []
        return [*found, *(line for replica in self.replicas for line in _faults(replica))]


async def campaign(
    seed: int,
    seconds: float,
    *,
    replicas: int = 2,
    programs: int = 10,
    keyed: float = KEYED,
    calm: bool = False,
    tree: Path = ROOT,
    server: Server | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """One seed. `calm`: only the providers misbehave. `tree`: where the replicas' code is. `say` is
    told how it goes, once a minute."""
    async with built(seed, replicas=replicas, keyed=keyed, tree=tree, server=server) as site:
        await site.next_season()
        for replica in site.replicas:
            replica.start(crashes=not calm)
        await asyncio.gather(*(replica.ready() for replica in site.replicas))
        buying = asyncio.create_task(site.programs.run(programs))
        try:
            await _trouble(site, seconds, calm, say)
        finally:
            buying.cancel()
            await asyncio.gather(buying, return_exceptions=True)
        began = time.monotonic()
        await site.heal(patience=30 + seconds / 20)
        return Report(
            seed,
            seconds,
            await site.judged(),
            kills=sum((replica.kills for replica in site.replicas), site.kills),
            heard=site.programs.heard,
            behaved=site.market.behaved,
            faults=await site.complaints(),
            healing=time.monotonic() - began,
        )


@asynccontextmanager
async def built(
    seed: int,
    *,
    replicas: int = 1,
    keyed: float = KEYED,
    tree: Path = ROOT,
    server: Server | None = None,
    envs: Sequence[Mapping[str, str]] = (),
) -> AsyncIterator[Site]:
    """The house, with its replicas not started. `envs`: more for each of them."""
    rng = random.Random(seed)
    logging.getLogger("aiohttp.access").setLevel(logging.ERROR)
    async with AsyncExitStack() as stack:
        if server is None:
            server = await stack.enter_async_context(Server())
        dsn = await server.database()
        watching = await Database.open(dsn)
        await watching.execute(WATCH)
        await watching.close()
        net = await stack.enter_async_context(Localnet(slot_seconds=SLOT_SECONDS))
        net.chain.blocks.set_lag(1, 12)
        wallet = Keypair()
        net.fund(wallet.pubkey(), usdc=FUNDS)
        net.chain.advance(40)
        second, second_url = await stack.enter_async_context(_another_node(net))
        relay = await stack.enter_async_context(Relay(dsn))
        data = Path(tempfile.mkdtemp(prefix="autopay-campaign-data-"))
        stack.callback(shutil.rmtree, data)
        Wallet.from_text(json.dumps(list(bytes(wallet)))).save(data / "wallet.json")
        market = Market(net, rng)
        for _ in range(2):
            await market.open()
        stack.push_async_callback(market.close)
        rpcs = [net.rpc_url, second_url]
        fleet = [
            Replica(number, data, relay.dsn, rpcs, rng, tree, env)
            for number, env in enumerate(envs or [{}] * replicas)
        ]
        site = Site(
            dsn=dsn,
            vault=Vault(FileKeys(data / "secret.key")),
            server=server,
            relay=relay,
            net=net,
            second=second,
            market=market,
            programs=Programs(market, fleet, rng, keyed),
            replicas=fleet,
            landings=Landings(net.chain, ata(wallet.pubkey(), USDC_DEVNET, TOKEN)),
            rng=rng,
        )
        try:
            yield site
        finally:
            await asyncio.gather(*(replica.end() for replica in fleet))


async def _trouble(site: Site, seconds: float, calm: bool, say: Callable[[str], None]) -> None:
    end = time.monotonic() + seconds
    season = time.monotonic() + SEASON_SECONDS
    minute = time.monotonic() + 60
    while (now := time.monotonic()) < end:
        await asyncio.sleep(min(site.rng.uniform(0.1, 1.0), max(0.0, end - now)))
        site.landings.collect()
        if not calm:
            await site.break_something()
        if now > season:
            await site.next_season()
            season = now + SEASON_SECONDS
        if now > minute:
            say(f"{end - now:.0f} s left: {len(site.landings.amounts)} landed")
            minute = now + 60


def _faults(replica: Replica) -> list[str]:
    """What it should never have said: what is no outage but a mistake of ours. Once each."""
    said = replica.log.read_text(errors="replace").splitlines()
    wrong = [line for line in said if "was refused" in line]
    for number, line in enumerate(said):
        if line.startswith("Traceback"):
            frames = list(takewhile(lambda later: later.startswith(" "), said[number + 1 :]))
            ours = [frame.strip() for frame in frames if "/proxy/" in frame]
            ends = said[number + 1 + len(frames) :]
            wrong.append(f"{said[number - 1][:120]} … {ends[0] if ends else ''} {ours[-1:]}")
    unstamped = dict.fromkeys(line.partition("Z ")[2] or line for line in wrong)
    return [*replica.faults, *(f"{replica.name}: {line[:500]}" for line in unstamped)]


@asynccontextmanager
async def _another_node(net: Localnet) -> AsyncIterator[tuple[RpcNode, str]]:
    """A second RPC of the same chain, with troubles and lies of its own."""
    node = RpcNode(net.chain, slot_seconds=None)
    runner = web.AppRunner(node.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield node, f"http://{host}:{port}"
    await runner.cleanup()
