"""The embedded server's life, top to bottom: start or adopt, share, stop when the last one leaves.

Several autopay processes may use one server: `autopay serve`, and an `autopay receipts` beside it
that perhaps came first. So it is not the starter who stops the server but whoever leaves last. A
process that dies without a word leaves the server running, and the next one adopts it.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from proxy.postgres.account import choose_account
from proxy.postgres.binaries import find_binaries
from proxy.postgres.cluster import Cluster
from proxy.postgres.configuration import DATABASE, ROLE
from proxy.postgres.errors import PostgresError
from proxy.postgres.processes import Life, PidFile, life_of, read_pid_file, reap, settled
from proxy.postgres.sharing import Membership, alone, sign_of_life

PATIENCE_SECONDS = 120.0  # for another process that starts it, and for a recovery after a crash


@dataclass(frozen=True, slots=True)
class _Use:
    """What this process holds while it uses the server."""

    cluster: Cluster
    membership: Membership
    dsn: str


class EmbeddedPostgres:
    """A private PostgreSQL in `data_dir`/postgres.

    `data_dir` is autopay's own directory; as root it is opened to the server's account for
    passing through, and for nothing else. `user` is whom root drops to: "" takes the first of
    autopay, postgres, nobody that exists.
    """

    def __init__(self, data_dir: Path, user: str = "") -> None:
        self._home = data_dir / "postgres"
        self._user = user
        self._use: _Use | None = None

    async def start(self) -> str:
        """Start the server, or adopt the one that runs; the DSN for asyncpg, over a unix socket.

        A second call returns the same DSN. Raises PostgresError: one line that says what to do.
        """
        work = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread cannot be stopped half way: let it finish, however often we are told to end,
            # then take back what it did.
            while not work.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            if not work.cancelled() and work.exception() is None:
                await self.stop()
            raise

    async def stop(self) -> None:
        """Leave the server, and stop it in good order if nobody else uses it. Idempotent."""
        await asyncio.to_thread(self._stop)

    def _start(self) -> str:
        if self._use:
            return self._use.dsn
        with _one_clear_line(self._home):
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            home = self._home.resolve()
            account = choose_account(self._user, home / "data")
            cluster = Cluster(home, account, find_binaries(account))
            with alone(home / "start.lock", PATIENCE_SECONDS):
                cluster.prepare()
                membership = Membership(home / "users.lock")
                try:
                    membership.join()
                    server = settled(cluster.data, PATIENCE_SECONDS)
                    if server is None:
                        server = _start_anew(cluster, others_live=not membership.is_last())
                    cluster.bootstrap(server.socket_dir)
                except BaseException:
                    membership.leave()
                    raise
        socket_dir = quote(server.socket_dir, safe="")
        self._use = _Use(cluster, membership, f"postgresql://{ROLE}@/{DATABASE}?host={socket_dir}")
        return self._use.dsn

    def _stop(self) -> None:
        if self._use is None:
            return
        cluster, membership = self._use.cluster, self._use.membership
        self._use = None
        with _one_clear_line(self._home), alone(cluster.home / "start.lock", PATIENCE_SECONDS):
            last = membership.is_last()
            membership.leave()
            server = read_pid_file(cluster.data)
            if last and server and life_of(server.pid, cluster.data) is Life.SERVER:
                cluster.stop()
                reap(server.pid)


def _start_anew(cluster: Cluster, *, others_live: bool) -> PidFile:
    with sign_of_life(cluster.home / "server.lock") as inherited:
        cluster.clear_stale_pid_file(others_live=others_live)
        cluster.start(inherited)
    server = settled(cluster.data, PATIENCE_SECONDS)
    if server is None:
        raise PostgresError(f"PostgreSQL ended as soon as it had started in {cluster.home}")
    return server


@contextmanager
def _one_clear_line(home: Path) -> Iterator[None]:
    """What the system refuses us (no space, no permission, a program that hangs) is ours to say."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresError(
            f"PostgreSQL in {home} cannot be started or stopped: {error}"
        ) from error
