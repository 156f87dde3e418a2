"""Where autopay keeps its things on this platform, and that nobody else can change them."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import platformdirs

SETTINGS_NAME = "autopay.toml"


class PathError(Exception):
    """A directory that cannot be used; `str()` is one line that says why and what to do."""


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The data directory: AUTOPAY_DATA_DIR, else by the platform's convention.

    For a user that is `~/.local/share/autopay` on Linux, `~/Library/Application Support/autopay`
    on macOS; for root on Linux it is /var/lib/autopay, as for every system service. Only named
    here: `private_directory` makes it.
    """
    if chosen := environ.get("AUTOPAY_DATA_DIR"):
        return Path(chosen).expanduser().absolute()
    if _is_system_service():
        return Path("/var/lib/autopay")
    return platformdirs.user_data_path("autopay", appauthor=False)


def ca_directory(data_dir: Path) -> Path:
    """Where the CA's key and certificate are, in the data directory."""
    return data_dir / "ca"


def settings_file(
    config: Path | None = None, *, here: Path | None = None, user_config: Path | None = None
) -> Path | None:
    """The one settings file: `config` (--config) whether it exists or not, else the first that
    exists of ./autopay.toml and the user's configuration directory (/etc/autopay for root)."""
    if config is not None:
        return config
    for directory in (here or Path(), user_config or user_config_dir()):
        if (directory / SETTINGS_NAME).is_file():
            return directory / SETTINGS_NAME
    return None


def user_config_dir() -> Path:
    if _is_system_service():
        return Path("/etc/autopay")
    return platformdirs.user_config_path("autopay", appauthor=False)


def private_directory(path: Path) -> Path:
    """Make `path`, open to its owner only, and return it.

    One that exists already must belong to this user and be writable to nobody else: whoever can
    write there could replace the wallet. Raises PathError.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise PathError(
            f"the data directory {path} cannot be made: {error.strerror}; "
            "choose another with AUTOPAY_DATA_DIR"
        ) from error
    if os.name == "nt":
        return path  # Windows: the profile's own access list protects it
    if status.st_uid != os.geteuid():
        raise PathError(
            f"the data directory {path} belongs to user id {status.st_uid}, not to you; "
            "run autopay as its owner, or choose another with AUTOPAY_DATA_DIR"
        )
    if status.st_mode & 0o022:
        raise PathError(
            f"the data directory {path} can be written by others "
            f"(mode {stat.S_IMODE(status.st_mode):04o}); chmod 700 {path}"
        )
    return path


def _is_system_service() -> bool:
    return os.name == "posix" and os.uname().sysname == "Linux" and os.geteuid() == 0
