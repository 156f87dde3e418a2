"""May this agent pay this? The answer as a pure function of values: no I/O, no clock, no database.

Read `rules.py` for what a layer can say, `book.py` for which layers hold, `decision.py` for the
order of the questions, `explanation.py` for the ledger's after them, `pattern.py` for what an
endpoint pattern means. `files.py`, `lint.py` and `diff.py` are for those who write policies.
"""

from policies.book import Book, LayerKey
from policies.decision import choose, decide, foresee
from policies.diff import Change, diff
from policies.errors import PolicyError, RuleError
from policies.explanation import Facts, Step, Used, explain
from policies.money import MAX_MICROS, MICROS, format_usd, parse_usd
from policies.pattern import Pattern, parse_pattern
from policies.policy import Ask, Choice, Layer, Policy, Verdict, validated
from policies.provider import Provider, parse_provider
from policies.questions import ledger_rules
from policies.rules import Limit, Rules
from policies.target import Target, parse_target

__all__ = [
    "MAX_MICROS",
    "MICROS",
    "Ask",
    "Book",
    "Change",
    "Choice",
    "Facts",
    "Layer",
    "LayerKey",
    "Limit",
    "Pattern",
    "Policy",
    "PolicyError",
    "Provider",
    "RuleError",
    "Rules",
    "Step",
    "Target",
    "Used",
    "Verdict",
    "choose",
    "decide",
    "diff",
    "explain",
    "foresee",
    "format_usd",
    "ledger_rules",
    "parse_pattern",
    "parse_provider",
    "parse_target",
    "parse_usd",
    "validated",
]
