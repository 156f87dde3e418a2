"""A PostgreSQL of the campaign's own, which is killed and comes back; and the way to it, which is
cut, stalled and deafened."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from proxy.ledger import migrate
from proxy.postgres import EmbeddedPostgres
from proxy.postgres.processes import read_pid_file, servers_in
from tests.peers.postgres import fresh_database, kill_servers, server_directory
from tests.peers.pumps import Pumps


class Server:
    """One cluster. `kill` and `stop_at_once` return when it answers again."""

    def __init__(self) -> None:
        self.home = server_directory()
        self._server = EmbeddedPostgres(self.home)
        self._dsn = ""
        self._template = ""

    async def start(self) -> None:
        self._dsn = await self._server.start()
        try:
            self._template = await fresh_database(self._dsn)
            await migrate(self._template)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._server.stop()
        shutil.rmtree(self.home)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def database(self) -> str:
        """The DSN of a new one with our schema, over the unix socket."""
        return await fresh_database(self._dsn, self._template)

    async def kill(self) -> None:
        """SIGKILL to every process of it, at once."""
        await self.die()
        await self._start_again()

    async def die(self) -> None:
        """The same, and it stays dead."""
        while kill_servers(self._data):
            await asyncio.sleep(0.01)

    def limit_files(self, size: int) -> None:
        """No file of it may grow past so many bytes, as if the disk were full; -1: any."""
        owner = self._data.stat()  # whose processes they are: only that account may limit them
        soft = "unlimited" if size < 0 else size
        for pid in servers_in(self._data):
            subprocess.run(
                ["prlimit", f"--pid={pid}", f"--fsize={soft}:unlimited"],
                user=owner.st_uid,
                group=owner.st_gid,
                extra_groups=[],
                check=True,
            )

    async def stop_at_once(self) -> None:
        """An immediate shutdown: no checkpoint, no word to anybody."""
        named = read_pid_file(self._data)
        if named is not None:
            os.kill(named.pid, signal.SIGQUIT)
        while servers_in(self._data):
            await asyncio.sleep(0.01)
        await self._start_again()

    @property
    def _data(self) -> Path:
        return self.home / "postgres" / "data"

    async def _start_again(self) -> None:
        await self._server.stop()
        self._server = EmbeddedPostgres(self.home)
        await self._server.start()


class Relay(Pumps):
    """A TCP port in front of the server's unix socket."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        url = urlsplit(dsn)
        self._dsn = url
        directory = url.query.partition("host=")[2].replace("%2F", "/")
        self._socket = f"{directory}/.s.PGSQL.5432"
        self._listener: asyncio.Server
        self.dsn = ""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.dsn = self._dsn._replace(netloc=f"autopay@127.0.0.1:{port}", query="").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self.end()

    def lead_to(self, socket: str) -> None:
        """Another server's socket, from now on."""
        self._socket = socket
        self.cut()

    def mend(self) -> None:
        if self.deaf:
            self.cut()  # half an answer later, nobody would understand the next
        self.flow()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.join(reader, writer, self._socket)
        except OSError:
            writer.transport.abort()


async def trouble(relay: Relay, kind: str, rng: random.Random) -> None:
    """One of cut, cut_after, deafen, stall; mended when it returns."""
    if kind == "cut":
        relay.cut()
    elif kind == "cut_after":
        relay.cut_after(rng.randrange(2_000))
        await asyncio.sleep(0.3)
    elif kind == "deafen":
        relay.deafen()
        await asyncio.sleep(rng.uniform(0.05, 0.4))
    elif kind == "stall":
        relay.stall()
        await asyncio.sleep(rng.uniform(0.2, 1.0))
    relay.mend()
