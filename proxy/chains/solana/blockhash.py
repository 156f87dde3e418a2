"""A fresh blockhash at hand before anyone asks.

The blockhash is what makes an authorization expire, so its last valid block height comes from our
own RPC, never from a server's hint. Fetched ahead of need every two seconds while payments happen;
after some minutes without one the polling rests, and the next payment fetches for itself.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import TTLCache

from proxy.chains import Unpayable
from proxy.tasks import end

from .rpc import Blockhash
from .singleflight import SingleFlight

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    blockhash: Blockhash
    asked_at: float


class Blockhashes:
    """Recent blockhashes of one network. All times are in seconds."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Blockhash]],
        *,
        every: float = 2.0,
        stale_after: float = 20.0,
        idle_after: float = 300.0,
        patience: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stale_after`: older ones are not signed with. `patience`: how long to wait for a new
        one, which a healthy network makes in well under a second.
        """
        self._fetch = fetch
        self._every = every
        self._stale_after = stale_after
        self._idle_after = idle_after
        self._patience = patience
        self._clock = clock
        self._newest: _Seen | None = None
        self._recent: TTLCache[str, _Seen] = TTLCache(maxsize=256, ttl=60.0, timer=clock)
        self._flight: SingleFlight[None, Blockhash] = SingleFlight()
        self._failure: tuple[float, Unpayable] | None = None
        self._wanted = asyncio.Event()
        self._last_use = 0.0
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to poll; the first payment shall find one ready."""
        self._touch()
        self._poller = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Stop polling."""
        await end(self._poller)
        await self._flight.close()

    async def current(self) -> Blockhash:
        """One that is young enough to sign with; at once, unless polling rested or the RPC is down.

        Raises Unpayable("rpc_unavailable").
        """
        self._touch()
        return await self._young()

    async def check(self) -> None:
        """Like `current`, for somebody who does not pay: polling that rests is not woken."""
        await self._young()

    async def _young(self) -> Blockhash:
        if self._newest is not None and self._is_young(self._newest):
            return self._newest.blockhash
        if self._failure is not None and self._clock() - self._failure[0] < 1.0:
            # A dead RPC is not asked again by each of a thousand requests.
            failed = self._failure[1]
            raise Unpayable(failed.code, failed.detail, failed.retry_after)
        return await self._fetch_now()

    def known(self, text: str | None) -> Blockhash | None:
        """The very blockhash a server hints at, if our own RPC gave it to us a moment ago."""
        seen = self._recent.get(text) if text is not None else None
        return seen.blockhash if seen is not None and self._is_young(seen) else None

    async def newer_than(self, text: str) -> Blockhash:
        """One that is not `text` and, as far as we remember `text`, came after it.

        Raises Unpayable("rpc_unavailable") when the network makes none within our patience.
        """
        self._touch()
        old = self._recent.get(text)
        deadline = self._clock() + self._patience
        while (newer := self._newer(text, old)) is None:
            if self._clock() >= deadline:
                raise Unpayable(
                    "rpc_unavailable",
                    f"the Solana RPC gave no newer blockhash within {self._patience:g} s",
                    retry_after=1,
                )
            await self._fetch_now()
            if self._newer(text, old) is None:
                await asyncio.sleep(min(0.2, self._patience / 4))
        return newer

    def _newer(self, text: str, old: _Seen | None) -> Blockhash | None:
        newest = self._newest
        if newest is None or newest.blockhash.hash == text or not self._is_young(newest):
            return None
        # Heights, because a pool of RPC nodes may lag and answer with one from before `text`.
        height = newest.blockhash.last_valid_block_height
        if old is not None and height <= old.blockhash.last_valid_block_height:
            return None
        return newest.blockhash

    def _touch(self) -> None:
        self._last_use = self._clock()
        self._wanted.set()

    def _is_young(self, seen: _Seen) -> bool:
        return self._clock() - seen.asked_at < self._stale_after

    async def _fetch_now(self) -> Blockhash:
        return await self._flight.run(None, self._fetch_and_keep)

    async def _fetch_and_keep(self) -> Blockhash:
        asked_at = self._clock()
        try:
            blockhash = await self._fetch()
        except Unpayable as failure:
            if self._failure is None:
                log.warning("no blockhash, so no payments when the last one is stale: %s", failure)
            self._failure = (self._clock(), failure)
            raise
        self._failure = None
        self._newest = self._recent[blockhash.hash] = _Seen(blockhash, asked_at)
        return blockhash

    async def _poll(self) -> None:
        while True:
            await self._wanted.wait()
            if self._clock() - self._last_use > self._idle_after:
                self._wanted.clear()
                continue
            # A failure was told in _fetch_and_keep, and is to every payment that needs one.
            with contextlib.suppress(Unpayable):
                await self._fetch_now()
            await asyncio.sleep(self._every)
