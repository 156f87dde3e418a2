"""Paying once for the same thing: paid answers that are kept in memory, within RFC 9111.

`rules.py` says what may be kept, for whom, and what it may serve (pure); `directives.py` reads the
fields; `shelves.py` keeps; `cache.py` is asked; `visit.py` looks on; `flight.py` is what others
wait for; `savings.py` counts.
"""

from proxy.cache.cache import PaidCache
from proxy.cache.rules import Terms
from proxy.cache.savings import Savings
from proxy.cache.shelves import Shelves

__all__ = ["PaidCache", "Savings", "Shelves", "Terms"]
