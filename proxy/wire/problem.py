"""Our own answers: RFC 9457 problem documents, for programs and for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import of_problem

REASONS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    407: b"Proxy Authentication Required",
    408: b"Request Timeout",
    409: b"Conflict",
    412: b"Precondition Failed",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    422: b"Unprocessable Content",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


@dataclass(eq=False)  # not frozen: Python sets __traceback__ on what is raised
class Problem(Exception):
    """An answer of ours instead of the provider's.

    `code` is stable and for programs; `detail` is one or two plain sentences: what happened, what
    it cost, what to do next. `extra` holds further members (limits, ids). `headers` are lines such
    as (b"Retry-After", b"30").
    """

    status: int
    code: str
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    last: bool = False
    """Nothing more is taken on its connection."""

    @property
    def reason(self) -> bytes:
        return REASONS.get(self.status, b"Error")

    def body(self) -> bytes:
        """The document, ASCII-only JSON with a newline at its end."""
        known = of_problem(self.code)
        document = {
            "type": f"urn:autopay:problem:{self.code}",
            "title": self.reason.decode(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **({} if known is None else {"fault": known.party, "retryable": known.retryable}),
            **self.extra,
        }
        return json.dumps(document).encode() + b"\n"
