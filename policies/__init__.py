"""May this agent pay this? The answer as a pure function of values: no I/O, no clock, no database.

Read `decision.py` for the order of the questions, `pattern.py` for what an allowed endpoint means,
`target.py` for an allowed target.
"""

from policies.decision import choose, decide
from policies.errors import PolicyError
from policies.money import MAX_MICROS, MICROS, format_usd, parse_usd
from policies.pattern import Pattern, parse_pattern
from policies.policy import Ask, Policy, Verdict, validated
from policies.target import Target, parse_target

__all__ = [
    "MAX_MICROS",
    "MICROS",
    "Ask",
    "Pattern",
    "Policy",
    "PolicyError",
    "Target",
    "Verdict",
    "choose",
    "decide",
    "format_usd",
    "parse_pattern",
    "parse_target",
    "parse_usd",
    "validated",
]
