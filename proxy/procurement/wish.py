"""What an agent asks of an intent, and what each candidate is asked for it."""

import hashlib
from dataclasses import dataclass

from proxy.intents import Candidate, Intent
from proxy.ledger import Agent
from proxy.wire.aside import Request
from proxy.wire.credentials import is_credential
from proxy.wire.parsers import RawHeaders
from proxy.x402 import PAYMENT_HEADERS


@dataclass(frozen=True, slots=True)
class Wish:
    """`suffix`: path and query, below each candidate's URL. `headers` hold nothing that was for us;
    `key` is the program's Idempotency-Key."""

    agent: Agent
    intent: Intent
    method: str = "GET"
    suffix: bytes = b"/"
    headers: RawHeaders = ()
    body: bytes = b""
    session: str | None = None
    trace: str | None = None
    tool: str | None = None
    key: bytes | None = None

    def request(self, candidate: Candidate, number: int = 0) -> Request:
        """What this candidate is asked. `number`: of the payment that it may come to."""
        own = {name.lower() for name, _ in candidate.headers} | PAYMENT_HEADERS
        # A program's secret for one provider is not for another: a candidate has its own.
        headers = [
            field
            for field in self.headers
            if field[0].lower() not in own and not is_credential(field[0])
        ]
        for name, value in (
            (b"Autopay-Session", self.session),
            (b"Autopay-Trace", self.trace),
            (b"Autopay-Tool", self.tool),
        ):
            if value is not None:
                headers.append((name, value.encode()))
        if self.key is not None:
            headers.append((b"Autopay-Idempotency-Key", self.payment_key(number)))
        return Request(
            candidate.method or self.method,
            candidate.origin,
            _joined(candidate.target, self.suffix),
            [*headers, *candidate.headers],
            self.body if candidate.body is None else candidate.body,
        )

    def payment_key(self, number: int) -> bytes:
        """What the `number`-th payment under this wish's key is known by: whoever is asked, it is
        one."""
        assert self.key is not None
        parts = (b"intent", self.intent.name.encode(), b"%d" % number, self.key)
        return hashlib.sha256(b"\0".join(parts)).hexdigest().encode()


def _joined(target: bytes, suffix: bytes) -> bytes:
    path, _, query = target.partition(b"?")
    more_path, _, more_query = suffix.partition(b"?")
    if more_path not in (b"", b"/"):
        path = path.rstrip(b"/") + more_path
    queries = [one for one in (query, more_query) if one]
    return path + b"?" * bool(queries) + b"&".join(queries)
