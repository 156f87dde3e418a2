"""The embedded server, on real processes: killed, adopted, shared, started twice at once."""

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from proxy.postgres import EmbeddedPostgres, PostgresError
from proxy.postgres.processes import PidFile, read_pid_file, servers_in
from proxy.postgres.sharing import Membership
from tests.peers.postgres import cluster, fresh_database, kill_servers

ROOT = os.geteuid() == 0
START = """
import asyncio, sys
from pathlib import Path
from proxy.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(asyncio.run(server.start()), flush=True)
"""


def data(data_dir: Path) -> Path:
    return data_dir / "postgres" / "data"


def postmaster(data_dir: Path) -> PidFile:
    found = read_pid_file(data(data_dir))
    assert found
    return found


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def kill_server(data_dir: Path) -> list[int]:
    return kill_servers(data(data_dir))


async def test_first_start_gives_a_durable_private_server(empty_dir: Path) -> None:
    server = EmbeddedPostgres(empty_dir)
    began = time.monotonic()
    dsn = await server.start()
    assert time.monotonic() - began < 60
    for name, value in {
        "data_checksums": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
    }.items():
        assert await ask(dsn, f"SHOW {name}") == value
    assert await ask(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    await ask(dsn, "CREATE EXTENSION pgcrypto")
    assert await server.start() == dsn
    await server.stop()
    await server.stop()


async def test_it_runs_unprivileged_and_listens_on_no_port(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    pids = servers_in(data(data_dir))
    assert postmaster(data_dir).pid in pids
    sockets = set()
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        uids = re.findall(r"^(?:Uid|Gid):\s+(.*)$", status, re.M)
        assert all(number != "0" for line in uids for number in line.split()), status
        assert re.search(r"^Groups:\s*$", status, re.M) or not ROOT, "root's groups were kept"
        sockets |= {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    tcp = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    inodes = {f"socket:[{line.split()[9]}]" for line in tcp.splitlines() if ":" in line}
    assert not sockets & inodes
    socket_dir = Path(postmaster(data_dir).socket_dir)
    assert socket_dir.stat().st_mode & 0o077 == 0
    assert (socket_dir / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
    assert data_dir.stat().st_mode & 0o067 == 0, "only passing through, only for the account"
    await server.stop()


async def test_acknowledged_rows_survive_kill_9_of_every_process(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    await ask(dsn, "CREATE TABLE t (n int)")
    acknowledged = 0

    async def write() -> None:
        nonlocal acknowledged
        connection = await asyncpg.connect(dsn)
        while True:
            await connection.execute("INSERT INTO t VALUES ($1)", acknowledged)
            acknowledged += 1

    writer = asyncio.create_task(write())
    await asyncio.sleep(0.3)
    assert len(kill_server(data_dir)) > 3
    with pytest.raises(Exception):  # noqa: B017 - asyncpg tells it in several ways
        await writer
    assert acknowledged > 10

    again = EmbeddedPostgres(data_dir)
    began = time.monotonic()
    assert await again.start() == dsn
    assert time.monotonic() - began < 60
    assert await ask(dsn, "SELECT count(*) FROM t") in (acknowledged, acknowledged + 1)
    await server.stop()
    await again.stop()


async def test_a_running_server_is_adopted_and_the_last_user_stops_it(data_dir: Path) -> None:
    first, second = EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir)
    dsn = await first.start()
    pid = postmaster(data_dir).pid
    assert await second.start() == dsn
    assert postmaster(data_dir).pid == pid
    await first.stop()
    assert await ask(dsn, "SELECT 1") == 1, "the one who came second still uses it"
    await second.stop()
    assert servers_in(data(data_dir)) == []
    assert read_pid_file(data(data_dir)) is None
    log = "".join(path.read_text() for path in (data_dir / "postgres/log").glob("postgres-*.log"))
    assert log.rstrip().endswith("database system is shut down")


async def test_the_server_outlives_a_starter_that_is_killed_and_is_adopted(data_dir: Path) -> None:
    script = START + "import time; time.sleep(60)"
    starter = subprocess.Popen([sys.executable, "-c", script, data_dir], stdout=subprocess.PIPE)
    assert starter.stdout
    dsn = starter.stdout.readline().decode().strip()
    pid = postmaster(data_dir).pid
    starter.kill()
    starter.communicate()
    server = EmbeddedPostgres(data_dir)
    assert await server.start() == dsn
    assert postmaster(data_dir).pid == pid
    await server.stop()
    assert servers_in(data(data_dir)) == []


async def test_two_processes_start_at_once_and_share_one_server(empty_dir: Path) -> None:
    data_dir = empty_dir
    script = START + "sys.stdin.readline(); asyncio.run(server.stop())"
    starters = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, str(data_dir)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    dsns = set()
    for starter in starters:
        assert starter.stdout
        dsns.add((await starter.stdout.readline()).decode().strip())
    (dsn,) = dsns
    assert await ask(dsn, "SELECT 1") == 1
    assert (data_dir / "postgres/log/startup.log").read_text().count("redirecting log output") == 1
    for starter in starters:
        await starter.communicate(b"\n")
        assert starter.returncode == 0
    assert servers_in(data(data_dir)) == []


async def test_a_pid_file_that_names_a_stranger_is_stale(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    old = postmaster(data_dir)
    uid = data(data_dir).stat().st_uid
    kill_server(data_dir)
    # The stranger runs as the server's user: with any other, PostgreSQL itself would see through.
    with subprocess.Popen(["sleep", "60"], user=uid if ROOT else None) as stranger:
        pid_file = data(data_dir) / "postmaster.pid"
        pid_file.write_text(pid_file.read_text().replace(str(old.pid), str(stranger.pid), 1))
        with pytest.raises(PostgresError, match="in use by another autopay"):
            await EmbeddedPostgres(data_dir).start()  # the first one never left
        assert server._use
        server._use.membership.leave()
        again = EmbeddedPostgres(data_dir)
        await again.start()
        assert postmaster(data_dir).pid != stranger.pid
        await again.stop()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.skipif(not ROOT, reason="a PID namespace is root's to make")
async def test_a_server_of_another_container_is_seen(data_dir: Path) -> None:
    """Neither it nor its number can be seen, and PostgreSQL would start a second one."""
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    old = postmaster(data_dir)
    unseen = ("unshare", "--pid", "--ipc", "--mount-proc", "--fork")
    for gone in (False, True):
        if gone:  # the user that started it, which is a sign of life as well
            assert server._use
            server._use.membership.leave()
        other = subprocess.run(
            [*unseen, sys.executable, "-c", START, data_dir],
            capture_output=True,
            text=True,
            check=False,
        )
        assert other.returncode
        assert "cannot be seen from here" in other.stderr
        assert postmaster(data_dir) == old
        assert await ask(dsn, "SELECT 1") == 1
    kill_server(data_dir)
    other = subprocess.run(
        [*unseen, sys.executable, "-c", START + "asyncio.run(server.stop())", data_dir],
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 0, other.stderr


@pytest.mark.skipif(not ROOT, reason="a PID namespace is root's to make")
async def test_a_container_is_started_again_after_it_was_killed(data_dir: Path) -> None:
    """Its processes get the same small numbers: the old server's is a child's of the new one."""
    unseen = ("unshare", "--pid", "--ipc", "--mount-proc", "--fork", "--kill-child")
    for _ in range(2):
        container = subprocess.Popen(
            [*unseen, sys.executable, "-c", START + "import time; time.sleep(60)", data_dir],
            stdout=subprocess.PIPE,
        )
        assert container.stdout
        assert b"postgresql://" in container.stdout.readline()
        old = postmaster(data_dir)
        container.kill()
        container.communicate()
        # The new server's first child, as where numbers are given out one by one.
        lock = Path(old.socket_dir) / ".s.PGSQL.5432.lock"
        lock.write_text(lock.read_text().replace(f"{old.pid}\n", f"{old.pid + 1}\n", 1))


@pytest.mark.parametrize("rest", ["", "12345"])
async def test_a_pid_file_cut_short_is_stale(data_dir: Path, rest: str) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    await server.stop()
    (data(data_dir) / "postmaster.pid").write_text(rest)
    await server.start()
    await server.stop()


async def test_a_dead_server_that_nobody_collects_is_no_server(data_dir: Path) -> None:
    """PostgreSQL counts a zombie as running; a negligent parent may never collect it."""
    script = (
        "import ctypes; ctypes.CDLL(None).prctl(36, 1)  # the server becomes our child\n"
        + START
        + "import time; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, data_dir], stdout=-1) as parent:
        assert parent.stdout
        dsn = parent.stdout.readline().decode().strip()
        pid = postmaster(data_dir).pid
        kill_server(data_dir)
        while ") Z" not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)
        server = EmbeddedPostgres(data_dir)
        assert await server.start() == dsn
        assert Path(f"/proc/{pid}").exists(), "still a zombie"
        assert postmaster(data_dir).pid != pid
        await server.stop()
        parent.kill()


def test_our_own_dead_child_is_collected(data_dir: Path) -> None:
    script = (
        "import ctypes; ctypes.CDLL(None).prctl(36, 1)\n"
        + START
        + "import os, signal; pid = int(open(sys.argv[1] + '/postgres/data/postmaster.pid')"
        ".readline()); os.kill(pid, signal.SIGKILL)\n"
        "while ') Z ' not in open(f'/proc/{pid}/stat').read(): pass  # it dies in its turn\n"
        "again = EmbeddedPostgres(Path(sys.argv[1]))\n"
        "asyncio.run(again.start()); assert not Path(f'/proc/{pid}').exists(), 'not collected'\n"
        "asyncio.run(server.stop()); asyncio.run(again.stop())"
    )
    subprocess.run([sys.executable, "-c", script, data_dir], check=True, stdout=-1)
    assert servers_in(data(data_dir)) == []


@pytest.mark.parametrize("name", ["x" * 120, "with blank, comma and 'quote'"])
async def test_any_path_will_do(data_dir: Path, empty_dir: Path, name: str) -> None:
    deep = empty_dir / name
    deep.mkdir(mode=0o700)
    (data_dir / "postgres").rename(deep / "postgres")
    if ROOT:
        empty_dir.chmod(0o711)
    server = EmbeddedPostgres(deep)
    dsn = await server.start()
    socket_dir = Path(postmaster(deep).socket_dir)
    assert empty_dir not in socket_dir.parents
    assert socket_dir.stat().st_mode & 0o077 == 0
    assert await ask(dsn, "SELECT 1") == 1
    await server.stop()
    socket_dir.rmdir()
    (deep / "postgres").rename(data_dir / "postgres")


async def test_a_half_made_cluster_is_made_anew(empty_dir: Path) -> None:
    aside = empty_dir / "postgres/data.new"
    aside.mkdir(parents=True)
    (aside / "PG_VERSION").write_text("17\n")
    server = EmbeddedPostgres(empty_dir)
    await server.start()
    await server.stop()
    assert not aside.exists()


async def test_the_users_own_postgres_variables_change_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGDATA", "PGHOST", "PGOPTIONS", "PGUSER", "PGDATABASE", "PGSERVICE"):
        monkeypatch.setenv(name, "/nowhere")
    server = EmbeddedPostgres(data_dir)
    await server.start()
    await server.stop()


async def test_a_cancelled_start_leaves_no_server(empty_dir: Path) -> None:
    server = EmbeddedPostgres(empty_dir)
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0.05)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert data(empty_dir).is_dir(), "the work went on in its thread"
    assert servers_in(data(empty_dir)) == []
    await server.start()
    await server.stop()


async def refusal(server: EmbeddedPostgres) -> str:
    with pytest.raises(PostgresError) as caught:
        await server.start()
    text = str(caught.value)
    assert "\n" not in text
    return text


async def test_each_failure_is_one_clear_line(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    await server.start()
    await server.stop()

    version = data(data_dir) / "PG_VERSION"
    version.write_text("16\n")
    text = await refusal(server)
    assert "made by PostgreSQL 16, but this autopay carries PostgreSQL 17" in text
    assert "DATABASE_URL" in text
    version.write_text("17\n")

    control = data(data_dir) / "global/pg_control"
    control.rename(control.with_name("moved"))
    text = await refusal(server)
    assert "did not start" in text
    assert "pg_control" in text
    control.with_name("moved").rename(control)

    auto = data(data_dir) / "postgresql.auto.conf"
    auto.write_text("shared_buffers = 'a lot'\n")
    assert "postgresql.auto.conf" in await refusal(server)
    auto.write_text("")

    await server.start()
    await server.stop()


@pytest.mark.skipif(not ROOT, reason="only root drops to another user")
async def test_root_is_told_which_directory_shuts_the_server_out(empty_dir: Path) -> None:
    closed = empty_dir / "closed"
    closed.mkdir(mode=0o700)
    empty_dir.chmod(0o711)
    text = await refusal(EmbeddedPostgres(closed / "a" / "b"))
    assert f"{closed} is closed" in text
    assert "AUTOPAY_DATA_DIR" in text
    assert closed.stat().st_mode & 0o777 == 0o700, "a directory that is not ours stays as it is"
    assert "no user 'nosuchuser'" in await refusal(EmbeddedPostgres(closed, "nosuchuser"))
    assert "not run as root" in await refusal(EmbeddedPostgres(closed, "root"))


def test_the_kernel_counts_the_users(tmp_path: Path) -> None:
    path = tmp_path / "users"
    first, second = Membership(path), Membership(path)
    first.join()
    assert first.is_last()
    second.join()
    assert not first.is_last()
    assert not second.is_last(), "a refused question must not cost the first its place"
    second.leave()
    assert first.is_last()
    first.leave()


def test_peer_cluster_and_fresh_databases() -> None:
    with cluster() as dsn:

        async def story() -> None:
            await ask(dsn, "CREATE TABLE t AS SELECT 7 AS n")
            template = await fresh_database(dsn)
            await ask(template, "CREATE TABLE t AS SELECT 42 AS n")
            copy = await fresh_database(dsn, template)
            assert await ask(copy, "SELECT n FROM t") == 42

        asyncio.run(story())
