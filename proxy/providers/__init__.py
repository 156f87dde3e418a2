"""May a provider be called now (`guard`), how good is it (`score`), what did it do (`stats`)."""

from proxy.providers.guard import BreakerOpen, Guards
from proxy.providers.providers import Providers, Ticket
from proxy.providers.score import WEIGHTS, Behaviour, Weights, score

__all__ = [
    "WEIGHTS",
    "Behaviour",
    "BreakerOpen",
    "Guards",
    "Providers",
    "Ticket",
    "Weights",
    "score",
]
