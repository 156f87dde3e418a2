"""May a provider be called now (`guard`), how good is it (`score`), what did it do (`stats`)."""

from proxy.providers.guard import BreakerRules, Tripped
from proxy.providers.guards import BreakerOpen, Guards
from proxy.providers.providers import Providers, Ticket
from proxy.providers.score import WEIGHTS, Evidence, Weights, score

__all__ = [
    "WEIGHTS",
    "BreakerOpen",
    "BreakerRules",
    "Evidence",
    "Guards",
    "Providers",
    "Ticket",
    "Tripped",
    "Weights",
    "score",
]
