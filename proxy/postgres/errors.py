"""The one error of this room."""


class PostgresError(Exception):
    """The embedded PostgreSQL cannot serve; `str()` is one line that says why and what to do."""

    def __init__(self, what: str, do: str = "set DATABASE_URL to use a server of your own") -> None:
        super().__init__(f"{' '.join(what.split())}; {do}")
