"""The database's roles: what a connection may do, from its first statement on.

The role goes into the startup packet, so RESET ROLE, RESET ALL and the pool lead back to it and to
nothing more. SET ROLE NONE leads back to the login itself: where that login is a member of the role
and no more, there is nothing to gain by it.
"""

import asyncpg

from proxy.ledger.address import login_of
from proxy.ledger.errors import TROUBLE, LedgerError

WRITER = "autopay_writer"  # the running proxy
READER = "autopay_reader"  # questions about the books
AUDITOR = "autopay_auditor"  # the same, and every event
ADMIN = "autopay_admin"  # agents, policies and keys
ROLES = (WRITER, READER, AUDITOR, ADMIN)

# What PostgreSQL says to a role in the startup packet: not a member of it, or there is none.
_REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)


class RoleRefused(LedgerError):
    """The login of the URL cannot act as the role that it should; `str()` says how it could."""


def instead_of(role: str, other: str) -> str:
    """`other`, where roles are used at all: "" for `role` says that they are not."""
    return other if role else ""


def startup(role: str) -> dict[str, str]:
    """The server setting under which a connection begins as `role`; "" stays the login itself."""
    return {"role": role} if role else {}


def role_refused(error: BaseException | None, dsn: str, role: str) -> RoleRefused | None:
    """The clear words, if `error` is that a connection to `dsn` may not begin as `role`."""
    if not role or not isinstance(error, _REFUSED) or role not in str(error):
        return None
    if isinstance(error, asyncpg.InvalidParameterValueError):
        return RoleRefused(
            f"the database has no role {role}; run as its owner: autopay db migrate"
            " (or set [database] role to one that it has)"
        )
    login = login_of(dsn)
    return RoleRefused(
        f'the database login "{login}" may not act as {role}; '
        f'run as the database\'s owner: GRANT {role} TO "{login}"'
    )


async def role_trouble(dsn: str, role: str) -> RoleRefused | None:
    """Why a connection to `dsn` may not begin as `role`; None if it may, or fails otherwise."""
    try:
        connection = await asyncpg.connect(dsn, timeout=10, server_settings=startup(role))
    except TROUBLE as error:
        return role_refused(error, dsn, role)
    connection.terminate()
    return None
