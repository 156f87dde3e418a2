"""The one error of this room."""


class UpkeepError(Exception):
    """The database cannot be kept as asked; `str()` is one line that says why and what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(" ".join(what.split()))
