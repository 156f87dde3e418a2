"""What a program is told of the cache: our own fields, and the standard Cache-Status (RFC 9211)."""

from collections.abc import Sequence

from proxy.cache.rules import Wish, of_304, unchanged
from proxy.cache.shelves import Stored
from proxy.wire.gate import Replayed, Whole
from proxy.wire.parsers import RawHeaders
from proxy.wire.problem import Problem

_NAME = b"autopay"


def status(*words: bytes) -> tuple[bytes, bytes]:
    """A member of Cache-Status, like `autopay; hit; ttl=7`."""
    return b"Cache-Status", b"; ".join((_NAME, *words))


def served(
    one: Stored, asked: Wish, age: float, words: Sequence[bytes], told: RawHeaders = ()
) -> Replayed:
    """A stored answer as this request gets it, or a 304 if the program has it already. `told`: of
    the payment that its provider took for saying that nothing has changed, if it took one."""
    headers: RawHeaders = (*one.headers, (b"Age", b"%d" % age))
    if unchanged(asked, one.headers):
        whole = Whole(304, b"Not Modified", of_304(headers), (), b"")
    else:
        whole = Whole(one.status, one.reason, headers, (), one.body)
    ttl = b"ttl=%d" % (one.life.seconds - int(age))
    ours = told or (
        (b"Autopay-State", b"cached"),
        (b"Autopay-Payment", str(one.bought.payment_id).encode()),
        (b"Autopay-Saved", one.bought.amount),
    )
    return Replayed(whole, (*ours, status(*words, ttl)))


def only_if_cached() -> Problem:
    """RFC 9111 section 5.2.1.7."""
    return Problem(
        504,
        "not_cached",
        "The request wants a cached answer or none (only-if-cached), and there is none that it may"
        " be served. Nothing was sent or paid.",
        headers=(status(b"fwd=request", b"detail=only-if-cached"),),
    )
