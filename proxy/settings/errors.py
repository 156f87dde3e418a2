"""The one error of this room."""


class SettingsError(Exception):
    """Settings that cannot be used; `problems` holds one line each, `str()` all of them."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
