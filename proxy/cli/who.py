"""Who sits at the terminal, for what is written of changes."""

import getpass


def login(otherwise: str) -> str:
    """The user's name; `otherwise` for one that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return otherwise
