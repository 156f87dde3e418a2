"""The server's three configuration files, as text. Written anew at every start."""

from pathlib import Path

SUPERUSER = "postgres"  # owns the cluster; used once, to create the role and database below
ROLE = "autopay"
DATABASE = "autopay"
HEADER = "# Written by autopay at every start. Your own settings: ALTER SYSTEM SET ...\n"


def server_conf(home: Path, socket_dir: Path) -> str:
    """postgresql.conf: no port, a private socket, everything durable, small in memory."""
    settings = {
        "hba_file": home / "pg_hba.conf",
        "ident_file": home / "pg_ident.conf",
        "listen_addresses": "",
        "unix_socket_directories": socket_dir,
        "unix_socket_permissions": "0700",
        "max_connections": "50",
        # An acknowledged reservation must outlive the machine.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": "32MB",
        "huge_pages": "off",
        "maintenance_work_mem": "32MB",
        "max_wal_size": "256MB",
        "min_wal_size": "32MB",
        "jit": "off",
        "timezone": "UTC",
        # Seven files, one a day of the week, each begun anew when its day returns.
        "logging_collector": "on",
        "log_directory": home / "log",
        "log_filename": "postgres-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "lc_messages": "C",
    }
    lines = (f"{name} = '{_quoted(str(value))}'\n" for name, value in settings.items())
    return HEADER + "".join(lines)


def hba_conf() -> str:
    return HEADER + "local all all peer map=autopay\n"


def ident_conf(server_user: str) -> str:
    """Root, and the user that runs the server; nobody else gets in, were the socket ever open."""
    users = dict.fromkeys(("root", server_user))
    return HEADER + "".join(f'autopay "{user}" all\n' for user in users)


# Idempotent, so that a first start that was killed half way is completed by the next one.
# The role is no superuser: what runs here runs on a PostgreSQL of your own as well, and SQL that
# should never have got in cannot reach files or programs.
BOOTSTRAP = r"""
SELECT 'CREATE ROLE autopay LOGIN CREATEDB CREATEROLE'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'autopay') \gexec
SELECT 'CREATE DATABASE autopay OWNER autopay'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'autopay') \gexec
"""


def _quoted(text: str) -> str:
    return text.replace("'", "''")
