"""Hosts that are nowhere, one for each intent: `http://NAME.intent.autopay/…`, where a program gets
what it wants from whoever serves it best.

They are answered here, for http and https, at every port, and on the mounts under
`/.intent/NAME/…`; no such name is ever resolved. Who is asked, and what of it may cost what, is
known to whoever `DataPlane.intents` was given.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from proxy.wire.agent import Agent
from proxy.wire.call import Call
from proxy.wire.headers import header
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders
from proxy.wire.problem import Problem
from proxy.wire.upstream import Fed

log = logging.getLogger(__name__)

SUFFIX = ".intent.autopay"
MOUNT = b".intent"  # no provider can have a name that begins with a dot
MAX_BODY = 1_048_576


def is_intent(host: str) -> bool:
    """Also of names that can be no intent's, so that none of them is ever looked up."""
    host = "." + host.rstrip(".")
    return host.endswith(SUFFIX)


def origin_for(name: str) -> Origin:
    """As which an intent is asked for on the mounts."""
    return Origin("http", name + SUFFIX, 80)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A program's request to an intent. `suffix`: its path and query."""

    agent: Agent
    name: str
    method: str
    suffix: bytes
    headers: RawHeaders
    body: bytes
    session: str | None
    trace: str | None
    tool: str | None
    key: bytes | None
    call: Call
    downstream: Fed


Serve = Callable[[Wanted], Awaitable[None]]


async def answer(serve: Serve | None, call: Call, downstream: Fed, patience: float) -> None:
    """Take the request whole, and have it served. `patience`: seconds that a body may stall."""
    try:
        if serve is None or call.upgrade or call.method in ("OPTIONS", "TRACE"):
            raise Problem(
                405, "method_not_allowed", "An intent is asked for, and no more. Nothing was paid."
            )
        body = await _whole(call, patience)
        await serve(
            Wanted(
                call.agent,
                call.origin.host.rstrip(".").removesuffix(SUFFIX),
                call.method,
                call.target,
                call.onward,
                body,
                call.session,
                call.trace,
                call.tool,
                call.idempotency_key,
                call,
                downstream,
            )
        )
    except Problem as problem:
        call.reply.problem(problem)
    except Exception:
        log.exception("an intent was not served: %s", call.url)
        if call.reply.started:
            call.reply.broken()
        else:
            call.reply.problem(
                Problem(
                    500, "internal_error", "autopay failed. See its log and `autopay receipts`."
                )
            )


async def _whole(call: Call, patience: float) -> bytes:
    """The request's body, which is wanted once for each attempt. Raises Problem."""
    if call.body is None:
        return b""
    expects = (header(call.raw_headers, b"expect") or b"").lower()
    if call.body.untouched and expects == b"100-continue":
        call.reply.interim(100, b"Continue", ())
    taker = _Taker()
    call.body.chunked = False  # as it is, without the framing in which it came
    call.body.attach(taker)
    try:
        while not taker.done.is_set():
            before = taker.size
            with suppress(TimeoutError):
                await asyncio.wait_for(taker.done.wait(), patience)
            if taker.size == before and not taker.done.is_set():
                raise Problem(408, "request_timeout", "The request's body did not come.")
    finally:
        call.body.forget()
    if taker.size > MAX_BODY:
        raise Problem(
            413,
            "content_too_large",
            f"A request to an intent may have {MAX_BODY} bytes at most. Nothing was sent or paid.",
        )
    return b"".join(taker.taken)


class _Taker:
    """Where the body goes (`Sink`, and what of a transport is asked of it)."""

    def __init__(self) -> None:
        self.writing_paused = False
        self.transport: asyncio.Transport | None = cast(asyncio.Transport, self)
        self.taken: list[bytes] = []
        self.size = 0
        self.done = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= MAX_BODY:
            self.taken.append(data)
        else:
            self.writing_paused = True  # no more of it is read
            self.done.set()

    def body_moved(self) -> None: ...

    def body_sent(self) -> None:
        self.done.set()
