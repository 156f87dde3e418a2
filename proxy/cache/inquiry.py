"""One request that a cache is asked about."""

from proxy.cache.flight import Route
from proxy.cache.rules import Terms, Wish
from proxy.cache.shelves import Key, Stored
from proxy.ledger import Agent
from proxy.wire.call import Call
from proxy.wire.credentials import credential_of
from proxy.wire.parsers import RawHeaders


class Inquiry:
    """`fields` as its provider gets them. `own` and `everybodys`: where answers may be that serve
    it. `apart`: it joins only requests of its own agent. `stale`: what its provider can be asked
    about; `why`: for Cache-Status."""

    __slots__ = (
        "agent",
        "apart",
        "asked",
        "call",
        "everybodys",
        "fields",
        "own",
        "stale",
        "terms",
        "why",
    )

    def __init__(self, call: Call, terms: Terms, fields: RawHeaders, asked: Wish) -> None:
        assert isinstance(call.agent, Agent), "the directory hands out the agents"
        self.call = call
        self.fields = fields
        self.agent: Agent = call.agent
        self.terms = terms
        self.asked = asked
        self.own = Key(self.agent.id, credential_of(fields), call.origin, call.target)
        self.everybodys = Key(None, b"", call.origin, call.target)
        self.apart = asked.credential or not terms.shared
        self.stale: Stored | None = None
        self.why = b"uri-miss"

    @property
    def route(self) -> Route:
        """Of the requests that it waits for, or that wait for it."""
        return (self.own if self.apart else self.everybodys, self.call.method)

    @property
    def alone(self) -> bool:
        """Whether no other's answer would do, nor this one's for others."""
        asks = self.asked.asks
        return (
            self.asked.conditional
            or asks.no_cache
            or asks.max_age == 0
            or asks.min_fresh is not None
        )
