"""What the bearer of a key may do."""

from enum import StrEnum


class Role(StrEnum):
    """From the least rights to the most; each may do what those before it may.

    reader: see figures, decisions and payments · auditor: and what was said and bought ·
    operator: change what agents may do · admin: and who may come here.
    """

    READER = "reader"
    AUDITOR = "auditor"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, least: "Role") -> bool:
        """Whether this is `least` or more."""
        order = list(Role)
        return order.index(self) >= order.index(least)
