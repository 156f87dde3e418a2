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

[wallet]
# Default: wallet.json in the data directory.
#path = "~/wallet.json"

# Networks that may be paid on. Naming one replaces the default, which is devnet alone.
#[networks.devnet]
#rpc_url = "https://api.devnet.solana.com"
# Real money:
#[networks.mainnet]
#rpc_url = "https://api.mainnet-beta.solana.com"

# An API reached by its own base URL, for programs that cannot use a proxy.
#[providers.weather]
#upstream = "https://api.example/v1"
# false for a facilitator that refuses transactions with a memo
#memo = true

# What a new agent may spend, in USD.
[policy]
#per_call = "0.05"
#daily = "1.00"
#session = "1.00"

# A provider that fails this often in a row is left alone for so many seconds.
[breaker]
#failures = 3
#open_seconds = 180

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
# clients connected at once
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

# The embedded server. As root it runs as this user; empty: autopay, postgres or nobody.
[postgres]
#user = ""
"""
