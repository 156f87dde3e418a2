"""Breakers that an operator turns, whatever the calls say: closed, or open for a while."""

from proxy.ledger import Database, LedgerError, circuits
from proxy.providers.names import meant, near

MOST_SECONDS = 7 * 86_400
_MOST_NAMED = 5


class UnclearProvider(LedgerError):
    """No provider that is known is meant, or more than one. `str()` says which there are."""


async def turn(
    database: Database, text: str, seconds: float | None, *, by: str
) -> tuple[str, circuits.ByHand]:
    """Opens the breaker of the provider that `text` means (its host, origin or URL) for so many
    seconds, at most a week; None closes it. Every proxy of the database hears of it within moments.

    Its key, and what was done. Raises UnclearProvider, LedgerError.
    """
    known = await circuits.known(database)
    keys = meant(text, known) or [text]
    if len(keys) > 1:
        one_of = ", ".join(sorted(keys)[:_MOST_NAMED])
        raise UnclearProvider(f"more than one provider is called {text}; say which: {one_of}")
    done = await circuits.turn_by_hand(database, keys[0], seconds, by=by)
    if done is None:
        alike = ", ".join(near(text, known))
        raise UnclearProvider(f"nothing is known of {text}" + (f"; near: {alike}" if alike else ""))
    return keys[0], done
