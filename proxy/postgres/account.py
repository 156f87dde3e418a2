"""Who the server runs as: never root.

PostgreSQL refuses to run as root, and rightly so. A plain user runs it as himself. Root drops to
an unprivileged account, which must then be able to *reach* the files: every directory above them
has to let it pass.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from proxy.postgres.errors import PostgresError

FALLBACKS = ("autopay", "postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A system account; `drop` says that this process is root and must become it first."""

    name: str
    uid: int
    gid: int
    drop: bool


def choose_account(wanted: str, existing_data: Path) -> Account:
    """The account for the server whose data lies, or will lie, in `existing_data`.

    An existing data directory decides by its owner: its files are readable to nobody else.
    Raises PostgresError if no account fits.
    """
    me = os.geteuid()
    owner = existing_data.stat().st_uid if existing_data.exists() else None
    if me != 0:
        if owner not in (None, me):
            raise PostgresError(
                f"{existing_data} belongs to user id {owner}, but this is user id {me}",
                "run autopay as its owner, or set DATABASE_URL to use a server of your own",
            )
        return Account(_by_uid(me).pw_name, me, os.getegid(), drop=False)
    account = _root_drops_to(wanted, owner)
    if account.uid == 0:
        raise PostgresError(
            "PostgreSQL does not run as root",
            "name an unprivileged user in [postgres] user, "
            "or set DATABASE_URL to use a server of your own",
        )
    return account


def _root_drops_to(wanted: str, owner: int | None) -> Account:
    if wanted:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise PostgresError(
                f"there is no user {wanted!r} to run PostgreSQL as",
                "create it, or name another in [postgres] user",
            ) from None
        if owner not in (None, entry.pw_uid):
            raise PostgresError(
                f"the database files belong to user id {owner}, not to {wanted!r}",
                f"chown -R {wanted} them, or name their owner in [postgres] user",
            )
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, drop=True)
    if owner is not None:
        entry = _by_uid(owner)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, drop=True)
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in FALLBACKS:
        if name in known:
            return Account(name, known[name].pw_uid, known[name].pw_gid, drop=True)
    raise PostgresError(
        f"PostgreSQL does not run as root, and none of the users {', '.join(FALLBACKS)} exists",
        "create one, or set DATABASE_URL to use a server of your own",
    )


def _by_uid(uid: int) -> pwd.struct_passwd:
    # Both initdb and peer authentication look the name up; better to say so here than there.
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise PostgresError(
            f"user id {uid} has no name in the user database, and PostgreSQL needs one",
            "add it to /etc/passwd, or set DATABASE_URL to use a server of your own",
        ) from None


def blocked_at(path: Path, account: Account) -> Path | None:
    """The first directory on the way to `path`, or `path` itself, that shuts `account` out."""
    for step in [*reversed(path.parents), path]:
        status = step.stat()
        if status.st_uid == account.uid:
            granted = status.st_mode >> 6
        elif status.st_gid == account.gid:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        needed = 0o1 if stat.S_ISDIR(status.st_mode) else 0o4
        if not granted & needed:
            return step
    return None


def let_pass(directory: Path, account: Account) -> None:
    """As root: let the account walk through our own private directory (not list or read it)."""
    status = directory.stat()
    if account.drop and status.st_uid == 0 and blocked_at(directory, account) == directory:
        os.chown(directory, 0, account.gid)
        directory.chmod((stat.S_IMODE(status.st_mode) & ~0o070) | 0o010)
