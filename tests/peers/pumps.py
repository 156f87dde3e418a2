"""The bytes between a client and PostgreSQL: carried, stalled, swallowed and cut on command."""

import asyncio


class Pumps:
    """Both directions of every connection that is joined to another."""

    def __init__(self) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._deaf = False
        self._fuse: int | None = None

    async def join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: str
    ) -> None:
        """A client's connection, to the server behind `socket`. Raises OSError."""
        up_reader, up_writer = await asyncio.open_unix_connection(socket)
        self._writers |= {writer, up_writer}
        for source, target, is_answer in ((reader, up_writer, False), (up_reader, writer, True)):
            pump = asyncio.create_task(self._pump(source, target, is_answer))
            self._running.add(pump)
            pump.add_done_callback(self._running.discard)

    def cut(self) -> None:
        """Every connection ends with a reset."""
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_after(self, answered: int) -> None:
        """The same, once that many bytes of answers have passed: some are cut in two, and some
        statements are carried out of which nobody hears."""
        self._fuse = answered

    def stall(self) -> None:
        """Nothing moves, and nobody is told."""
        self._flowing.clear()

    def deafen(self) -> None:
        """What is asked is carried out; the answers are swallowed."""
        self._deaf = True

    @property
    def deaf(self) -> bool:
        return self._deaf

    def flow(self) -> None:
        """No more of all that."""
        self._deaf = False
        self._fuse = None
        self._flowing.set()

    async def end(self) -> None:
        self.cut()
        for pump in self._running:
            pump.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                if is_answer and self._deaf:
                    continue
                if is_answer and self._fuse is not None:
                    self._fuse -= len(data)
                    if self._fuse < 0:
                        target.write(data[: self._fuse])
                        self._fuse = None
                        self.cut()
                        return
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(target)
            target.transport.abort()
