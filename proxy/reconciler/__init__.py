"""What became of payments whose answer was lost, or is not proved yet: asked of the chain.

`reconciler.py` who does it, and when · `watch.py` one look at one token account · `sweep.py` the
whole account that proves an absence · `leadership.py` one at a time · `books.py` what is written ·
`rebuild.py` what the books have lost.
The judgement itself is pure: `proxy/chains/solana/fate.py`.
"""

from proxy.reconciler.reconciler import Reconciler
from proxy.reconciler.watch import Ruling

__all__ = ["Reconciler", "Ruling"]
