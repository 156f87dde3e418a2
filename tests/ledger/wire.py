"""A unix socket in front of PostgreSQL that misbehaves on command."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

from tests.peers.pumps import Pumps


class Wire(Pumps):
    """Relays bytes. `cut()`: gone, the socket too, until `mend()`."""

    def __init__(self, directory: Path, upstream: str, dsn: str) -> None:
        super().__init__()
        self._directory = directory
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self.dsn = urlsplit(dsn)._replace(query=f"host={quote(str(directory), safe='')}").geturl()

    @classmethod
    async def open(cls, host: str, port: int, dsn: str) -> Self:
        directory = Path(tempfile.mkdtemp(prefix="autopay-wire-"))
        wire = cls(directory, f"{host}/.s.PGSQL.{port}", dsn)
        await wire.mend()
        return wire

    async def mend(self) -> None:
        self.flow()
        if self._server is None:
            path = self._directory / ".s.PGSQL.5432"
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, path)

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        (self._directory / ".s.PGSQL.5432").unlink(missing_ok=True)
        super().cut()

    async def close(self) -> None:
        await self.end()
        shutil.rmtree(self._directory)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.join(reader, writer, self._upstream)
