"""A call of our own on the programs' way: the same admission, egress, tap, 402, payment and record,
and an answer that is collected instead of written.

    fetched = await fetch(plane, agent, request, errand, limit=65_536, seconds=30.0)

There is no second way to pay: what is here is a `Call` whose program is this process, and a `Reply`
that keeps what it is told.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from proxy.wire.agent import Agent
from proxy.wire.body import Body, Keeper
from proxy.wire.call import Call
from proxy.wire.gate import Errand, Whole
from proxy.wire.headers import read_request_fields
from proxy.wire.origin import Origin
from proxy.wire.parsers import Payload, RawHeaders
from proxy.wire.plane import DataPlane
from proxy.wire.problem import Problem
from proxy.wire.reply import Connection, Reply
from proxy.wire.target import MountPoint, Target
from proxy.wire.tunnel import TunnelEnd
from proxy.wire.upstream import Fed, Upstream

_OURS = b"autopay-"  # no provider can say anything under such a name
_MADE_ANEW = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"trailer"))
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be asked. `headers` as a program would send them: those that begin with Autopay-
    are read and go no further, framing is made anew. `mount`: see Target."""

    method: str
    origin: Origin
    target: bytes
    headers: RawHeaders = ()
    body: bytes = b""
    mount: MountPoint | None = None

    @property
    def url(self) -> str:
        return (
            b"%b://%b%b" % (self.origin.scheme.encode(), self.origin.authority, self.target)
        ).decode("utf-8", "replace")

    @property
    def endpoint(self) -> str:
        """As `Call.endpoint`."""
        return f"{self.method} {self.url.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Cut:
    """No whole answer: what there was of it. `why` is one line for people, `status` 0 before its
    head. `large`: there is more of it than was wanted; `late`: it took longer than was given."""

    why: str
    status: int
    headers: RawHeaders
    ours: RawHeaders
    body: bytes
    large: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True)
class Onward:
    """The program that is behind it, and how an answer goes on to it that is too long to be
    collected: `begin` is asked once, with its status and what autopay says of its payment, for the
    lines that go with it; None: it is not wanted."""

    call: Call
    downstream: Fed
    begin: Callable[[int, RawHeaders], Sequence[bytes] | None]


@dataclass(frozen=True, slots=True)
class Passed:
    """The answer went on, as far as it came."""

    status: int
    ours: RawHeaders
    complete: bool


Fetched = Whole | Problem | Cut | Passed


async def fetch(
    plane: DataPlane,
    agent: Agent,
    request: Request,
    errand: Errand | None = None,
    *,
    limit: int,
    seconds: float,
    onward: Onward | None = None,
    blames: bool = False,
) -> Fetched:
    """Ask, and collect the answer: up to `limit` bytes of its body, for `seconds` at most.

    Past either, or cancelled, it is given up as if a program had hung up; a payment that has left
    is on `errand.tab` all the same. What goes `onward` has all the time it needs. `Passed` comes
    only with `onward`. `blames`: the provider's breaker hears of one that did not even begin; only
    where `seconds` are the operator's word on it.
    """
    aside = _Aside(plane.loop, limit, onward, head_only=request.method == "HEAD")
    call = Call(*_made(agent, request), aside, plane.loop.time())
    call.errand = errand
    aside.give_up = call.hung_up
    feeding: Fed = _Nobody()
    if onward is not None:
        feeding = onward.downstream
        call.leaving = onward.call.leaving
        onward.call.on_leaving = call.left_off
        feeding.feeder = None  # one that broke off before may still be there
    plane.send(call, feeding)
    try:
        async with asyncio.timeout(seconds) as patience:
            aside.patience = patience
            return await aside.fetched
    except TimeoutError:
        # Only a silent provider has failed. One that feeds us has the request, and its 402 has not
        # come; with its head it has had its word, and a long answer is no fault. Time that went
        # into leave, dialling or our own ledger is not the provider's. In all these cases hanging
        # up says that nothing was learned, or who pays says what was.
        if blames and feeding.feeder is not None and not aside.started:
            call.ticket.failure(f"no answer in {seconds:g} s")
        return aside.cut(f"no whole answer in {seconds:g} s", late=True)
    finally:
        if onward is not None:
            onward.call.on_leaving = None
        aside.abandon()
        if not aside.over:
            call.hung_up()


class _Aside(Reply):
    """An answer as it comes. `fetched` is what became of it."""

    __slots__ = (
        "_body",
        "_limit",
        "_lines",
        "_onward",
        "_reason",
        "_through",
        "fetched",
        "give_up",
        "over",
        "patience",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        onward: Onward | None,
        *,
        head_only: bool,
    ) -> None:
        # Whatever would touch a connection is overridden: there is none.
        super().__init__(cast(Connection, None), http10=False, keep=True, head_only=head_only)
        self.fetched: asyncio.Future[Fetched] = loop.create_future()
        self.give_up: Callable[[], None]
        self.patience: asyncio.Timeout | None = None
        self.over = False
        """Its last byte has come, or it is known that it never will."""
        self._limit = limit
        self._onward = onward
        self._through: Reply | None = None  # all goes there by now
        self._reason = b""
        self._lines: Sequence[bytes] = ()
        self._body = bytearray()

    # --- Reply

    def interim(self, code: int, reason: bytes, lines: Sequence[bytes]) -> None:
        """Nobody here waits for a 1xx."""

    def head(
        self, code: int, reason: bytes, lines: list[bytes], *, has_body: bool, length_known: bool
    ) -> None:
        self.started = True
        self._status, self._reason, self._lines = code, reason, lines
        if self.recorder is not None:
            self.recorder.head(code, lines)
        if has_body and any(_is_stream(line) for line in lines):  # it may well have no end
            self._go_on(length_known=length_known)

    def data(self, data: bytes) -> None:
        if self.recorder is not None:
            self.recorder.data(data)
        if self._through is not None:
            self._through.data(data)
            return
        if self._ended:
            return
        self._body += data
        if len(self._body) > self._limit:
            known = any(line[:15].lower() == b"content-length:" for line in self._lines)
            if not self._go_on(length_known=known):
                self._end(self.cut(f"the answer has more than {self._limit} bytes", large=True))
                asyncio.get_running_loop().call_soon(self.give_up)

    def end(self, data: bytes = b"", trailers: Sequence[bytes] = ()) -> None:
        self.data(data)
        self.over = not self._ended
        if self.recorder is not None:
            self.recorder.end(complete=True)
        if self.on_over is not None:
            self.on_over()
        if self._through is not None:
            self._through.end(trailers=trailers)
            self._end(Passed(self._status, self._ours, complete=True))
        else:
            body = bytes(self._body)
            self._end(Whole(self._status, self._reason, self._theirs, self._ours, body))

    async def drained(self) -> None:
        if self._through is not None:
            await self._through.drained()

    def broken(self) -> None:
        self.forsaken()
        self.over = True
        if self._through is not None:
            self._through.broken()
            self._end(Passed(self._status, self._ours, complete=False))
        else:
            self._end(self.cut("the answer broke off"))

    def problem(self, problem: Problem, *, close: bool = False) -> None:
        self.over = True
        if self.on_over is not None:
            self.on_over()
        self._end(problem)

    def switch(self, head: bytes, far: TunnelEnd) -> None:
        raise AssertionError("no upgrade was asked for")

    # ---

    def abandon(self) -> None:
        """Nobody waits for it any more. What was paid for is read on all the same, and must not
        come between the program and the next one's answer."""
        self._ended = True
        self._onward = None
        self.patience = None

    def cut(self, why: str, *, large: bool = False, late: bool = False) -> Cut:
        """What there is of it."""
        body = bytes(self._body[: self._limit])
        return Cut(why, self._status, self._theirs, self._ours, body, large=large, late=late)

    @property
    def _theirs(self) -> RawHeaders:
        return [_field(line) for line in self._lines if not _is_ours(line)]

    @property
    def _ours(self) -> RawHeaders:
        return [_field(line) for line in self._lines if _is_ours(line)]

    def _go_on(self, *, length_known: bool) -> bool:
        """Let it go on to a program, from its first byte, if that takes it."""
        onward = self._onward
        # Done: given up, if only in this very tick, and who waited has not woken up yet.
        if onward is None or self.fetched.done():
            return False
        extra = onward.begin(self._status, self._ours)
        if extra is None:
            return False
        if self.patience is not None:
            self.patience.reschedule(None)
        through = onward.call.reply
        through.outcome = self.outcome
        lines = [*self._lines, *extra]
        through.head(self._status, self._reason, lines, has_body=True, length_known=length_known)
        through.data(bytes(self._body))
        self._through = through
        self._body.clear()
        return True

    def _end(self, fetched: Fetched) -> None:
        self._ended = True
        if not self.fetched.done():
            self.fetched.set_result(fetched)


@dataclass(frozen=True, slots=True)
class _Head:
    """A request's head that no parser has read (`RequestHead`)."""

    method: str
    path: str
    raw_headers: RawHeaders
    version: Any = (1, 1)
    url: Any = None
    should_close: bool = False
    upgrade: bool = False
    chunked: bool = False


class _Here:
    """A body that is all there (`Payload`, as far as a `Body` asks)."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_nowait(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def is_eof(self) -> bool:
        return True


class _Nobody:
    """In the place of a program's connection: it takes whatever comes, as fast as it comes."""

    __slots__ = ("feeder",)

    def __init__(self) -> None:
        self.feeder: Upstream | None = None


def _made(agent: Agent, request: Request) -> tuple[Any, Any, Target, Body | None]:
    """The first arguments of a `Call`."""
    headers = [field for field in request.headers if field[0].lower() not in _MADE_ANEW]
    body = None
    if request.body or request.method in _WITH_BODY:
        headers.append((b"Content-Length", b"%d" % len(request.body)))
        keeper = Keeper(max(1, len(request.body)), 0)
        body = Body(cast(Payload, _Here(request.body)), chunked=False, keeper=keeper)
    target = request.target.decode("utf-8", "surrogateescape")
    return (
        _Head(request.method, target, headers),
        read_request_fields(headers),
        Target(agent, request.origin, request.target, request.mount),
        body,
    )


def _is_ours(line: bytes) -> bool:
    return line[: len(_OURS)].lower() == _OURS


def _is_stream(line: bytes) -> bool:
    name, _, value = line.partition(b":")
    return name.lower() == b"content-type" and value.strip().lower().startswith(
        b"text/event-stream"
    )


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()
