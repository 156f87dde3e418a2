"""The one error of this room."""


class PolicyError(ValueError):
    """A policy, a pattern or an amount that cannot be meant. `str()` is one clear line."""
