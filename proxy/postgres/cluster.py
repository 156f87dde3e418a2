"""One database cluster on disk, and PostgreSQL's own programs at work on it.

    home/                root or the user    0710 or 0700
        data/            server's account    the cluster itself
        socket/          server's account    unless its path is too long for a socket
        log/             server's account    postgres-Mon.log …, startup.log
        *.conf           root or the user    the account reads them, it cannot change them

As root, nothing is ever written below a directory that the server's account owns: it could turn
the path into a link and have root write elsewhere. Everything here blocks; call it in a thread.
"""

import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from proxy.postgres import configuration
from proxy.postgres.account import Account, blocked_at, let_pass
from proxy.postgres.binaries import Binaries
from proxy.postgres.errors import PostgresError
from proxy.postgres.processes import Life, life_of, read_pid_file

# sun_path holds 108 bytes, the name of the socket itself included.
LONGEST_SOCKET_DIR = 107 - len("/.s.PGSQL.5432")
STEP_SECONDS = 120.0


class Cluster:
    """The files under `home` and the commands that start, stop and prepare the server."""

    def __init__(self, home: Path, account: Account, binaries: Binaries) -> None:
        self.home = home
        self.data = home / "data"
        self._log = home / "log"
        self._account = account
        self._binaries = binaries

    def prepare(self) -> None:
        """Make the directories and, the first time, the cluster. Raises PostgresError."""
        self._make_way()
        self._own_directory(self._log)
        if not self.data.exists():
            self._initdb()
        self._check_major()

    def start(self, inherited: int) -> None:
        """Start the server and wait until it answers; its processes keep the descriptor `inherited`
        open. Raises PostgresError with the log's words."""
        socket_dir = self._socket_dir()
        self._own_directory(socket_dir)
        self._write("postgresql.conf", configuration.server_conf(self.home, socket_dir))
        self._write("pg_hba.conf", configuration.hba_conf())
        self._write("pg_ident.conf", configuration.ident_conf(self._account.name))
        startup_log = self._log / "startup.log"
        startup_log.unlink(missing_ok=True)
        # pg_ctl detaches the server: neither our end nor a Ctrl-C on our terminal is its end.
        options = f"-c config_file={shlex.quote(str(self.home / 'postgresql.conf'))}"
        done = self._run(
            *("pg_ctl", "start", "--wait", "--silent", f"--timeout={STEP_SECONDS:.0f}"),
            *("-D", str(self.data), "-l", str(startup_log), "-o", options),
            inherited=(inherited,),
        )
        if done.returncode:
            raise PostgresError(
                f"PostgreSQL did not start in {self.home}: {self._why(done)}",
                f"see {self._log}, or set DATABASE_URL to use a server of your own",
            )

    def stop(self) -> None:
        """Stop the server in good order: sessions are ended, a checkpoint is written."""
        done = self._run(
            *("pg_ctl", "stop", "--mode=fast", "--wait", "--silent", "--timeout=60"),
            *("-D", str(self.data)),
        )
        if done.returncode and read_pid_file(self.data):
            raise PostgresError(
                f"PostgreSQL in {self.home} did not stop: {self._why(done)}", f"see {self._log}"
            )

    def bootstrap(self, socket_dir: str) -> None:
        """Create our role and database where they are missing."""
        done = self._run(
            *("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", socket_dir),
            *("-U", configuration.SUPERUSER, "-d", "postgres"),
            stdin=configuration.BOOTSTRAP,
        )
        if done.returncode:
            raise PostgresError(f"PostgreSQL in {self.home} cannot be set up: {self._why(done)}")

    def clear_stale_pid_file(self, *, others_live: bool) -> None:
        """Remove a pid file that would keep PostgreSQL from starting although no server lives.

        Call it only when `processes.settled` found none, with the server's sign of life in hand.
        A container that is started again gives out the same small numbers: the one that the files
        name may soon be the new server's own, or its child's. `others_live` says that another
        autopay process holds this directory: then nothing is touched, since a server that is older
        than the sign of life may well be that one's. PostgreSQL, which also checks the old server's
        shared memory, decides where the file names no process; a stranger's number is refused.
        """
        named = read_pid_file(self.data)
        life = life_of(named.pid, self.data) if named else Life.ZOMBIE
        if life is Life.GONE and others_live:
            return
        if named and life is Life.STRANGER and others_live:
            raise PostgresError(
                f"{self.data} is in use by another autopay whose PostgreSQL (process {named.pid}) "
                "cannot be seen from here",
                "stop that one, or choose another AUTOPAY_DATA_DIR",
            )
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        # The socket has a lock file with the same number, and with the same fault.
        (self._socket_dir() / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def _make_way(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._account.drop:
            return
        let_pass(self.home.parent, self._account)
        let_pass(self.home, self._account)
        if blocked := blocked_at(self.home, self._account):
            raise PostgresError(
                f"PostgreSQL runs as user {self._account.name!r}, who cannot reach {self.home}: "
                f"{blocked} is closed to him",
                "choose another AUTOPAY_DATA_DIR, or set DATABASE_URL to use a server of your own",
            )

    def _own_directory(self, directory: Path) -> None:
        """A directory for the server's account alone; one that is there already must be just so."""
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            status = directory.lstat()
            private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
            if not private or status.st_uid not in (self._account.uid, os.geteuid()):
                raise PostgresError(
                    f"{directory} is not private to user {self._account.name!r}",
                    "remove it and start again",
                ) from None
        if self._account.drop:
            os.chown(directory, self._account.uid, self._account.gid, follow_symlinks=False)

    def _initdb(self) -> None:
        """Make the cluster aside and rename it: a start killed half way leaves no half cluster."""
        aside = self.home / "data.new"
        shutil.rmtree(aside, ignore_errors=True)
        self._own_directory(aside)
        # The builtin locale sorts the same on every machine: an index survives a libc upgrade.
        done = self._run(
            *("initdb", "-D", str(aside), "-U", configuration.SUPERUSER, "--auth=peer"),
            *("--data-checksums", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
        )
        if done.returncode:
            raise PostgresError(f"no database could be made in {self.home}: {self._why(done)}")
        aside.rename(self.data)
        _sync_directory(self.home)

    def _check_major(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise PostgresError(
                f"{self.data} is not a PostgreSQL database", "move it away and start again"
            ) from None
        if found != self._binaries.major:
            raise PostgresError(
                f"{self.data} was made by PostgreSQL {found}, but this autopay carries "
                f"PostgreSQL {self._binaries.major}",
                "dump it with the autopay that made it, "
                "or set DATABASE_URL to use a server of your own",
            )

    def _socket_dir(self) -> Path:
        """`home`/socket, or a short private directory where that cannot name a socket."""
        usual = self.home / "socket"
        # A comma or a blank would end the path in PostgreSQL's or asyncpg's list of hosts.
        if len(os.fsencode(usual)) <= LONGEST_SOCKET_DIR and re.fullmatch(
            r"[\w./+~-]+", str(usual)
        ):
            return usual
        mark = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        if self._account.drop:
            return Path("/run") / f"autopay-{mark}"
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        base = Path(runtime) if 0 < len(os.fsencode(runtime)) <= 60 else Path("/tmp")  # noqa: S108
        return base / f"autopay-{self._account.uid}-{mark}"

    def _write(self, name: str, text: str) -> None:
        """Replace one of our own files in `home`, readable to the account's group."""
        with tempfile.NamedTemporaryFile("w", dir=self.home, delete=False) as fresh:
            fresh.write(text)
            os.fchmod(fresh.fileno(), 0o640)
            if self._account.drop:
                os.fchown(fresh.fileno(), 0, self._account.gid)
        Path(fresh.name).replace(self.home / name)

    def _run(
        self, tool: str, *arguments: str, stdin: str = "", inherited: Sequence[int] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Run one of PostgreSQL's programs as the account, with nothing of our environment.

        A PGDATA, PGPORT or PGOPTIONS of the user's must not lead it to another server.
        """
        account = self._account
        return subprocess.run(
            [self._binaries.tool(tool), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            umask=0o077,
            user=account.uid if account.drop else None,
            group=account.gid if account.drop else None,
            extra_groups=[] if account.drop else None,
            pass_fds=inherited,
            timeout=STEP_SECONDS + 10,
        )

    def _why(self, done: "subprocess.CompletedProcess[str]") -> str:
        """The most telling line of what a program, else the server's newest logs, said last."""
        logs = sorted(self._log.glob("*.log"), key=lambda path: path.lstat().st_mtime)
        said = [done.stderr, *(_tail(log) for log in reversed(logs[-2:]))]
        for text in said:
            telling = [line for line in text.splitlines() if re.search("FATAL|PANIC|error:", line)]
            if telling:
                return telling[-1][:300]
        last_words = next((text for text in (*said[1:], said[0]) if text.strip()), "no word of why")
        return last_words[-300:]


def _tail(log: Path) -> str:
    # The account owns this directory: root must not follow a link that it put there.
    descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.seek(max(0, os.fstat(descriptor).st_size - 8192))
        return file.read().decode(errors="replace")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
