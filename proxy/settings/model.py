"""Every setting, its default and its unit. `default.py` explains them to people."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from policies import Policy
from proxy import intents, paths
from proxy.expectation import MAX_BYTES, MOST_BYTES, Expectation
from proxy.settings.problems import explained
from proxy.settings.sources import read_sources
from proxy.settings.values import (
    Address,
    Bypass,
    ByteCount,
    Bytes,
    ContentType,
    Count,
    CountOrZero,
    DatabaseUrl,
    ExistingFile,
    FieldPaths,
    HostPattern,
    Hours,
    Listener,
    Location,
    LogLevel,
    MaybeListener,
    MaybeLocation,
    MicroUsd,
    ProviderName,
    Rate,
    RoleName,
    RpcUrl,
    RpcUrls,
    SchemaText,
    Seconds,
    Share,
    Statuses,
    Tries,
    Upstream,
    UpstreamProxy,
    WalletName,
)

NetworkAlias = Literal["devnet", "testnet", "mainnet"]
NETWORK_IDS: dict[NetworkAlias, str] = {  # alias → CAIP-2 id
    "devnet": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
    "testnet": "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
    "mainnet": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Listen(Section):
    proxy: Listener = Address("127.0.0.1", 8402)
    mounts: Listener = Address("127.0.0.1", 8403)
    admin: MaybeListener = Address("127.0.0.1", 8404)


class Admin(Section):
    open_metrics: bool = False
    hosts: tuple[HostPattern, ...] = ()


class Wallet(Section):
    """`low_balance`: under it, an event; `check_seconds`: between two looks at the balance."""

    path: Location | None = None
    low_balance: MicroUsd = 1_000_000
    check_seconds: Seconds = 60


class NamedWallet(Section):
    """One that pays where policy names it. Without `low_balance`, that of `[wallet]` holds."""

    path: Location | None = None
    low_balance: MicroUsd | None = None


class Network(Section):
    """`verify_rpc_urls` give second opinions, so each is another host than all the others."""

    rpc_url: RpcUrl = Field(repr=False)
    verify_rpc_urls: RpcUrls = Field(default=(), repr=False)

    @field_validator("verify_rpc_urls")
    @classmethod
    def _independent(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        hosts = [urlsplit(url).netloc.rpartition("@")[2].lower() for url in urls]
        first = urlsplit(str(info.data.get("rpc_url", ""))).netloc.rpartition("@")[2].lower()
        if len({first, *hosts}) <= len(hosts):
            raise ValueError("must each name another host than rpc_url, and than one another")
        return urls


class Reconciler(Section):
    """`interval`: seconds between two looks at the chain, while there is something to look for."""

    enabled: bool = True
    interval: Seconds = 2


class Expect(Section):
    """What an answer must be to be what was paid for; see `Expectation`. `schema` as JSON text."""

    content_type: ContentType | None = None
    json_schema: SchemaText | None = Field(default=None, alias="schema")
    min_bytes: ByteCount = 0
    fields: FieldPaths = ()
    max_seconds: Seconds | None = None
    max_bytes: Annotated[Bytes, Field(le=MOST_BYTES)] = MAX_BYTES

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_bytes > self.max_bytes:
            raise ValueError("has a min_bytes above its max_bytes: so much is never looked at")
        return self

    @property
    def expectation(self) -> Expectation | None:
        """None: whatever it answers is what was paid for, if it is whole and no error."""
        asked = Expectation.of(self.model_dump(by_alias=True))
        return None if asked == Expectation(max_bytes=asked.max_bytes) else asked


class ProviderRetries(Section):
    """What is None is as in `[retries]`."""

    attempts: Tries | None = None
    backoff: Seconds | None = None
    jitter: Share | None = None
    total: Seconds | None = None
    statuses: Statuses | None = None
    budget: Share | None = None
    budget_floor: CountOrZero | None = None


class OwnBreaker(Section):
    """One provider's. What is not given is as in `[breaker]`."""

    enabled: bool | None = None
    failures: Count | None = None
    failure_rate: Rate | None = None
    window_seconds: Seconds | None = None
    min_calls: Count | None = None
    open_seconds: Annotated[Seconds, Field(le=86_400)] | None = None
    successes: Count | None = None


class ProviderCache(Section):
    """What is kept of its paid answers (`proxy.cache.Terms`), and for whom: `shared`, or else for
    the agent that paid. Seconds."""

    enabled: bool = False
    shared: bool = False
    fresh_seconds: CountOrZero = 0
    max_seconds: Annotated[Count, Field(le=31_536_000)] = 86_400
    max_bytes: Annotated[Bytes, Field(le=16_777_216)] = 1_048_576
    methods: tuple[Literal["GET", "HEAD"], ...] = ("GET", "HEAD")


class Provider(Section):
    upstream: Upstream
    memo: bool = True
    store_data: bool = False
    store_request: bool = False
    # An exchange that is looked at is in memory until it is written.
    data_bytes: Annotated[Bytes, Field(le=4_194_304)] = 65_536
    breaker: OwnBreaker = OwnBreaker()
    expect: Expect = Expect()
    retries: ProviderRetries = ProviderRetries()
    cache: ProviderCache = ProviderCache()


class Candidate(Section):
    """One who may be asked for what an intent wants; see `proxy.intents`."""

    id: str | None = None
    url: str = Field(repr=False)
    method: str | None = None
    body: str | None = None
    headers: dict[str, str] = Field(default={}, repr=False)
    max_price: MicroUsd | None = None
    expect: Expect = Expect()


class Intent(Section):
    """`total`: what all attempts together may cost; `seconds` for each of them; `policy`: rules as
    in a policy file, asked beside the agent's."""

    candidates: tuple[Candidate, ...]
    max_attempts: Count = 3
    total: MicroUsd = 100_000
    seconds: Annotated[Seconds, Field(le=600)] = 30
    require_https: bool = False
    policy: dict[str, Any] = {}

    def named(self, name: str) -> intents.Intent:
        """Raises IntentError, which is a ValueError."""
        given = self.model_dump() | {
            "candidates": [
                one.model_dump() | {"expect": one.expect.expectation} for one in self.candidates
            ]
        }
        return intents.intent_of(name, given, trusted=True)


class Limits(Section):
    """Bytes, but for `connections`: how many clients may be connected at once, tunnels included."""

    header_bytes: Bytes = 65_536
    challenge_bytes: Bytes = 65_536
    replay_memory_bytes: Bytes = 1_048_576
    replay_disk_bytes: Bytes = 104_857_600
    connections: Count = 1000


class Timeouts(Section):
    """Seconds. `response` runs to the first byte; `idle` between bytes, so streams may last."""

    connect: Seconds = 10
    response: Seconds = 300
    paid_response: Seconds = 120
    idle: Seconds = 600
    client_header: Seconds = 30
    receipt_wait: Seconds = 2


class Retries(Section):
    """Of what can be asked again without harm. `backoff` and `total` in seconds; `jitter` is a
    share of the former, `budget` one of the requests to a provider; see `RetryRules`."""

    attempts: Tries = 3
    backoff: Seconds = 1
    jitter: Share = 0.2
    total: Seconds = 30
    statuses: Statuses = ()
    budget: Share = 0.2
    budget_floor: CountOrZero = 10

    def of(self, provider: "ProviderRetries") -> "Retries":
        """What holds for a provider that says so much itself."""
        return self.model_copy(update=provider.model_dump(exclude_none=True))


class Paid(Section):
    """What is done for a request that was paid for and whose answer did not arrive. Of a program
    that has gone, `keep_bytes` of the answer's body, read for `keep_seconds` at most and kept for
    as long; `keep_answers` of one agent. `idempotency_seconds`: for how long a key stands for its
    request; `wait`: for the answer to the same request that is under way."""

    keep_bytes: Annotated[Bytes, Field(le=16_777_216)] = 1_048_576
    keep_seconds: Seconds = 600
    keep_answers: Count = 1000
    idempotency_seconds: Annotated[Seconds, Field(le=31_536_000)] = 86_400
    wait: Seconds = 30


class Cache(Section):
    """All that is cached in this process: bytes, and how many answers. `wait`: seconds that a
    request waits for the same one that is under way."""

    memory_bytes: Bytes = 67_108_864
    answers: Count = 10_000
    wait: Seconds = 30


class Breaker(Section):
    """When a provider is left alone; see `BreakerRules`."""

    enabled: bool = True
    failures: Count = 3
    failure_rate: Rate = 0.5
    window_seconds: Seconds = 60
    min_calls: Count = 20
    open_seconds: Annotated[Seconds, Field(le=86_400)] = 180
    successes: Count = 2

    def of(self, provider: OwnBreaker) -> "Breaker":
        """What holds for a provider that says so much itself."""
        return self.model_copy(update=provider.model_dump(exclude_none=True))


class Score(Section):
    """How providers are judged; see `proxy.providers.score` and `proxy.providers.scores.Terms`."""

    success: Share = 0.35
    schema_share: Share = Field(default=0.15, alias="schema")
    quality: Share = 0.20
    latency: Share = 0.15
    price: Share = 0.15
    tripped: Share = 1
    paid_failure: Annotated[Seconds, Field(ge=1, le=1000)] = 4
    worst_latency: Seconds = 6
    worst_price: Annotated[MicroUsd, Field(gt=0)] = 1_000_000
    half_life_hours: Hours = 168
    half_life_calls: Annotated[Count, Field(le=1_000_000)] = 50
    endpoints: Annotated[Count, Field(le=10_000)] = 100

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.success + self.schema_share + self.quality + self.latency + self.price
        if abs(total - 1) > 1e-6:
            raise ValueError(
                "has success, schema, quality, latency and price that add up to"
                f" {total:g}: they must add up to 1"
            )
        return self


class PolicyDefaults(Section):
    """What a new agent may spend, in micro-USD. Given as USD: text, whole number or decimal."""

    per_call: MicroUsd = 50_000
    daily: MicroUsd = 1_000_000
    session: MicroUsd = 1_000_000
    trace: MicroUsd = 1_000_000

    def of(self, agent: str) -> Policy:
        """The policy of a new agent of this name."""
        return Policy(
            agent,
            per_call_limit=self.per_call,
            daily_limit=self.daily,
            session_limit=self.session,
            trace_limit=self.trace,
        )


class Tls(Section):
    ca_file: ExistingFile | None = None


class Intercept(Section):
    """Which tunnels are looked into. Hosts: exact, or `*.example.com` for those below it."""

    default: Literal["intercept", "tunnel"] = "intercept"
    tunnel: tuple[HostPattern, ...] = ()
    intercept: tuple[HostPattern, ...] = ()
    on_reject: Literal["tunnel", "refuse"] = "tunnel"
    reject_seconds: Seconds = 3600


class Secrets(Section):
    """The key that tokens are sealed with: `key` goes before `key_command`, that before the file.
    Several may be given, the current one first; the others only open."""

    key: str = Field(default="", repr=False)
    key_command: str = ""
    key_command_seconds: Seconds = 10
    key_file: Location | None = None


class Postgres(Section):
    """The embedded server. `user`: whom root drops to; "" is autopay, postgres or nobody."""

    user: str = ""


class DatabaseUse(Section):
    """How the database is used. `role`: what the proxy acts as; "" is the login itself."""

    owner_url: DatabaseUrl = Field(default="", repr=False)
    role: RoleName = "autopay_writer"
    allow_plaintext: bool = False
    # Logs are kept by the month: less than a whole one cannot be.
    retention_days: Count = Field(default=90, ge=31)


class Audit(Section):
    """The books checked by the running proxy. `halt`: what it finds ends all spending."""

    every_seconds: Seconds = 300
    halt: bool = True


class Backup(Section):
    """What the running proxy copies of the database; nothing without `dir`."""

    dir: MaybeLocation = None
    every_hours: Hours = 24
    keep: Count = 7


class Settings(Section):
    """Everything that can be set; the defaults are what no file at all means."""

    database_url: DatabaseUrl = Field("", repr=False)
    data_dir: Location = Field(default_factory=paths.data_dir)
    log_level: LogLevel = "info"
    upstream_proxy: UpstreamProxy = Field("", repr=False)
    no_upstream_proxy: Bypass = ()
    listen: Listen = Listen()
    audit: Audit = Audit()
    admin: Admin = Admin()
    wallet: Wallet = Wallet()
    wallets: dict[WalletName, NamedWallet] = {}
    networks: dict[NetworkAlias, Network] = {
        "devnet": Network(rpc_url="https://api.devnet.solana.com")
    }
    reconciler: Reconciler = Reconciler()
    providers: dict[ProviderName, Provider] = {}
    intents: dict[ProviderName, Intent] = {}
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    paid: Paid = Paid()
    breaker: Breaker = Breaker()
    score: Score = Score()
    cache: Cache = Cache()
    policy: PolicyDefaults = PolicyDefaults()
    tls: Tls = Tls()
    intercept: Intercept = Intercept()
    postgres: Postgres = Postgres()
    secrets: Secrets = Secrets()
    database: DatabaseUse = DatabaseUse()
    backup: Backup = Backup()

    @field_validator("intents")
    @classmethod
    def _readable(cls, given: dict[str, Intent]) -> dict[str, Intent]:
        for name, intent in given.items():
            intent.named(name)
        return given

    @property
    def wallet_path(self) -> Path:
        return self.wallet.path or self.data_dir / "wallet.json"

    @property
    def rpc_urls(self) -> dict[str, str]:
        """CAIP-2 id → RPC URL of every configured network."""
        return {NETWORK_IDS[alias]: network.rpc_url for alias, network in self.networks.items()}

    @classmethod
    def load(cls, path: Path | None = None, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of `path`, or of the file that `paths.settings_file` finds, or of none;
        `AUTOPAY_SECTION__KEY` in `environ` overrides `key` of `[section]`.

        Raises SettingsError with one line for each bad setting.
        """
        sources = read_sources(paths.settings_file(path), environ)
        try:
            return cls.model_validate(sources.values)
        except ValidationError as error:
            raise explained(error, cls, sources) from None
