"""`autopay demo`: real programs buy from a real API on a local network, and the story is told.

`stage` everything that has to run · `programs` the unmodified programs · `story` what happens, step
by step, each checked · `narrator` how it looks on the terminal.
"""

from proxy.demo.show import demo

__all__ = ["demo"]
