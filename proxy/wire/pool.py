"""Idle connections to providers, the last used first."""

import asyncio
from collections import deque

from proxy.wire.dial import Dialer
from proxy.wire.egress import Leave
from proxy.wire.origin import Origin
from proxy.wire.upstream import Upstream, UpstreamError

IDLE_SECONDS = 55.0  # under the 60 s at which common servers close
FRESH_SECONDS = 2.0
PER_ORIGIN = 64


class Pool:
    """Hands out connections. At most one request is on a connection at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dialer: Dialer,
        *,
        header_bytes: int,
        idle_timeout: float,
    ) -> None:
        self._loop = loop
        self._dialer = dialer
        self._header_bytes = header_bytes
        self._idle_timeout = idle_timeout
        self._idle: dict[Origin, deque[tuple[Upstream, float]]] = {}
        self.open: set[Upstream] = set()
        """Every connection that may be alive, for the watchdog and for closing down."""

    def take(
        self, origin: Origin, leave: Leave, *, fresh: bool, tunnel: bool = False
    ) -> Upstream | None:
        """An idle connection to where `leave` reaches, or None. `fresh` wants one used a moment
        ago: for what may not be sent twice, since an older one may have been closed from the other
        side unseen. `tunnel`: see Dialer."""
        stack = self._idle.get(origin)
        while stack:
            upstream, since = stack[-1]
            if not upstream.idle:
                stack.pop()
                continue
            if fresh and self._loop.time() - since > FRESH_SECONDS:
                return None
            if tunnel and upstream.chain is not None:
                return None
            # It may have been dialled for somebody who may be taken further. Its name may stand for
            # other addresses too: a new connection finds out.
            if upstream.granted is not leave:
                if upstream.place is None or leave.refusal(upstream.place) is not None:
                    return None
                upstream.granted = leave
            stack.pop()
            if not stack:
                del self._idle[origin]
            upstream.reused = True
            return upstream
        self._idle.pop(origin, None)
        return None

    @property
    def idle(self) -> int:
        """How many connections wait for somebody to use them."""
        return sum(upstream.idle for stack in self._idle.values() for upstream, _ in stack)

    async def dial(self, origin: Origin, leave: Leave, *, tunnel: bool = False) -> Upstream:
        """A new connection, or DialError. `tunnel`: see Dialer."""
        upstream = await self._dialer.dial(origin, leave, lambda: self._make(origin), tunnel=tunnel)
        self.open.add(upstream)
        return upstream

    def sweep(self, now: float) -> None:
        """End what is past its deadline, and let go of what is closed."""
        for upstream in [u for u in self.open if u.transport is None or 0 < u.deadline < now]:
            if upstream.transport is None:
                self.open.discard(upstream)
            else:
                upstream.deadline = 0.0
                upstream.expired()
        for origin, stack in list(self._idle.items()):
            if not any(upstream.idle for upstream, _ in stack):
                del self._idle[origin]

    def close(self) -> None:
        """Drop every connection."""
        for upstream in list(self.open):
            upstream.fail(UpstreamError("autopay is stopping", "stopping"))
        self._idle.clear()

    def _make(self, origin: Origin) -> Upstream:
        return Upstream(
            self._loop,
            origin,
            header_bytes=self._header_bytes,
            idle_timeout=self._idle_timeout,
            release=self._put,
        )

    def _put(self, upstream: Upstream) -> None:
        stack = self._idle.setdefault(upstream.origin, deque())
        upstream.deadline = self._loop.time() + IDLE_SECONDS
        stack.append((upstream, self._loop.time()))
        if len(stack) > PER_ORIGIN:
            oldest, _ = stack.popleft()
            oldest.abort()
