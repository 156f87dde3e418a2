"""A unix socket in front of PostgreSQL that misbehaves on command."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit


class Wire:
    """Relays bytes. `cut()`: gone. `stall()`: nothing moves. `deafen()`: answers are swallowed."""

    def __init__(self, directory: Path, upstream: str, dsn: str) -> None:
        self._directory = directory
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._deaf = False
        self._pumps: set[asyncio.Task[None]] = set()
        self.dsn = urlsplit(dsn)._replace(query=f"host={quote(str(directory), safe='')}").geturl()

    @classmethod
    async def open(cls, host: str, port: int, dsn: str) -> Self:
        directory = Path(tempfile.mkdtemp(prefix="autopay-wire-"))
        wire = cls(directory, f"{host}/.s.PGSQL.{port}", dsn)
        await wire.mend()
        return wire

    async def mend(self) -> None:
        self._deaf = False
        self._flowing.set()
        if self._server is None:
            path = self._directory / ".s.PGSQL.5432"
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, path)

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        (self._directory / ".s.PGSQL.5432").unlink(missing_ok=True)
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        self._flowing.clear()

    def deafen(self) -> None:
        self._deaf = True

    async def close(self) -> None:
        self.cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        shutil.rmtree(self._directory)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        self._writers |= {writer, up_writer}
        for source, target, is_answer in ((reader, up_writer, False), (up_reader, writer, True)):
            pump = asyncio.create_task(self._pump(source, target, is_answer))
            self._pumps.add(pump)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                if not (self._deaf and is_answer):
                    target.write(data)
                    await target.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(target)
            target.transport.abort()
