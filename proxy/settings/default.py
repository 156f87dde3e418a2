"""The settings file that `autopay init` writes: every setting, with its default, explained."""


def default_toml() -> str:
    """The text of a new autopay.toml. Every line is a comment: to set something, uncomment it."""
    return _TEXT


_TEXT = """\
# autopay's settings. What is commented out is the default.
# AUTOPAY_SECTION__KEY in the environment overrides any of it, for example
# AUTOPAY_LISTEN__PROXY=127.0.0.1:9000; DATABASE_URL sets database_url.

# Empty: an embedded PostgreSQL in the data directory, on a private unix socket.
#database_url = ""

# Wallet, database, logs. Default: by the platform's convention, private to you.
#data_dir = "~/.local/share/autopay"

# debug, info, warning or error
#log_level = "info"

# The proxy between this machine and the providers, like "http://user:password@proxy.example:3128".
# It looks names up itself: whether an agent may go to a host is judged by the host as written.
#upstream_proxy = ""
# Reached without it, like ["*.internal", "10.0.0.0/8", "api.example.com"]. This machine always is.
#no_upstream_proxy = []

[listen]
# Programs reach the proxy here: HTTP_PROXY=http://agent:token@127.0.0.1:8402
#proxy = "127.0.0.1:8402"
# Providers below are served here as http://127.0.0.1:8403/NAME/...
#mounts = "127.0.0.1:8403"
# The operator's API and metrics, for those with a key (`autopay key`); or "off".
#admin = "127.0.0.1:8404"

[admin]
# Let anyone who reaches that listener read /metrics, without a key.
#open_metrics = false
# Names that it may be asked for by, besides addresses and localhost, like ["autopay.internal"].
#hosts = []

[wallet]
# Default: wallet.json in the data directory.
#path = "~/wallet.json"
# Under so many USD in the wallet there is a warning and an event; seconds between two looks.
#low_balance = "1.00"
#check_seconds = 60
# More wallets, each with a key of its own: policies name which of them pays (wallet = "research");
# where they name none, the one above does. Default: wallet-NAME.json in the data directory.
#[wallets.research]
#path = "~/research.json"
# Default: low_balance above.
#low_balance = "1.00"

# Networks that may be paid on. Naming one replaces the default, which is devnet alone.
#[networks.devnet]
#rpc_url = "https://api.devnet.solana.com"
# Other hosts' RPCs for second opinions, like ["https://rpc.example"]. With one at least, what did
# not land is freed after one look by each; with none, after two looks 150 blocks apart.
#verify_rpc_urls = []
# Real money:
#[networks.mainnet]
#rpc_url = "https://api.mainnet-beta.solana.com"

# An API reached by its own base URL, for programs that cannot use a proxy.
#[providers.weather]
#upstream = "https://api.example/v1"
# false for a facilitator that refuses transactions with a memo
#memo = true
# true: keep what was paid for, and the bodies of those requests, in the database; so much of each
#store_data = false
#store_request = false
#data_bytes = "64KiB"
# How it is left alone when it fails: as under [breaker] below, but for what is set here.
#[providers.weather.breaker]
#failures = 10
#open_seconds = 30
# What a paid answer must be; else the money counts as lost (docs/providers.md). schema: a JSON
# Schema, as text or as a file's path; fields lead to what is not null; max_seconds: to the last
# byte. More than max_bytes of a body is not looked at.
#[providers.weather.expect]
#content_type = "application/json"
#schema = "~/weather.schema.json"
#fields = ["data.price"]
#min_bytes = 2
#max_seconds = 30
#max_bytes = "1MiB"

# Keeps what was paid for in memory, and serves it again while it is fresh (docs/cache.md): true.
# shared: to every agent that might buy it, not only to the one that did. fresh_seconds: how long an
# answer is fresh that does not say so itself; max_seconds: the most for any.
#[providers.weather.cache]
#enabled = false
#shared = false
#fresh_seconds = 0
#max_seconds = 86400
#max_bytes = "1MiB"
#methods = ["GET", "HEAD"]

# Other retries than in [retries], for this provider; any of its keys.
#[providers.weather.retries]
#statuses = [503]

# What an agent may want, and who has it: http://quote.intent.autopay/... asks the best of them that
# policy allows, then the next (docs/procurement.md). total: what all attempts together may cost, in
# USD; seconds: for each attempt. A candidate may have id, method, body, headers, max_price, expect.
#[intents.quote]
#max_attempts = 3
#total = "0.10"
#seconds = 30
#require_https = false
#policy = { allowed_networks = ["solana-devnet"] }
#[[intents.quote.candidates]]
#url = "https://one.example/v1/quote"
#max_price = "0.01"
#[[intents.quote.candidates]]
#url = "https://two.example/quotes"
#expect = { content_type = "application/json" }

# Finds out from the chain what became of payments whose answer was lost (docs/reliability.md).
# One process at a time does it; interval: seconds between its looks.
[reconciler]
#enabled = true
#interval = 2

# The books are checked so often, budgets against payments against receipts (autopay audit). What
# is found is an alarm, and with halt nothing is paid any more until: autopay resume
[audit]
#every_seconds = 300
#halt = true

# What a new agent may spend, in USD.
[policy]
#per_call = "0.05"
#daily = "1.00"
#session = "1.00"
#trace = "1.00"

# A provider that fails this often in a row is left alone for so many seconds; or that fails in this
# share of the calls of so many seconds, if they were min_calls (1: only if all of them fail). Then
# it is tried by one call at a time, of all proxies on one database, until so many went well.
[breaker]
#enabled = true
#failures = 3
#failure_rate = 0.5
#window_seconds = 60
#min_calls = 20
#open_seconds = 180
#successes = 2

# How good each provider and endpoint is, 0 to 1 (docs/providers.md; autopay providers). Five
# shares, which must add up to 1; tripped is taken off while the breaker is not closed.
[score]
#success = 0.35
#schema = 0.15
#quality = 0.20
#latency = 0.15
#price = 0.15
#tripped = 1.0
# So many failures is one worth that took money.
#paid_failure = 4
# Seconds and USD that are worth nothing; the latter where nobody knows what others ask.
#worst_latency = 6
#worst_price = "1.00"
# Half of what was known is forgotten after so long, and after so many calls.
#half_life_hours = 168
#half_life_calls = 50
# So many endpoints of one provider have a score of their own.
#endpoints = 100

# What did no harm is tried again (docs/providers.md): a request of which no byte has left, and one
# without a payment that may be repeated and got no answer. So often (at most 3, 0: never), after so
# many seconds, then twice, four times that, each give or take the share jitter; none later than
# total seconds after the request began.
[retries]
#attempts = 3
#backoff = 1
#jitter = 0.2
#total = 30
# Answers that are asked for again, of 429, 500, 502, 503, 504; none, as a program may want them.
#statuses = []
# So many retries for each request to a provider, and so many besides, so that an outage stays what
# it is.
#budget = 0.2
#budget_floor = 10

# A paid answer whose program has hung up is read to its end and kept for the same request: so many
# bytes of a body, for so many seconds, so many answers of one agent (then its oldest go).
[paid]
#keep_bytes = "1MiB"
#keep_seconds = 600
#keep_answers = 1000
# For so many seconds an Idempotency-Key stands for its request, and the answer is kept.
#idempotency_seconds = 86400
# How long a request waits for the answer to the same one that is under way.
#wait = 30

# Of what is cached for the providers above, in each process: so many bytes, so many answers. A
# request waits so many seconds for the same one that is under way, then it is paid for by itself.
[cache]
#memory_bytes = "64MiB"
#answers = 10000
#wait = 30

# Seconds. response: to the first byte; idle: between bytes, so a stream may last.
[timeouts]
#connect = 10
#response = 300
#paid_response = 120
#idle = 600
#client_header = 30
#receipt_wait = 2

# Bytes, or "64KiB", "100MiB". A request body is kept for replay in memory up to the first limit,
# on disk up to the second; a larger one is forwarded but never paid for.
[limits]
#header_bytes = "64KiB"
#challenge_bytes = "64KiB"
#replay_memory_bytes = "1MiB"
#replay_disk_bytes = "100MiB"
# clients connected at once, tunnels included
#connections = 1000

# https: a CONNECT is opened with a certificate of autopay's own CA (`autopay ca`), so that what is
# in it can be paid for. Hosts under tunnel never are: pinned ones, mutual TLS, other protocols
# (like "api.bank.example" or "*.bank.example").
[intercept]
# "tunnel": only the hosts under intercept are opened
#default = "intercept"
#tunnel = []
#intercept = []
# Hosts for which a program rejected our certificate: "tunnel" (blind) or "refuse", for so long
#on_reject = "tunnel"
#reject_seconds = 3600

[tls]
# More certificate authorities to trust when connecting to providers.
#ca_file = "/etc/ssl/private-ca.pem"

# The key that agents' tokens are sealed with, so that nobody makes one who has the database alone.
# It may come from AUTOPAY_SECRETS__KEY in the environment (32 bytes in base64 or hex; several with
# commas between, the current one first), else from a command, such as one that asks a KMS: no shell
# runs it, and it prints the keys; else from a file that autopay makes itself: keep a copy of that.
[secrets]
#key = ""
#key_command = ""
#key_command_seconds = 10
# Default: secret.key in the data directory.
#key_file = "~/secret.key"

# The embedded server. As root it runs as this user; empty: autopay, postgres or nobody.
[postgres]
#user = ""

[database]
# The schema's owner, for migrations and backups, where database_url is a lesser login's.
#owner_url = ""
# What the proxy acts as in the database; empty: as whatever its login is.
#role = "autopay_writer"
# A database on another machine is reached with TLS, or not at all. true: also without.
#allow_plaintext = false
# Logs (decisions, transactions, events, queries) are kept so long, then dropped by the month.
# Payments and receipts stay.
#retention_days = 90

# Copies of the database, made by the running proxy (`autopay db backup` makes one at once).
[backup]
# Empty: none. Best on another disk.
#dir = ""
#every_hours = 24
# older ones are removed
#keep = 7
"""
