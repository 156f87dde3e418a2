"""The data plane as a whole: its listeners, its connections, and their end."""

import asyncio
import ctypes
import logging
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from proxy.wire.agent import Caller
from proxy.wire.call import Call
from proxy.wire.chain import Chain
from proxy.wire.dial import Dialer, DialError, Forbidden, Resolver
from proxy.wire.downstream import Downstream
from proxy.wire.gate import Gate, TurnedAway
from proxy.wire.inside import answer, is_inside, nothing_else
from proxy.wire.intents import Serve, is_intent
from proxy.wire.intents import answer as serve_intent
from proxy.wire.intercept import ESTABLISHED, Certificates, Interceptor, TunnelRules
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.outcomes import Outcomes
from proxy.wire.parsers import require_c_parser
from proxy.wire.pool import Pool
from proxy.wire.problem import Problem
from proxy.wire.relay import Relay, unreachable
from proxy.wire.reply import Reply
from proxy.wire.retrying import Retries, RetryRules
from proxy.wire.routes import Router
from proxy.wire.tap import Stock
from proxy.wire.tunnel import Tunnel, TunnelEnd, join
from proxy.wire.upstream import Fed

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
CLOSE_POLL_SECONDS = 0.02
BACKLOG = 4096


class Cache(Protocol):
    """Is asked before anybody else. It never raises and never waits."""

    @property
    def used(self) -> int:
        """Bytes that its answers take up."""
        ...

    @property
    def entries(self) -> int:
        """How many they are."""
        ...

    def meets(self, call: Call, go_on: Callable[[], None]) -> bool | Coroutine[Any, Any, None]:
        """True: the call is answered. False: it has to go on. A coroutine: it waits for another
        one's answer, and does one or the other. Cancelled, it has done neither."""
        ...


class DataPlane:
    """Serves programs. `listen()` binds; `close()` ends what is under way, gracefully first."""

    def __init__(
        self,
        gate: Gate,
        limits: Limits,
        *,
        ca_file: Path | None = None,
        off_limits: Iterable[tuple[str, int]] = (),
        resolver: Resolver | None = None,
        chain: Chain | None = None,
        retries: RetryRules | None = None,
        retries_by_origin: Mapping[Origin, RetryRules] | None = None,
    ) -> None:
        """`off_limits` are servers, by name or address, to which nobody is taken, whatever a policy
        says; what `listen()` binds joins them. `resolver`, `chain`: see Dialer. `retries`: the
        rules of the providers that have none of their own."""
        require_c_parser()
        self.loop = asyncio.get_running_loop()
        self.gate = gate
        self.limits = limits
        self.dialer = Dialer(
            self.loop, timeout=limits.connect, ca_file=ca_file, resolver=resolver, chain=chain
        )
        self.dialer.own.extend(off_limits)
        self.retries = Retries(self.loop, gate, retries or RetryRules(), retries_by_origin or {})
        self.outcomes = Outcomes()
        self.copies = Stock(limits.keep_memory_bytes)
        """Of paid answers under way."""
        self.cache: Cache | None = None
        """Is asked before any provider, if there is one."""
        self.intents: Serve | None = None
        """Serves what is asked of no provider by name."""
        self.pool = Pool(
            self.loop, self.dialer, header_bytes=limits.header_bytes, idle_timeout=limits.idle
        )
        self._interceptor: Interceptor | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[Downstream] = set()
        self._tunnels: set[Tunnel] = set()
        self._opening = 0  # tunnels of which it is not known yet what is in them
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watchdog = self.loop.call_later(WATCH_SECONDS, self._watch)

    def intercept(self, certificates: Certificates, rules: TunnelRules) -> None:
        """Look into tunnels from here on. Without this call, all of them are joined blind."""
        self._interceptor = Interceptor(self, certificates, rules)

    async def listen(self, host: str, port: int, router: Router) -> tuple[str, int]:
        """Bind a listener for `router`; the address bound (port 0 picks a free one)."""
        server = await self.loop.create_server(
            lambda: Downstream(self, router), host, port, backlog=BACKLOG
        )
        self._servers.append(server)
        bound = [sock.getsockname()[:2] for sock in server.sockets]
        self.dialer.own.extend(bound)
        host, bound_port = bound[0]
        return host, bound_port

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, let requests under way finish for `grace` seconds, then drop them."""
        for server in self._servers:
            server.close()
        end = self.loop.time() + grace
        while (self._connections or self._tasks) and self.loop.time() < end:
            for connection in list(self._connections):
                connection.retire()
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        self._watchdog.cancel()
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        for tunnel in list(self._tunnels):
            tunnel.drop()
        self.pool.close()
        # A payment under way hears that its answer is lost, and has time to record that.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()

    def keep_from(self, servers: Iterable[tuple[str, int]]) -> None:
        """More servers, by name or address, to which nobody is taken, whatever a policy says."""
        self.dialer.own.extend(servers)

    @property
    def connections(self) -> int:
        """How many programs are connected."""
        return len(self._connections)

    @property
    def intercepts(self) -> bool:
        """Whether there is a certificate authority to look into tunnels with."""
        return self._interceptor is not None

    @property
    def tunnels(self) -> int:
        """How many tunnels are joined blind, upgraded connections among them."""
        return len(self._tunnels)

    @property
    def programs(self) -> int:
        """How many of the places in `limits.connections` are taken: by connections, by tunnels, and
        by tunnels that are being opened."""
        return len(self._connections) + len(self._tunnels) + self._opening

    # --- for the connections

    def opened(self, connection: Downstream) -> bool:
        """Whether there is room for one more program. A tunnel keeps the place of the connection
        that it was."""
        self._connections.add(connection)
        return self.programs <= self.limits.connections

    def closed(self, connection: Downstream) -> None:
        self._connections.discard(connection)

    def joined(self, tunnel: Tunnel) -> None:
        if not tunnel.closed:
            self._tunnels.add(tunnel)
            tunnel.on_closed = self._tunnels.discard

    def begin(self, call: Call, downstream: Fed) -> None:
        """A request is to be answered."""
        if is_inside(call.origin.host):
            call.on_gone = self.spawn(answer(self.gate, call)).cancel
        elif is_intent(call.origin.host):
            call.on_gone = self.spawn(
                serve_intent(self.intents, call, downstream, self.limits.response)
            ).cancel
        else:
            self.send(call, downstream)

    def send(self, call: Call, downstream: Fed) -> None:
        """A request goes to its provider, if the cache has nothing for it."""
        relay = Relay(self, call, downstream)
        met = self.cache is not None and self.cache.meets(call, relay.begin)
        if met is False:
            relay.begin()
        elif met is not True:
            call.on_gone = self.spawn(met).cancel

    def tunnel(
        self, caller: Caller, host: str, port: int, downstream: Downstream, reply: Reply
    ) -> None:
        """A CONNECT is to be answered: opened, or joined blind. Raises Problem to refuse it."""
        interceptor = self._interceptor
        if interceptor is not None and (_is_ours(host) or interceptor.opens(caller, host)):
            transport, early = downstream.leave()
            if transport is not None:
                self.outcomes.ended("opened", 0)
                self._opening += 1
                self.spawn(self._open(interceptor, caller, host, port, transport, early))
        else:
            self.spawn(self._tunnel(caller, host, port, reply))

    async def _open(
        self,
        interceptor: Interceptor,
        caller: Caller,
        host: str,
        port: int,
        transport: asyncio.Transport,
        early: bytes,
    ) -> None:
        try:
            await interceptor.open(caller, host, port, transport, early)
        finally:
            self._opening -= 1

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task that is kept until done, and whose failure is logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task failed", exc_info=error)

    async def _tunnel(self, caller: Caller, host: str, port: int, reply: Reply) -> None:
        try:
            far = await self.far_end(caller, host, port)
        except Problem as problem:
            reply.problem(problem, close=True)
        else:
            reply.switch(ESTABLISHED, far)

    async def join_blindly(
        self, caller: Caller, host: str, port: int, transport: asyncio.Transport, early: bytes
    ) -> None:
        """Join a program that was told 200 already. If that fails, hanging up is all that is left
        to say."""
        try:
            far = await self.far_end(caller, host, port)
        except Problem as problem:
            log.info("a tunnel to %s:%d was not joined: %s", host, port, problem.detail)
            transport.abort()
        else:
            silent = not early and not far.early
            tunnel = join(transport, far, b"", early)
            if silent:  # somebody has to begin
                tunnel.expect(self.loop.time() + self.limits.client_header)
            self.joined(tunnel)

    async def far_end(self, caller: Caller, host: str, port: int) -> TunnelEnd:
        """The provider's end of a blind tunnel; raises Problem if there can be none."""
        where = f"{host}:{port}"
        if _is_ours(host):
            raise nothing_else()  # no CA to open it with, or not http in it
        try:
            far = await self.dialer.tunnel(host, port, self.gate.leave(caller.agent), TunnelEnd)
        except Forbidden as error:
            self.gate.turned_away(
                TurnedAway(
                    caller.agent, "CONNECT", where, error.code, error.address, caller.session
                )
            )
            raise error.problem() from error
        except DialError as error:
            raise unreachable(where, error) from error
        assert isinstance(far, TunnelEnd)
        return far

    def _watch(self) -> None:
        """Enforce deadlines: one pass a second is cheaper than a timer per request."""
        now = self.loop.time()
        for connection in [c for c in self._connections if 0 < c.deadline < now]:
            connection.deadline = 0.0
            connection.expired()
        self.pool.sweep(now)
        for tunnel in list(self._tunnels):
            tunnel.check(now, self.limits.idle)
        self._watchdog = self.loop.call_later(WATCH_SECONDS, self._watch)


def _is_ours(host: str) -> bool:
    """Whether there is nobody but us under this name."""
    return is_inside(host) or is_intent(host)


def tune_malloc() -> None:
    """Keep glibc from giving the heap's top back after every large read.

    Each freed 256 KiB read made it shrink and regrow the heap, three brk(2) per chunk: large
    bodies cost 2.4 times the CPU. Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-1, 64 << 20), (-3, 32 << 20), (-2, 4 << 20)):
            libc.mallopt(option, value)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_TOP_PAD
    except (OSError, AttributeError):
        log.debug("mallopt is not there", exc_info=True)
