"""The errors of this room."""


class PolicyError(ValueError):
    """A policy, a pattern or an amount that cannot be meant. `str()` is one clear line."""


class RuleError(PolicyError):
    """A rule that cannot be meant. `path` leads to it: keys of tables, positions in lists, as in
    `("agent", "bot", "allowed_endpoints", 2)`."""

    def __init__(self, path: tuple[str | int, ...], why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"{shown_path(path)}: {why}" if path else why)

    def under(self, *path: str | int) -> "RuleError":
        """The same, seen from further out."""
        return RuleError((*path, *self.path), self.why)


def shown_path(path: tuple[str | int, ...]) -> str:
    """`agent.bot.allowed_endpoints[3]`: positions as people count them."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step + 1}]"
            continue
        plain = step.replace("-", "").replace("_", "").isalnum() and step.isascii()
        shown = step if len(step) <= 100 else step[:100] + "…"
        text += ("." if text else "") + (shown if plain else repr(shown))
    return text
