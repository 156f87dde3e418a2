"""The embedded PostgreSQL: a private server on a unix socket, without any set-up.

What must hold is in `EmbeddedPostgres`; the other modules are its parts, one job each:
`account` (who the server runs as), `binaries` (where its programs are), `processes` (what still
lives), `cluster` (the files on disk and the programs that work on them).
"""

from proxy.postgres.embedded import EmbeddedPostgres
from proxy.postgres.errors import PostgresError

__all__ = ["EmbeddedPostgres", "PostgresError"]
