"""Looking on while a request is answered: copies of what passes by, bounded, and handed over at the
end. Nothing is delayed or altered for it, and whoever looks on can break nothing."""

import logging
from collections.abc import Sequence

from proxy.wire.call import Call
from proxy.wire.gate import Gate
from proxy.wire.tap import Copy, Overheard, Stock, Tap

log = logging.getLogger(__name__)


class Recording:
    """Takes the copies of one exchange. The first end counts; what comes later is nobody's."""

    __slots__ = (
        "_answer",
        "_call",
        "_cut",
        "_lines",
        "_request",
        "_request_cut",
        "_status",
        "_tap",
    )

    def __init__(self, tap: Tap, call: Call) -> None:
        self._tap: Tap | None = tap
        self._call = call
        self._request = bytearray()
        self._request_cut = False
        self._status = 0
        self._lines: Sequence[bytes] = ()
        self._answer = bytearray()
        self._cut = False

    def request_data(self, data: bytes) -> None:
        tap = self._tap
        if tap is not None and not self._request_cut:
            self._request_cut = _copied(data, self._request, tap.request_bytes, tap.stock)

    def head(self, status: int, lines: Sequence[bytes]) -> None:
        self._status, self._lines = status, lines

    def data(self, data: bytes) -> None:
        tap = self._tap
        if tap is not None and not self._cut:
            self._cut = _copied(data, self._answer, tap.answer_bytes, tap.stock)

    def end(self, *, complete: bool) -> None:
        tap, self._tap = self._tap, None
        if tap is None:
            return
        call = self._call
        cut_short = call.body is not None and not call.body.arrived
        overheard = Overheard(
            agent=call.agent,
            method=call.method,
            origin=call.origin,
            path=call.path,
            mount=call.mount,
            session=call.session,
            trace=call.trace,
            request_headers=call.raw_headers,
            request=Copy(bytes(self._request), self._request_cut or cut_short),
            status=self._status,
            headers=[_field(line) for line in self._lines],
            answer=Copy(bytes(self._answer), self._cut or not complete),
            complete=complete,
        )
        try:
            tap.done(overheard)
        except Exception:
            log.exception("what passed by was not taken: %s %s", call.method, call.origin.key)


def listen_in(gate: Gate, call: Call) -> None:
    """Ask whether anybody wants to know of this call, and see to it."""
    try:
        tap = gate.tap(call.agent, call.method, call.origin, call.target, call.mount)
    except Exception:
        log.exception("nobody looks on: %s %s", call.method, call.origin.key)
        return
    if tap is None:
        return
    call.reply.recorder = recording = Recording(tap, call)
    if call.body is not None:
        call.body.on_taken = recording.request_data


def _copied(data: bytes, copy: bytearray, limit: int, stock: Stock) -> bool:
    """Add `data` to `copy`; whether some of it found no room."""
    granted = stock.take(min(len(data), limit - len(copy)))
    copy += data if granted == len(data) else data[:granted]
    return granted < len(data)


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()
